"""The numbers that both backends start from."""

import dataclasses
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.config import ModelConfig
from lm.init import (
    InitialWeight,
    initial_moments,
    initial_weights,
    optimizer_shapes,
    parameter_shapes,
    position_tables,
    rope_frequencies,
    rope_tables,
    scaled_frequencies,
    sinusoidal_table,
)
from lm.rng import philox
from tests.lm.distributions import KS_LIMIT, ks_statistic, truncated_normal_cdf
from torch_impl.layers import Embedding, LayerNorm, Linear, RMSNorm

CONFIG = ModelConfig(vocab_size=11, context_length=8, d_model=8, num_layers=2, num_heads=2, d_ff=12)


FLOAT64 = np.dtype(np.float64)


def test_names_and_shapes() -> None:
    shapes = parameter_shapes(CONFIG)
    block = {
        "ln1.weight": (8,),
        "attn.q_proj.weight": (8, 8),
        "attn.k_proj.weight": (8, 8),
        "attn.v_proj.weight": (8, 8),
        "attn.output_proj.weight": (8, 8),
        "ln2.weight": (8,),
        "ffn.w1.weight": (12, 8),
        "ffn.w2.weight": (8, 12),
        "ffn.w3.weight": (12, 8),
    }
    assert shapes == {
        "token_embeddings.weight": (11, 8),
        **{f"layers.{i}.{name}": shape for i in (0, 1) for name, shape in block.items()},
        "ln_final.weight": (8,),
        "lm_head.weight": (11, 8),
    }
    moments = {f"{m}.{name}": shape for m in "mv" for name, shape in shapes.items()}
    assert optimizer_shapes(CONFIG) == moments | {"step": ()}


