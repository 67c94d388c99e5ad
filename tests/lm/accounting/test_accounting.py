"""What `lm accounting` says, against what the frameworks measure."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.program import compile_step
from lm import flops
from lm.accounting.memory import ACCOUNTS, Account, memory
from lm.accounting.plan import device_flops
from lm.accounting.presets import PRESETS, parse_bytes
from lm.accounting.report import account
from lm.backend import load
from lm.config import CONFIGS, ModelConfig, TrainConfig
from lm.data.batch import Batch
from lm.init import optimizer_shapes
from lm.mesh import Mesh
from lm.run.log import MetricsLog
from tests.lm.conftest import lm, refused
from tests.lm.run.test_train import BACKENDS

Capture = pytest.CaptureFixture[str]
GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "ffn": "gelu",
    "position": "learned",
    "bias": True,
    "tie_embeddings": True,
}
FAMILY: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": GPT2,
    "ablated": {"norm": "none", "ffn": "relu", "block": "parallel", "position": "none"},
    "grouped": {"norm_position": "post", "ffn": "silu", "num_kv_heads": 1, "qk_norm": True},
}


def tell(capsys: Capture, *arguments: object) -> Any:
    """What `lm accounting` prints as JSON."""
    capsys.readouterr()
    assert lm("accounting", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def total(config: ModelConfig) -> int:
    return sum(flops.parameters(config).values())


# Parameters


def test_gpt2_has_the_published_number_of_parameters() -> None:
    """124, 355, 774 and 1,558 million: those of the weights that were published, from the family's options."""
    published = {
        "small": 124_439_808,
        "medium": 354_823_168,
        "large": 774_030_080,
        "xl": 1_557_611_200,
    }
    for size, number in published.items():
        assert total(replace(PRESETS[f"gpt2-{size}"].model, **GPT2)) == number


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("member", FAMILY)
def test_parameters_are_those_of_the_backends(backend_name: Any, member: str) -> None:
    model = ModelConfig(13, 6, 8, 3, 2, **FAMILY[member])
    config = TrainConfig(model)
    backend = load(backend_name, config)
    weights = dict(backend.read_weights(backend.init_state(config, 0)))
    assert sum(w.size for w in weights.values()) == total(model)
    parts = flops.parameters(model)
    attention = sum(w.size for name, w in weights.items() if ".attn." in name)
    assert parts["layers.*.attn"] == attention
    assert parts["token_embeddings"] == weights["token_embeddings.weight"].size


# FLOPs


def test_matmuls_of_a_model_by_hand() -> None:
    model = ModelConfig(100, 16, 8, num_layers=3, num_heads=2, d_ff=24)
    found = {m.name: m.flops for m in flops.matmuls(model)}
    projection, attention, feed_forward = 2 * 3 * 16 * 8 * 8, 2 * 3 * 16 * 16 * 8, 2 * 3 * 16 * 8 * 24
    assert found == {
        **{f"layers.*.attn.{name}": projection for name in ("q_proj", "k_proj", "v_proj", "output_proj")},
        **{f"layers.*.attn.{name}": attention for name in ("scores", "weighted_sum")},
        **{f"layers.*.ffn.{name}": feed_forward for name in ("w1", "w2", "w3")},
        "lm_head": 2 * 16 * 8 * 100,
    }
    tied = {m.name: m.flops for m in flops.matmuls(replace(model, tie_embeddings=True))}
    assert tied == found
    shared = {m.name: m.flops for m in flops.matmuls(replace(model, num_kv_heads=1, ffn="relu"))}
    assert shared == {
        name: f // 2 if name[-6:] in ("k_proj", "v_proj") else f
        for name, f in found.items()
        if "w3" not in name
    }


