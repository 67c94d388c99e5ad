"""Parameters and FLOPs, against what the frameworks count."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm import flops
from lm.accounting.plan import device_flops
from lm.accounting.presets import PRESETS
from lm.backend import load
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.init import muon_names, parameter_shapes
from lm.mesh import Mesh
from lm.run.log import MetricsLog
from tests.lm.accounting.cases import ARCHITECTURES, FAMILY, GPT2, random_batch
from tests.lm.run.test_train import BACKENDS


def total(config: ModelConfig) -> int:
    return sum(flops.parameters(config).values())


# Parameters


def test_gpt2_has_the_published_number_of_parameters() -> None:
    """The family's options give the 124, 355, 774 and 1,558 million parameters of the published weights."""
    published = {
        "small": 124_439_808,
        "medium": 354_823_168,
        "large": 774_030_080,
        "xl": 1_557_611_200,
    }
    for size, number in published.items():
        assert total(replace(PRESETS[f"gpt2-{size}"].model, **GPT2)) == number


def test_presets_have_the_published_numbers_of_parameters() -> None:
    """They are the sums of the sizes in the hub's safetensors files."""
    published = {
        "smollm2-135m": 134_515_008,
        "llama-3-8b": 8_030_261_248,
        "llama-3.2-1b": 1_235_814_400,
        "mistral-7b": 7_241_732_096,
        "qwen2.5-0.5b": 494_032_768,
        "qwen3-0.6b": 596_049_920,
        "gemma-2-2b": 2_614_341_888,
        "gemma-3-1b": 999_885_952,
        "olmo-2-7b": 7_298_617_344,
    }
    assert {name: total(PRESETS[name].model) for name in published} == published


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
    wide = {m.name: m.flops for m in flops.matmuls(replace(model, d_head=12))}
    assert wide == {name: 3 * f if ".attn." in name else f for name, f in found.items()}


def test_a_sliding_layer_counts_its_window() -> None:
    """Full layers count every pair of tokens."""
    model = ModelConfig(100, 16, 8, 5, 2, sliding_window=3, layer_types=("sliding", "sliding", "full"))
    found = {m.name: m.flops for m in flops.matmuls(model)}
    for name in ("scores", "weighted_sum"):
        assert found[f"layers.*.attn.{name}"] == 2 * 16 * 16 * 8
        assert found[f"layers.*.attn.sliding_{name}"] == 4 * 2 * 16 * 3 * 8
    everywhere = {m.name: m.flops for m in flops.matmuls(replace(model, sliding_window=99, layer_types=()))}
    assert everywhere["layers.*.attn.sliding_scores"] == 5 * 2 * 16 * 16 * 8
    assert "layers.*.attn.scores" not in everywhere


def dots(jaxpr: Any) -> Iterator[int]:
    """Yield the FLOPs of every dot_general of a jaxpr, from its operands' shapes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            yield int(2 * inner * np.prod(equation.outvars[0].aval.shape))
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


@pytest.mark.parametrize(
    ("architecture", "member"),
    [("decoder", name) for name in FAMILY] + [("encoder", "default"), ("encoder_decoder", "gpt2")],
)
def test_flops_are_those_of_the_products(architecture: str, member: str) -> None:
    """They are exactly those that JAX traces and that torch runs; the backward pass has twice as many. XLA counts
    element-wise operations too, so slightly more."""
    import jax
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from jax_impl.sequences import MODELS

    model = ModelConfig(500, 8, 384, 1, 2, **FAMILY[member], **ARCHITECTURES[architecture])
    config = TrainConfig(model, batch_size=1)
    inputs = random_batch(config).model_inputs
    inputs = {name: array[0] for name, array in inputs.items()}
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    state = load("jax", config).init_state(config, 0)

    def forward(params: Any) -> Any:
        return MODELS[architecture](params, **jax.tree.map(jax.numpy.asarray, inputs), config=model)

    counted = sum(m.flops for m in flops.matmuls(model))
    assert sum(dots(jax.make_jaxpr(forward)(state.params).jaxpr)) == counted
    cost: Any = jax.jit(forward).lower(state.params).cost_analysis()
    measured = cost["flops"]
    assert counted == pytest.approx(measured, rel=0.02)

    torch_state = load("torch", config).init_state(config, 0)
    torch_state.model(**tensors)  # times the forms of its products
    with FlopCounterMode(display=False) as counter:
        torch_state.model(**tensors).sum().backward()
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
    inputs = {name: jax.numpy.asarray(array[0]) for name, array in random_batch(config).model_inputs.items()}
    params = load("jax", config).init_state(config, 0).params
    gradient = jax.grad(lambda p: MODELS[model.architecture](p, **inputs, config=model).sum())
    assert sum(dots(jax.make_jaxpr(gradient)(params).jaxpr)) == sum(device_flops(config, Mesh()))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_flops_of_the_optimizer_are_xlas(kind: Any) -> None:
    """Those of each weight: AdamW updates them all, or Muon those of the blocks."""
    import jax
    import jax.numpy as jnp

    from jax_impl.functional import clip_gradients
    from jax_impl.optimizer import adamw_init, adamw_update, muon_init, muon_update

    model, optimizer = ModelConfig(64, 8, 32, 1, 2), OptimizerConfig(kind=kind)
    shapes = parameter_shapes(model)
    of_muon = muon_names(model, optimizer)
    updated = of_muon or list(shapes)
    weights = {name: jnp.ones(shapes[name]) for name in updated}
    init, update, choices = (muon_init, muon_update, 2) if of_muon else (adamw_init, adamw_update, 3)

    def step(gradients: Any, state: Any, params: Any) -> Any:
        clipped, _ = clip_gradients(gradients, 1.0)
        return update(clipped, state, params, 0.1)

    cost: Any = jax.jit(step).lower(weights, init(weights), weights).cost_analysis()
    counted_weights = sum(array.size for array in weights.values())
    # Choosing between new and old values is not arithmetic.
    counted = cost["flops"] + cost["transcendentals"] - choices * counted_weights
    found = flops.optimizer_flops(model, optimizer)
    clipping = flops.CLIPPING_FLOPS * counted_weights
    assert found["muon" if of_muon else "adamw"] + clipping == pytest.approx(counted, rel=0.02)
    assert found["clipping"] == flops.CLIPPING_FLOPS * total(model)
    assert found["adamw"] == flops.ADAMW_FLOPS * (total(model) - (counted_weights if of_muon else 0))


@pytest.mark.parametrize(
    ("architecture", "devices"), [("decoder", 1), ("encoder_decoder", 1), ("decoder", 4)]
)
def test_mfu_of_a_run(
    architecture: str, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MFU is the products of a step's sequences per second, over the peak of all devices."""
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