def changes(**options: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Names and shapes that options add or change, and names that they remove."""
    before, after = parameter_shapes(CONFIG), parameter_shapes(dataclasses.replace(CONFIG, **options))
    return {n: s for n, s in after.items() if before.get(n) != s}, set(before) - set(after)


def in_layers(**block: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the names of a block in both layers; "__" stands for a dot."""
    return {f"layers.{i}.{n.replace('__', '.')}": s for i in (0, 1) for n, s in block.items()}


def test_what_each_option_changes() -> None:
    """One option at a time, against the default."""
    norms = {f"layers.{i}.ln{j}.weight" for i in (0, 1) for j in (1, 2)} | {"ln_final.weight"}
    gates = {f"layers.{i}.ffn.w3.weight" for i in (0, 1)}
    assert changes(norm="none") == ({}, norms)
    assert changes(norm="layernorm") == ({n.replace("weight", "bias"): (8,) for n in norms}, set())
    assert changes(norm_position="post") == ({}, {"ln_final.weight"})
    assert changes(block="parallel") == ({}, {"layers.0.ln2.weight", "layers.1.ln2.weight"})
    assert changes(position="learned") == ({"position_embeddings.weight": (8, 8)}, set())
    for position in ("sinusoidal", "none"):
        assert changes(position=position) == ({}, set())
    for ffn in ("silu", "gelu", "gelu_tanh", "relu", "relu2"):
        assert changes(ffn=ffn) == ({}, gates)
    assert changes(ffn="geglu_tanh") == ({}, set())
    assert changes(norm_gain="one_plus_weight") == ({}, set())
    assert changes(norm_position="branch") == ({}, set())
    assert changes(norm_position="sandwich") == (
        in_layers(ln1_after__weight=(8,), ln2_after__weight=(8,)),
        set(),
    )
    assert changes(norm_position="sandwich", block="parallel") == (
        in_layers(ln1_after__weight=(8,)),
        {"layers.0.ln2.weight", "layers.1.ln2.weight"},
    )
    after = in_layers(ln1_after__bias=(8,), ln2_after__bias=(8,))
    assert changes(norm="layernorm", norm_position="sandwich")[0].items() >= after.items()
    for options in (
        {"score_dim": 9.0, "score_softcap": 5.0, "logit_softcap": 5.0, "scale_embeddings": True},
        {"rope_scaling": "llama3", "rope_factor": 8.0},
        {"sliding_window": 3, "layer_types": ("sliding", "full"), "sliding_rope_theta": 100.0},
    ):
        assert changes(**options) == ({}, set())
    biases = {f"attn__{name}_proj__bias": (8,) for name in ("q", "k", "v", "output")}
    biases |= {"ffn__w1__bias": (12,), "ffn__w2__bias": (8,), "ffn__w3__bias": (12,)}
    assert changes(bias=True) == (in_layers(**biases), set())
    of_qkv = {f"attn__{name}_proj__bias": (8,) for name in "qkv"}
    of_ffn = {"ffn__w1__bias": (12,), "ffn__w2__bias": (8,), "ffn__w3__bias": (12,)}
    assert changes(attention_bias="qkv") == (in_layers(**of_qkv), set())
    assert changes(attention_bias="all") == (in_layers(**of_qkv, attn__output_proj__bias=(8,)), set())
    assert changes(attention_bias="none", bias=True) == (in_layers(**of_ffn), set())
    wide = {f"attn__{name}_proj__weight": (12, 8) for name in "qkv"} | {"attn__output_proj__weight": (8, 12)}
    assert changes(d_head=6) == (in_layers(**wide), set())
    assert changes(tie_embeddings=True) == ({}, {"lm_head.weight"})
    shared = {f"attn__{name}_proj__weight": (4, 8) for name in "kv"}
    assert changes(num_kv_heads=1) == (in_layers(**shared), set())
    assert changes(num_kv_heads=1, bias=True)[0].items() >= in_layers(attn__k_proj__bias=(4,)).items()
    assert changes(qk_norm=True) == (in_layers(attn__q_norm__weight=(4,), attn__k_norm__weight=(4,)), set())
    both = {"num_kv_heads": 1, "qk_norm": True, "qk_norm_over": "all_heads"}
    gains = in_layers(attn__q_norm__weight=(8,), attn__k_norm__weight=(4,))
    assert changes(**both) == (gains | in_layers(**shared), set())
    assert changes(architecture="encoder") == ({}, set())
    assert changes(embedding_dropout=0.1, attention_dropout=0.1, residual_dropout=0.1) == ({}, set())


def test_an_encoder_decoder_is_two_stacks_and_one_head() -> None:
    config = dataclasses.replace(CONFIG, architecture="encoder_decoder", position="learned", prefix_length=5)
    one = dict(parameter_shapes(dataclasses.replace(CONFIG, position="learned")))
    shapes = parameter_shapes(config)
    assert {n[8:]: s for n, s in shapes.items() if n.startswith("decoder.")} == one
    del one["lm_head.weight"]
    one["position_embeddings.weight"] = (5, 8)
    assert {n[8:]: s for n, s in shapes.items() if n.startswith("encoder.")} == one
    assert len(shapes) == 2 * len(one) + 1


def weights(config: ModelConfig, seed: int, dtype: str = "float64") -> dict[str, np.ndarray]:
    return {name: leaf[...] for name, leaf in initial_weights(config, seed, dtype)}


def test_tied_embeddings_start_smaller() -> None:
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    for name, weight in weights(tied, 0).items():
        scale = 8**-0.5 if "embeddings" in name else 1
        np.testing.assert_allclose(weight, scale * weights(CONFIG, 0)[name], rtol=1e-15)


def test_weights_are_pinned() -> None:
    """If these numbers change, every earlier run changes. The last bit may differ between processors."""
    np.testing.assert_allclose(
        InitialWeight("layers.0.ffn.w1.weight", (2, 3), FLOAT64, 7)[...],
        [
            [0.4420094927170431, 0.9191915668928619, -0.2607867878291517],
            [-0.8814570621662451, 0.11930923292120499, 0.3210993902357249],
        ],
        rtol=1e-14,
    )


def test_a_leaf_of_one_block_is_one_stream() -> None:
    """A leaf of one block has the numbers that it had before blocks existed. Blocks have different streams."""
    leaf = InitialWeight("layers.1.attn.q_proj.weight", (300, 40), FLOAT64, 7)
    assert leaf.block == 2**23
    whole = leaf[...]
    np.testing.assert_allclose(whole.sum(), -7.444507436441501, rtol=1e-12)
    np.testing.assert_allclose(whole.ravel() @ np.arange(12_000) / 12_000, -2.9230990518213487, rtol=1e-12)
    np.testing.assert_array_equal(dataclasses.replace(leaf, block=12_000)[...], whole)
    # Two of 150 rows.
    two = dataclasses.replace(leaf, block=6000)[...]
    assert not np.isin(two[150:], two[:150]).any()


ENDS = st.one_of(st.none(), st.integers(0, 9))


@given(st.tuples(st.builds(slice, ENDS, ENDS), st.builds(slice, ENDS, ENDS)), st.integers(1, 70))
def test_slices_of_a_leaf_are_those_of_the_whole(index: tuple[slice, slice], block: int) -> None:
    """Only the blocks that hold some of the slice are drawn, each once."""
    leaf = InitialWeight("lm_head.weight", (9, 7), np.dtype(np.float32), 3, block=block)
    whole, height = leaf[...], max(1, block // 7)
    drawn: list[int] = []

    def noted(*stream: Any) -> Any:
        drawn.append(stream[2])
        return philox(*stream)

    with mock.patch("lm.init.philox", noted):
        part = leaf[index]
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, whole[index])
    rows = np.arange(9)[index[0]] if part.size else np.arange(0)
    assert drawn == sorted({*(rows // height)})
    np.testing.assert_array_equal(leaf[index[:1]], whole[index[:1]])


def test_slices_of_gains_and_moments() -> None:
    leaf = InitialWeight("ln_final.weight", (6,), np.dtype(np.float32), 0)
    np.testing.assert_array_equal(leaf[2:5,], np.ones(3, np.float32))
    moments = dict(initial_moments(CONFIG, "float32"))
    assert {name: leaf.shape for name, leaf in moments.items()} == optimizer_shapes(CONFIG)
    assert {str(leaf.dtype) for name, leaf in moments.items()} == {"float32", "int32"}
    assert not any(leaf.any() for leaf in moments.values())


@given(st.integers(0, 2**64 - 1), st.permutations(list(parameter_shapes(CONFIG))))
def test_a_weight_depends_on_its_seed_and_name_alone(seed: int, names: list[str]) -> None:
    shapes, found = parameter_shapes(CONFIG), weights(CONFIG, seed)
    assert list(found) == list(shapes)
    for name in names[:5]:
        np.testing.assert_array_equal(InitialWeight(name, shapes[name], FLOAT64, seed)[...], found[name])
    deeper = ModelConfig(vocab_size=11, context_length=4, d_model=8, num_layers=3, num_heads=4, d_ff=12)
    assert all((w == found[n]).all() for n, w in weights(deeper, seed).items() if n in found)


def test_no_two_weights_are_equal() -> None:
    firsts = [w.ravel()[:4] for seed in (0, 1) for w in weights(CONFIG, seed).values()]
    random = [tuple(w) for w in firsts if (w != 1).any()]
    assert len(random) == 2 * (2 + 2 * 7)
    assert len(set(random)) == len(random)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_rounded_once_to_their_dtype(dtype: str) -> None:
    for name, weight in weights(CONFIG, 5, dtype).items():
        assert weight.dtype == dtype
        np.testing.assert_array_equal(
            weight, InitialWeight(name, weight.shape, FLOAT64, 5)[...].astype(dtype)
        )


@pytest.mark.parametrize(
    ("name", "shape", "std"),
    [
        ("token_embeddings.weight", (400, 100), 1.0),
        ("lm_head.weight", (400, 100), 0.0632455532),  # sqrt(2 / 500)
        ("layers.3.ffn.w2.weight", (100, 400), 0.0632455532),
        ("layers.0.attn.q_proj.weight", (200, 200), 0.0707106781),  # sqrt(2 / 400)
    ],
)
def test_weights_are_normal_truncated_at_three_sigma(name: str, shape: tuple[int, int], std: float) -> None:
    # In blocks of 64 rows or more, and the last of fewer.
    weight = InitialWeight(name, shape, FLOAT64, 0, block=64 * 100)[...]
    assert weight.shape == shape
    assert ks_statistic(weight.ravel(), truncated_normal_cdf(3.0, std)) < KS_LIMIT


def test_norms_start_at_one() -> None:
    assert (InitialWeight("layers.0.ln1.weight", (6,), FLOAT64, 0)[...] == 1).all()


def test_weights_of_norms_start_at_zero_if_1_is_added_to_them() -> None:
    config = dataclasses.replace(
        CONFIG, norm="layernorm", norm_gain="one_plus_weight", norm_position="sandwich", qk_norm=True
    )
    gains = {name: w for name, w in weights(config, 0).items() if "norm." in name or "ln" in name}
    assert len(gains) == 2 * (4 * 2 + 2) + 2
    assert not any(w.any() for w in gains.values())


def test_scaled_embeddings_start_smaller_and_end_with_a_standard_deviation_of_1() -> None:
    scaled = dataclasses.replace(CONFIG, scale_embeddings=True)
    for name, weight in weights(scaled, 0).items():
        scale = 8**-0.5 if "embeddings" in name else 1
        np.testing.assert_allclose(weight, scale * weights(CONFIG, 0)[name], rtol=1e-15)


def test_biases_start_at_zero() -> None:
    assert (InitialWeight("layers.0.ln1.bias", (6,), FLOAT64, 0)[...] == 0).all()
    assert (InitialWeight("layers.0.attn.q_proj.bias", (6,), FLOAT64, 0)[...] == 0).all()


@given(st.floats(2, 1e6), st.integers(1, 16), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_rope_tables_are_angles_of_unit_vectors(theta: float, pairs: int, positions: list[int]) -> None:
    cos, sin = rope_tables(theta, 2 * pairs, np.array(positions))
    assert cos.shape == sin.shape == (len(positions), pairs)
    assert cos.dtype == sin.dtype == np.float64
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-14)
    # The first pair turns by one radian a position, the others ever more slowly.
    np.testing.assert_array_equal(cos[:, 0], np.cos(positions))
    p = pairs - 1
    np.testing.assert_allclose(
        np.exp(1j * np.array(positions) * theta ** (-p / pairs)), cos[:, p] + 1j * sin[:, p], atol=1e-9
    )


LLAMA31 = ModelConfig(
    vocab_size=1,
    context_length=131_072,
    d_model=256,
    num_layers=1,
    num_heads=2,
    d_ff=1,
    rope_theta=500_000.0,
    rope_scaling="llama3",
    rope_factor=8.0,
    rope_low_freq_factor=1.0,
    rope_high_freq_factor=4.0,
    rope_original_context=8192,
)
"""RoPE of Llama 3.1's 8B and 70B models."""


def scaled(config: ModelConfig) -> np.ndarray:
    """Return RoPE's frequencies with their scaling."""
    assert config.d_head is not None
    return scaled_frequencies(config, rope_frequencies(config.rope_theta, config.d_head))


def test_frequencies_of_llama_3_1_are_the_published_ones() -> None:
    """Of 64 pairs 29 stay: their waves fit four times into 8,192 tokens. The waves of 29 do not fit once: these are
    divided by 8. The six between them are worked out one by one."""
    plain, found = [500_000.0 ** (-p / 64) for p in range(64)], scaled(LLAMA31)
    np.testing.assert_allclose(found[:29], plain[:29], rtol=1e-14)
    np.testing.assert_allclose(found[35:], np.array(plain[35:]) / 8, rtol=1e-14)
    for p in range(29, 35):
        wavelength = 2 * math.pi / plain[p]
        assert 8192 / 4 < wavelength < 8192 / 1
        smooth = (8192 / wavelength - 1) / (4 - 1)
        assert found[p] == pytest.approx((1 - smooth) * plain[p] / 8 + smooth * plain[p], rel=1e-14)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LLAMA31, "llama3"),
        # Llama 3.2's 1B and 3B models.
        (dataclasses.replace(LLAMA31, rope_factor=32.0, d_head=64), "llama3"),
        (dataclasses.replace(LLAMA31, rope_scaling="linear", rope_theta=1e6), "linear"),
        (dataclasses.replace(LLAMA31, rope_low_freq_factor=2.0, rope_original_context=300), "llama3"),
    ],
)
def test_scaled_frequencies_are_those_of_transformers(config: ModelConfig, kind: str) -> None:
    """Theirs are float32."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        head_dim=config.d_head,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": kind,
            "rope_theta": config.rope_theta,
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        },
    )
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](theirs, device="cpu")
    assert attention_factor == 1.0
    np.testing.assert_allclose(scaled(config), frequencies.double().numpy(), rtol=1e-6)


@given(st.floats(1, 64), st.floats(1.0, 3.0), st.floats(3.5, 40), st.integers(16, 10**5))
def test_llama3_scaling_keeps_the_order_of_the_frequencies(
    factor: float, low: float, high: float, original: int
) -> None:
    """Each lies between the one without scaling and that divided by the factor."""
    config = dataclasses.replace(
        LLAMA31,
        rope_factor=factor,
        rope_low_freq_factor=low,
        rope_high_freq_factor=high,
        rope_original_context=original,
    )
    plain, found = rope_frequencies(500_000.0, 128), scaled(config)
    assert (found <= plain * (1 + 1e-12)).all()
    assert (found >= plain / factor * (1 - 1e-12)).all()
    assert (np.diff(found) < 0).all()


def test_tables_of_sliding_layers_have_their_own_theta_without_scaling() -> None:
    config = dataclasses.replace(
        LLAMA31, sliding_window=8, layer_types=("sliding", "full"), sliding_rope_theta=10_000.0
    )
    positions = np.arange(5)
    full, sliding = (position_tables(config, positions, 8, layer_type=kind) for kind in ("full", "sliding"))
    for table, expected in zip(sliding, rope_tables(10_000.0, 128, positions), strict=True):
        np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(full[0], np.cos(positions[:, None] * scaled(config)))
    shared = dataclasses.replace(config, sliding_rope_theta=None)
    np.testing.assert_array_equal(position_tables(shared, positions, 8, layer_type="sliding")[0], full[0])


def test_rope_tables_of_positions_in_a_batch() -> None:
    positions = np.arange(6).reshape(2, 1, 3)
    cos, _ = rope_tables(100.0, 4, positions)
    assert cos.shape == (2, 1, 3, 2)
    np.testing.assert_array_equal(cos.reshape(6, 2), rope_tables(100.0, 4, np.arange(6))[0])


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoidal_table_is_that_of_the_paper(d_model: int) -> None:
    """Compare each entry with the formula of section 3.5. If the width is odd, the last cosine is left out."""
    table = sinusoidal_table(d_model, np.array([[0, 3, 700]]))
    assert table.shape == (1, 3, d_model)
    assert table.dtype == np.float64
    for t, position in enumerate((0, 3, 700)):
        for j in range(d_model):
            angle = position / 10_000 ** (2 * (j // 2) / d_model)
            expected = np.sin(angle) if j % 2 == 0 else np.cos(angle)
            assert table[0, t, j] == pytest.approx(expected, abs=1e-12)


def test_torch_modules_of_their_own_start_with_the_same_distributions() -> None:
    """Weights that a program makes itself, without `lm.init`."""
    torch.manual_seed(0)
    std = math.sqrt(2 / (60 + 100))
    for weight, expected in (
        (Linear(60, 100).weight, truncated_normal_cdf(3, std)),
        (Embedding(100, 60).weight, truncated_normal_cdf(3)),
    ):
        assert ks_statistic(weight.detach().double().numpy().ravel(), expected) < KS_LIMIT
    assert torch.equal(RMSNorm(7).weight, torch.ones(7))
    norm, layer = LayerNorm(7), Linear(5, 7, bias=True)
    assert torch.equal(norm.weight, torch.ones(7))
    assert layer.bias is not None
    assert not norm.bias.any()
    assert not layer.bias.any()