def dots(jaxpr: Any) -> Iterator[int]:
    """FLOPs of every dot_general of a jaxpr, from its operands' shapes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            yield int(2 * inner * np.prod(equation.outvars[0].aval.shape))
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "encoder": {"architecture": "encoder"},
    # A prefix of another length, which the decoder computes on too, but its head does not.
    "encoder_decoder": {"architecture": "encoder_decoder", "prefix_length": 12},
}


@pytest.mark.parametrize(
    ("architecture", "member"),
    [("decoder", name) for name in FAMILY] + [("encoder", "default"), ("encoder_decoder", "gpt2")],
)
def test_flops_are_those_of_the_products(architecture: str, member: str) -> None:
    """Exactly those that JAX traces and that torch runs, and backward twice as many; XLA counts no more than the
    element-wise rest beside them."""
    import jax
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from jax_impl.sequences import MODELS

    model = ModelConfig(1000, 8, 768, 1, 2, **FAMILY[member], **ARCHITECTURES[architecture])
    config = TrainConfig(model, batch_size=1)
    inputs = random_batch(config).model_inputs
    inputs = tuple(array[0] for array in inputs)
    state = load("jax", config).init_state(config, 0)

    def forward(params: Any) -> Any:
        return MODELS[architecture](params, *map(jax.numpy.asarray, inputs), model)

    counted = sum(m.flops for m in flops.matmuls(model))
    assert sum(dots(jax.make_jaxpr(forward)(state.params).jaxpr)) == counted
    measured = jax.jit(forward).lower(state.params).cost_analysis()["flops"]
    assert counted == pytest.approx(measured, rel=0.02)

    torch_state = load("torch", config).init_state(config, 0)
    torch_state.model(*map(torch.tensor, inputs))  # times the forms of its products
    with FlopCounterMode(display=False) as counter:
        torch_state.model(*map(torch.tensor, inputs)).sum().backward()
    assert counter.get_total_flops() == 3 * counted
    assert flops.train_flops_per_token(model) * model.context_length == 3 * counted


@pytest.mark.parametrize(
    "options",
    [{}, {"block": "parallel"}, {"norm_position": "post"}, ARCHITECTURES["encoder_decoder"]],
    ids=str,
)
def test_flops_computed_again_are_those_of_remat(options: dict[str, Any]) -> None:
    import jax

    from jax_impl.sequences import MODELS

    model = ModelConfig(100, 8, 32, 2, 2, remat="block", **options)
    config = TrainConfig(model, batch_size=1)
    inputs = tuple(jax.numpy.asarray(array[0]) for array in random_batch(config).model_inputs)
    params = load("jax", config).init_state(config, 0).params
    gradient = jax.grad(lambda p: MODELS[model.architecture](p, *inputs, model).sum())
    assert sum(dots(jax.make_jaxpr(gradient)(params).jaxpr)) == sum(device_flops(config, Mesh()))


def test_flops_of_adamw_are_xlas() -> None:
    import jax
    import jax.numpy as jnp

    from jax_impl.functional import clip_gradients
    from jax_impl.optimizer import adamw_init, adamw_update

    model = ModelConfig(64, 8, 32, 1, 2)
    weights = [jnp.ones(total(model))]

    def step(gradients: Any, state: Any, params: Any) -> Any:
        clipped, _ = clip_gradients(gradients, 1.0)
        return adamw_update(clipped, state, params, 0.1)

    cost = jax.jit(step).lower(weights, adamw_init(weights), weights).cost_analysis()
    # But for choosing between new and old, which is no arithmetic.
    counted = cost["flops"] + cost["transcendentals"] - 3 * total(model)
    assert flops.optimizer_flops(model) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    ("architecture", "devices"), [("decoder", 1), ("encoder_decoder", 1), ("decoder", 4)]
)
def test_mfu_of_a_run(
    architecture: str, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The products of a step's sequences a second, over the peak of all devices."""
    model = ModelConfig(100, 8, 32, 2, 2, **ARCHITECTURES[architecture])
    a_step = 3 * 6 * sum(m.flops for m in flops.matmuls(model))
    config = TrainConfig(model, steps=4, batch_size=6, peak_flops=a_step)
    now = 0.0
    monkeypatch.setattr("lm.run.log.time.perf_counter", lambda: now)
    with MetricsLog(tmp_path, 0, config, {}, (), devices=devices) as log:
        for step in (1, 2):
            now += 2.0
            metrics = {"loss": 1.0, "grad_norm": 1.0, "finite": True}
            log.step(step, step * 6 * model.context_length, 1e-3, metrics)
        log.flush()
        assert log._shown["MFU"] == f"{1 / 2 / devices:.1%}"


# Memory


