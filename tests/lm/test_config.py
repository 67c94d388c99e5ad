"""A run's settings: which are accepted, and the one-line errors for the others."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.cli.commands import parse
from lm.config import ModelConfig, OptimizerConfig, TrainConfig, from_dict, load_config
from tokenizer.errors import InputError

MODEL: dict[str, Any] = {
    "vocab_size": 100,
    "context_length": 16,
    "d_model": 48,
    "num_layers": 2,
    "num_heads": 4,
}
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("d_model", "d_ff"), [(6, 64), (24, 64), (40, 128), (64, 192), (128, 320), (512, 1344), (768, 2048)]
)
def test_d_ff_is_the_multiple_of_64_nearest_to_eight_thirds(d_model: int, d_ff: int) -> None:
    assert ModelConfig(**MODEL | {"d_model": d_model, "num_heads": 1}).d_ff == d_ff
    assert abs(d_ff - 8 / 3 * d_model) <= 32 or d_ff == 64


@pytest.mark.parametrize("ffn", ["silu", "gelu", "relu"])
def test_d_ff_without_a_gate_is_four_times_d_model(ffn: Any) -> None:
    assert ModelConfig(**MODEL, ffn=ffn).d_ff == 4 * 48


def test_a_config_says_only_what_was_given_and_can_be_copied() -> None:
    """Which sizes were filled in is not part of a config's fields, but its copies know it."""
    config = ModelConfig(20, 8, 16, 1, 2)
    assert ModelConfig(**vars(config)) == config
    for copied in (copy.copy(config), copy.deepcopy(config)):
        assert copied == config
        assert copied.filled_in == config.filled_in == {"d_ff", "d_head", "num_kv_heads", "prefix_length"}


def test_sizes_that_are_left_out_are_filled_in() -> None:
    assert ModelConfig(**MODEL).num_kv_heads == 4
    assert ModelConfig(**MODEL).prefix_length is None
    assert ModelConfig(**MODEL, architecture="encoder_decoder").prefix_length == 16
    assert ModelConfig(**MODEL, architecture="encoder_decoder", prefix_length=5).prefix_length == 5


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none"])
def test_only_rope_needs_pairs(position: Any) -> None:
    assert ModelConfig(**MODEL | {"num_heads": 16}, position=position).d_head == 3


def test_layer_types_repeat_until_the_last_layer() -> None:
    sizes = MODEL | {"num_layers": 5}
    config = ModelConfig(**sizes, sliding_window=4, layer_types=("sliding", "sliding", "full"))
    assert [config.layer_type(i)[0] for i in range(5)] == ["s", "s", "f", "s", "s"]
    assert config.used_layer_types == ("sliding", "full")
    assert ModelConfig(**sizes, sliding_window=4).used_layer_types == ("sliding",)
    assert ModelConfig(**sizes).used_layer_types == ("full",)
    assert from_dict(ModelConfig, json.loads(json.dumps(dataclasses.asdict(config))), "here") == config


def test_an_old_config_is_still_the_decoder_that_it_was() -> None:
    old = MODEL | {"d_ff": 64, "rope_theta": 500.0}
    config = from_dict(ModelConfig, old, "here")
    assert dataclasses.asdict(config).items() >= old.items()
    assert (config.architecture, config.norm, config.norm_position) == ("decoder", "rmsnorm", "pre")
    assert (config.norm_eps, config.block, config.position) == (1e-5, "sequential", "rope")
    assert (config.ffn, config.bias, config.tie_embeddings) == ("swiglu", False, False)
    assert (config.num_kv_heads, config.qk_norm, config.remat) == (4, False, "none")
    assert (config.embedding_dropout, config.attention_dropout, config.residual_dropout) == (0, 0, 0)
    assert from_dict(TrainConfig, {"model": old}, "here").documents == "joined"


def test_defaults() -> None:
    config = TrainConfig(ModelConfig(**MODEL))
    assert config.optimizer == OptimizerConfig()
    assert config.model.d_head == 12
    assert config.model.rope_theta == 10_000.0


@pytest.mark.parametrize(
    ("compute", "param"), [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_weights_are_at_least_float32(compute: Any, param: str) -> None:
    assert TrainConfig(ModelConfig(**MODEL), compute_dtype=compute).param_dtype == param


BAD_VALUES: list[tuple[type, dict[str, Any], str]] = [
    *((ModelConfig, {name: bad}, name) for name in [*MODEL, "d_ff", "rope_theta"] for bad in (0, -1)),
    (ModelConfig, {"rope_theta": NAN}, "rope_theta"),
    (ModelConfig, {"rope_theta": INFINITY}, "rope_theta"),
    (ModelConfig, {"num_heads": 5}, "d_model 48 is not divisible by num_heads 5"),
    (ModelConfig, {"num_heads": 16}, "d_head 3 is odd"),
    *((ModelConfig, {name: bad}, name) for name in ("num_kv_heads", "norm_eps") for bad in (0, -1)),
    (ModelConfig, {"num_kv_heads": 3}, "num_heads 4 is not divisible by num_kv_heads 3"),
    (ModelConfig, {"num_kv_heads": 8}, "num_heads 4 is not divisible by num_kv_heads 8"),
    *(
        (ModelConfig, {name: "other"}, f"{name} is 'other': give ")
        for name in ("architecture", "norm", "norm_position", "block", "position", "ffn", "remat")
    ),
    *(
        (ModelConfig, {name: "other"}, f"{name} is 'other': give ")
        for name in ("norm_gain", "rope_scaling", "attention_bias", "qk_norm_over")
    ),
    *(
        (ModelConfig, {name: bad}, name)
        for name in ("d_head", "score_dim", "score_softcap", "logit_softcap", "sliding_window", "rope_factor")
        for bad in (0, -1)
    ),
    (ModelConfig, {"d_head": 7}, "d_head 7 is odd"),
    (ModelConfig, {"rope_factor": 0.5}, "rope_factor is 0.5: give at least 1"),
    (ModelConfig, {"rope_low_freq_factor": 4.0}, "rope_high_freq_factor 4.0 is not above"),
    (
        ModelConfig,
        {"rope_scaling": "linear", "position": "none"},
        "rope_scaling is linear, but position is none",
    ),
    (ModelConfig, {"layer_types": ("sliding",)}, "sliding_window is None, and layer_types is sliding"),
    (
        ModelConfig,
        {"layer_types": ("full",), "sliding_window": 4},
        "sliding_window is 4, and layer_types is full",
    ),
    (ModelConfig, {"layer_types": ("full", "other")}, "layer_types holds 'other': give full or sliding"),
    (ModelConfig, {"sliding_rope_theta": 5.0}, "sliding_rope_theta is 5.0, but no layer slides"),
    (
        ModelConfig,
        {"sliding_window": 4, "architecture": "encoder"},
        "sliding_window is 4, but architecture is",
    ),
    *(
        (ModelConfig, {f"{name}_dropout": bad}, f"{name}_dropout")
        for name in ("embedding", "attention", "residual")
        for bad in (-0.1, 1.0, NAN)
    ),
    (ModelConfig, {"prefix_length": 8}, "prefix_length is 8, but architecture decoder has no prefix"),
    (ModelConfig, {"prefix_length": 0, "architecture": "encoder_decoder"}, "prefix_length is 0"),
    *(
        (OptimizerConfig, {name: bad}, name)
        for name in ("learning_rate", "eps", "max_grad_norm")
        for bad in (0.0, -1.0, NAN, INFINITY)
    ),
    *((OptimizerConfig, {"weight_decay": bad}, "weight_decay") for bad in (-0.1, NAN, INFINITY)),
    (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps"),
    *((OptimizerConfig, {"min_learning_rate": bad}, "min_learning_rate") for bad in (-1e-9, 1.0, NAN)),
    *((OptimizerConfig, {name: bad}, name) for name in ("beta1", "beta2") for bad in (-0.1, 1.0, NAN)),
    *(
        (TrainConfig, {name: 0}, name)
        for name in (
            "steps",
            "batch_size",
            "grad_accumulation",
            "log_interval",
            "eval_interval",
            "save_interval",
            "threads",
        )
    ),
    *((ModelConfig, {name: 2**63}, f"{name} is {2**63}: give at most 2,147,483,647") for name in MODEL),
    *((TrainConfig, {"z_loss": bad}, "z_loss") for bad in (-0.1, NAN, INFINITY)),
    *((OptimizerConfig, {"decay_share": bad}, "decay_share") for bad in (0.0, 1.1, NAN)),
    *((OptimizerConfig, {"muon_learning_rate": bad}, "muon_learning_rate") for bad in (0.0, NAN, INFINITY)),
    (OptimizerConfig, {"muon_momentum": 1.0}, "muon_momentum"),
    *((OptimizerConfig, {"average_decay": bad}, "average_decay") for bad in (0.0, 1.0, NAN)),
    *((OptimizerConfig, {n: "other"}, n) for n in ("kind", "adamw", "muon_scale", "muon_dtype")),
    (TrainConfig, {"batch_size": 2**31}, f"batch_size is {2**31}: give at most 2,147,483,647"),
    (TrainConfig, {"threads": -1}, "threads is -1: give 1 to 1024"),
    (TrainConfig, {"threads": 100_000}, "threads is 100000: give 1 to 1024"),
    (TrainConfig, {"seed": -1}, "seed"),
    (TrainConfig, {"seed": 2**64}, "seed"),
    (TrainConfig, {"batch_size": 6, "grad_accumulation": 4}, "batch_size 6 is not divisible"),
    (TrainConfig, {"compute_dtype": "float16"}, "compute_dtype is 'float16'"),
    (TrainConfig, {"documents": "other"}, "documents is 'other': give joined or packed"),
    (TrainConfig, {"end_token": 5}, "end_token is 5: packed documents and .* in eval_by windows none"),
    (TrainConfig, {"eval_by": "other"}, "eval_by is 'other': give windows or documents"),
    *(
        (
            TrainConfig,
            {"eval_by": "documents", "model": MODEL | {"architecture": other}},
            f"eval_by is documents, but only a decoder .* architecture is {other}: give windows",
        )
        for other in ("encoder", "encoder_decoder")
    ),
    (TrainConfig, {"documents": "packed", "end_token": 100}, "end_token is 100: .* 0 to vocab_size - 1 = 99"),
    *(
        (
            TrainConfig,
            {"documents": "packed", "model": MODEL | {"architecture": other}},
            f"documents is packed, but only a decoder packs documents, and architecture is {other}",
        )
        for other in ("encoder", "encoder_decoder")
    ),
]


@pytest.mark.parametrize(("cls", "values", "message"), BAD_VALUES)
def test_a_bad_value_is_named_in_one_line(cls: type, values: dict[str, Any], message: str) -> None:
    required = {ModelConfig: MODEL, OptimizerConfig: {}, TrainConfig: {"model": MODEL}}[cls]
    with pytest.raises(InputError, match=f"^here: .*{message}.*$") as caught:
        from_dict(cls, required | values, "here")
    assert "\n" not in str(caught.value)


BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"steps": True}, "here: steps is True: give a whole number"),
    ({"steps": 1.0}, "here: steps is 1.0: give a whole number"),
    ({"steps": "1"}, "here: steps is '1': give a whole number"),
    ({"steps": None}, "here: steps is None: give a whole number"),
    ({"threads": 1.5}, "here: threads is 1.5: give a whole number or nothing"),
    ({"device": 0}, "here: device is 0: give a text"),
    ({"compute_dtype": 32}, "here: compute_dtype is 32: give a text"),
    ({"optimizer": {"eps": False}}, "here: optimizer: eps is False: give a number"),
    ({"optimizer": {"eps": "1e-8"}}, "here: optimizer: eps is '1e-8': give a number"),
    ({"optimizer": {"eps": 10**400}}, "here: optimizer: eps is 1000"),
    ({"optimizer": []}, "here: optimizer: expected a table of keys, found []"),
    ({"model": 3}, "here: model: expected a table of keys, found 3"),
    ({"model": {"vocab_size": 3}}, "here: model: the key 'context_length' is missing"),
    ({"steps": 3, "learning_rate": 1.0}, "here: unknown key 'learning_rate'; known are model, optimizer, "),
    ({"optimizer": {"betas": [0.9, 0.95]}}, "here: optimizer: unknown key 'betas'; known are learning_rate"),
    ({"a\nb": 3}, r"here: unknown key 'a\nb'"),
]