def random_batch(config: TrainConfig) -> Batch:
    m, rows = config.model, (config.grad_accumulation, config.batch_size // config.grad_accumulation)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, m.vocab_size, (*rows, m.context_length + 1)).astype(np.int32)
    if m.architecture == "decoder":
        return Batch(ids[..., :-1], ids[..., 1:])
    inputs, mask = ids[..., :-1], np.ones((*rows, m.context_length), bool)
    if m.architecture == "encoder":
        return Batch(inputs, ids[..., 1:], mask, np.full(rows, m.context_length, np.int32))
    prefix = rng.integers(0, m.vocab_size, (*rows, m.prefix_length)).astype(np.int32)
    return Batch(inputs, ids[..., 1:], mask, np.full(rows, m.prefix_length, np.int32), prefix)


def torch_peak(config: TrainConfig, folder: Path) -> int:
    """The most bytes that torch's allocator held at once, from the start of a state to the end of a step."""
    import torch

    backend = load("torch", config)
    start = backend.init_state(config, 0)
    weights = {name: w.copy() for name, w in backend.read_weights(start)}
    zeros = {n: np.zeros(s, config.param_dtype) for n, s in optimizer_shapes(config.model).items()}
    step, batch = backend.make_train_step(config), random_batch(config)
    with warnings.catch_warnings():
        # Of clocks and of memory from before.
        warnings.simplefilter("ignore")
        with torch.profiler.profile(profile_memory=True) as profiler:
            state = backend.load_state(config, iter(weights.items()), iter(zeros.items()))
            step(state, batch, 1e-3)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    events = sorted((e for e in trace if e["name"] == "[memory]"), key=lambda e: e["ts"])
    return int(np.cumsum([e["args"]["Bytes"] for e in events]).max())


def jax_peak(config: TrainConfig) -> int:
    """What XLA plans that the compiled step hold at once: arguments, which the results overwrite, and buffers."""
    backend = load("jax", config)
    step, state, b = backend.make_train_step(config), backend.init_state(config, 0), random_batch(config)
    plan = compile_step(step, state, b).memory_analysis()
    sizes = plan.argument_size_in_bytes, plan.temp_size_in_bytes, plan.output_size_in_bytes
    return int(sum(sizes) - plan.alias_size_in_bytes)


MEMORY_CASES = {
    "weights": TrainConfig(ModelConfig(500, 16, 128, 2, 4), batch_size=1),
    "logits": TrainConfig(ModelConfig(4000, 64, 64, 2, 4), batch_size=8),
    "attention": TrainConfig(ModelConfig(64, 192, 64, 3, 4), batch_size=4),
    "accumulation": TrainConfig(ModelConfig(300, 64, 64, 4, 4), batch_size=16, grad_accumulation=2),
    **{
        name: TrainConfig(ModelConfig(200, 64, 64, 3, 4, **FAMILY[name]), batch_size=8)
        for name in ("gpt2", "ablated", "grouped")
    },
    "encoder": TrainConfig(ModelConfig(200, 64, 64, 3, 4, architecture="encoder"), batch_size=8),
    "encoder_decoder": TrainConfig(
        ModelConfig(200, 64, 64, 3, 4, architecture="encoder_decoder", prefix_length=96), batch_size=8
    ),
    "bfloat16": TrainConfig(ModelConfig(300, 64, 64, 4, 4), batch_size=8, compute_dtype="bfloat16"),
}


@pytest.mark.parametrize("account_name", ["torch", "jax"])
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_memory_is_what_a_step_takes(account_name: Account, case: str, tmp_path: Path) -> None:
    """Within 15%, each case at another of the step's full moments."""
    config = MEMORY_CASES[case]
    measured = torch_peak(config, tmp_path) if account_name == "torch" else jax_peak(config)
    estimate = memory(config, account_name).peak(config.batch_size // config.grad_accumulation)
    assert estimate == pytest.approx(measured, rel=0.15)


@given(
    available=st.integers(1, 10**12),
    account_name=st.sampled_from(ACCOUNTS),
    model=st.sampled_from(["gpt2-small", "gpt2-xl", "owt"]),
)
def test_the_largest_batch_fits_and_one_more_does_not(
    available: int, account_name: Account, model: str
) -> None:
    account = memory(PRESETS[model], account_name)
    sequences = account.largest_batch(available)
    assert account.peak(sequences + 1) > available
    assert sequences == 0 or account.peak(sequences) <= available


def test_the_courses_formula_of_memory() -> None:
    """layers (16 T D + 2 H T^2) + T D + 2 T V activations a sequence, where d_ff is 4 d_model."""
    m = PRESETS["gpt2-xl"].model
    T, D, H, V = m.context_length, m.d_model, m.num_heads, m.vocab_size
    line = memory(PRESETS["gpt2-xl"], "course").line
    assert line.per_sequence == 4 * (m.num_layers * (16 * T * D + 2 * H * T * T) + T * D + 2 * T * V)
    assert line.fixed == 16 * total(m)


def test_remat_keeps_the_inputs_of_blocks() -> None:
    plain = TrainConfig(ModelConfig(100, 64, 32, 8, 2))
    config = replace(plain, model=replace(plain.model, remat="block"))
    for name in ("torch", "jax"):
        kept = memory(config, name).activations
        assert kept["block inputs"] == 8 * 64 * 32 * 4
        assert memory(config, name).peak(16) < memory(plain, name).peak(16) / 3


# The command


def test_flags_recompute(capsys: Capture) -> None:
    before, after = (tell(capsys, "gpt2-xl", *f) for f in ((), ("--context-length", 16384)))
    shares = [{m["name"]: m["share"] for m in facts["forward"]["matmuls"]} for facts in (before, after)]
    assert shares[0]["layers.*.attn.scores"] < 0.05 < 0.25 < shares[1]["layers.*.attn.scores"]
    assert before["parameters"] == after["parameters"]
    # What follows from d_model follows a flag that changes it.
    assert tell(capsys, CONFIGS / "demo.toml", "--d-model", 256)["model"]["d_ff"] == 704
    assert tell(capsys, "gpt2-small", "--compute-dtype", "bfloat16")["memory"]["torch"]["a"] < (
        0.8 * before["memory"]["torch"]["a"]
    )


def test_days_of_training(capsys: Capture) -> None:
    flags = ("--batch-size", 1024, "--peak-flops", 19.5e12)
    by_steps = tell(capsys, "gpt2-xl", *flags, "--steps", 400_000)
    training = by_steps["training"]
    seconds = 3 * by_steps["forward"]["flops"] * 1024 * 400_000 / (0.5 * 19.5e12)
    assert training["days"] == pytest.approx(seconds / 86_400)
    assert training["flops_per_token"] == flops.train_flops_per_token(PRESETS["gpt2-xl"].model)
    by_tokens = tell(capsys, "gpt2-xl", *flags, "--tokens", training["tokens"], "--mfu", 0.25)
    assert by_tokens["training"]["steps"] == 400_000
    assert by_tokens["training"]["days"] == pytest.approx(2 * training["days"])
    assert "days" not in tell(capsys, "gpt2-xl")["training"]


def test_the_table_says_what_json_says(capsys: Capture) -> None:
    flags = ("gpt2-small", "--memory", "80GB", "--peak-flops", 312e12)
    facts = tell(capsys, *flags)
    assert facts == json.loads(
        json.dumps(account(replace(PRESETS["gpt2-small"], peak_flops=312e12), 0.5, None, 8 * 10**10))
    )
    assert lm("accounting", *flags) == 0
    table = capsys.readouterr().out
    assert f"{facts['parameters']['total']:,}" in table
    assert f"{facts['training']['days']:,.2f} days" in table
    for product in facts["forward"]["matmuls"]:
        (line,) = [
            line for line in table.split("\n") if line.startswith(product["name"] + " ") and " x " in line
        ]
        assert line.split()[-2:] == [f"{product['flops']:.4g}", f"{product['share']:.2%}"]
    (line,) = [line for line in table.split("\n") if line.startswith("most at once in 80.000 GB")]
    assert line.split()[-3:] == [str(facts["memory"][name]["largest_batch"]) for name in ACCOUNTS]


def test_sizes_of_memory() -> None:
    assert [parse_bytes(text) for text in ("80GB", "80GiB", "24 gb", "0.5TB", "7B")] == [
        80 * 10**9,
        80 * 2**30,
        24 * 10**9,
        5 * 10**11,
        7,
    ]


def test_wrong_input_is_refused(capsys: Capture) -> None:
    for arguments, said in (
        (("gpt2-tiny",), "gpt2-small"),
        ((), "no config is given"),
        (("missing.toml",), "missing.toml"),
        (("gpt2-xl", "--num-heads", 7), "not divisible"),
        (("gpt2-xl", "--mfu", 0), "mfu"),
        (("gpt2-xl", "--memory", "much"), "80GB"),
        (("gpt2-xl", "--memory", "0GB"), "80GB"),
        (
            ("gpt2-xl", "--memory", "80"),
            "'80' is not a size of memory: give a number and its unit, such as 80GB",
        ),
        (("gpt2-xl", "--memory", "80G"), "its unit"),
        (("gpt2-xl", "--tokens", "nan"), "tokens"),
        (("gpt2-xl", "--peak-flops", -1), "peak_flops"),
    ):
        assert said in refused(capsys, "accounting", *arguments)