@pytest.mark.parametrize(("values", "message"), BAD_TYPES)
def test_a_key_or_type_that_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(TrainConfig, {"model": MODEL} | values, "here")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_model_must_be_given() -> None:
    with pytest.raises(InputError, match="the key 'model' is missing"):
        from_dict(TrainConfig, {}, "here")
    with pytest.raises(InputError, match="expected a table of keys, found 3"):
        from_dict(TrainConfig, 3, "here")


def test_a_float_accepts_an_integer() -> None:
    config = from_dict(TrainConfig, {"model": MODEL | {"rope_theta": 500}}, "here")
    assert config.model.rope_theta == 500.0
    assert type(config.model.rope_theta) is float


@given(
    st.integers(1, 64),
    st.integers(1, 8),
    st.floats(1e-6, 1.0),
    st.sampled_from(["float32", "bfloat16", "float64"]),
    st.none() | st.integers(1, 64),
    st.integers(0, 2**64 - 1),
)
def test_a_config_comes_back_from_its_own_dict(
    pairs: int, heads: int, lr: float, dtype: Any, threads: int | None, seed: int
) -> None:
    config = TrainConfig(
        ModelConfig(**MODEL | {"d_model": 2 * pairs * heads, "num_heads": heads}),
        OptimizerConfig(learning_rate=lr, min_learning_rate=lr / 10),
        seed=seed,
        compute_dtype=dtype,
        threads=threads,
    )
    assert from_dict(TrainConfig, dataclasses.asdict(config), "here") == config


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*MODEL, "model", "x"]), inner)
    ),
    max_leaves=8,
)
keys = st.sampled_from([f.name for f in dataclasses.fields(TrainConfig)])


@given(st.dictionaries(keys, json_values))
def test_whatever_the_values_the_error_is_one_line(values: dict[str, Any]) -> None:
    message = "here: "
    try:
        from_dict(TrainConfig, {"model": MODEL} | values, "here")
    except InputError as error:
        message = str(error)
    assert message.startswith("here: ")
    assert "\n" not in message


TOML = """
steps = 20
device = "cpu"
[model]
vocab_size = 100
context_length = 16
d_model = 48
num_layers = 2
num_heads = 4
[optimizer]
learning_rate = 1
"""


def test_a_config_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOML, encoding="utf-8")
    optimizer = OptimizerConfig(learning_rate=1.0)
    assert load_config(path) == TrainConfig(ModelConfig(**MODEL), optimizer, steps=20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps = ", "not a TOML file"),
        (b"steps = 1\nsteps = 2", "not a TOML file"),
        (b"\xff", "not a TOML file"),
        (b"steps = " + b"1" * 5000, "not a TOML file"),
        (b"", "the key 'model' is missing"),
        (TOML.replace("d_model = 48", "d_model = 47").encode(), "model: d_model 47 is not divisible"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_named_in_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.toml: cannot be read"):
        load_config(tmp_path / "run.toml")


GIVEN = {"num_kv_heads": 4, "d_ff": 128, "prefix_length": 16}
"""The derived sizes of MODEL as an encoder-decoder."""


@pytest.mark.parametrize("given", [(), *[(name,) for name in GIVEN], tuple(GIVEN)])
@pytest.mark.parametrize("command", ["train", "experiment", "accounting"])
def test_a_size_that_the_file_gives_stays_whatever_the_flags_say(
    tmp_path: Path, command: str, given: tuple[str, ...]
) -> None:
    path = tmp_path / "run.toml"
    sizes = "".join(f"{name} = {GIVEN[name]}\n" for name in given)
    path.write_text(
        TOML.replace("[optimizer]", f'architecture = "encoder_decoder"\n{sizes}[optimizer]'), encoding="utf-8"
    )
    prefix = "--" if command == "accounting" else "--model."
    flags = [f"{prefix}num-heads=8", f"{prefix}d-model=96", f"{prefix}context-length=32"]
    needed = {
        "train": ["--backend", "jax", "--train", "a", "--val", "b", "--out", "c", "--config", str(path)],
        "experiment": ["all", "--config", str(path)],
        "accounting": [str(path)],
    }
    parsed = parse([command, *needed[command], *flags])
    model = parsed.model if command == "accounting" else parsed.settings.model
    follow = {"num_kv_heads": 8, "d_ff": 256, "prefix_length": 32}
    expected = follow | {name: GIVEN[name] for name in given}
    assert {name: getattr(model, name) for name in GIVEN} == expected
