"""Conventions of attention and blocks that other implementations have the other way."""

from typing import Any

import numpy as np
import pytest
import torch

import torch_impl.attention
from lm.config import ModelConfig
from parity import draws, oracle
from parity.case import Arrays
from tests.parity.support import assert_close, normal, outputs

PLAIN, GROUPS = "multihead_self_attention", "multihead_self_attention of groups"
EVERYTHING = {"mask": np.ones((5, 5), bool)}


def one_block(**options: Any) -> tuple[ModelConfig, Arrays]:
    """Return a block of width 8, and its weights."""
    config = ModelConfig(
        vocab_size=1, context_length=5, d_model=8, num_layers=1, num_heads=2, d_ff=6, **options
    )
    weights = oracle.submodule(draws.model_weights(np.random.default_rng(0), config), "layers.0.")
    return config, weights


def arrays(kv_width: int = 8) -> Arrays:
    """Draw an input of batch 2 with 5 positions, and weights of width 8."""
    rows = {"q": 8, "k": kv_width, "v": kv_width, "output": 8}
    weights = {f"{n}_proj.weight": normal(i, d, 8) / 8**0.5 for i, (n, d) in enumerate(rows.items())}
    return {"x": normal(9, 2, 5, 8)} | weights


def test_true_is_may_attend_here_and_masked_in_torchs_module() -> None:
    weights, mask = {n: torch.tensor(a) for n, a in arrays().items()}, torch.rand(5, 5) < 0.5
    mask |= torch.eye(5, dtype=torch.bool)
    q, k, v = (weights["x"] @ weights[f"{n}_proj.weight"].T for n in "qkv")
    ours = torch_impl.attention.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(ours, torch.nn.functional.scaled_dot_product_attention(q, k, v, mask))
    module = torch.nn.MultiheadAttention(8, 1, bias=False, batch_first=True, dtype=torch.float64)
    packed = torch.cat([weights[f"{n}_proj.weight"] for n in "qkv"])
    module.load_state_dict({"in_proj_weight": packed, "out_proj.weight": torch.eye(8).double()})
    x = weights["x"]
    torch.testing.assert_close(ours, module(x, x, x, attn_mask=~mask, need_weights=False)[0])


def test_heads_are_columns_so_positions_may_be_permuted() -> None:
    """Without a causal mask and positions, attention does not know the order of x."""
    order, given = np.array([3, 0, 4, 1, 2]), arrays()
    permuted = given | {"x": given["x"][:, order]}
    straight = outputs(PLAIN, given, EVERYTHING, dtype="float64", num_heads=4)
    for name, output in outputs(PLAIN, permuted, EVERYTHING, dtype="float64", num_heads=4).items():
        assert_close(output, straight[name][:, order], "float64")


def test_neighbouring_query_heads_share_a_key_head() -> None:
    """With 4 query heads of width 2 and 2 key heads, head 0 of the values reaches the first half alone."""
    given = arrays(kv_width=4) | {"output_proj.weight": np.eye(8)}
    config: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "eps": 1e-5}
    given |= {f"{n}_proj.bias": np.zeros(len(given[f"{n}_proj.weight"])) for n in ("q", "k", "v", "output")}
    given |= {f"{n}_norm.weight": np.ones(2) for n in "qk"}
    whole = outputs(GROUPS, given, EVERYTHING, dtype="float64", **config)
    changed = given | {"v_proj.weight": given["v_proj.weight"] * np.array([2, 2, 1, 1])[:, None]}
    for name, output in outputs(GROUPS, changed, EVERYTHING, dtype="float64", **config).items():
        assert_close(output[..., :4], 2 * whole[name][..., :4], "float64")
        assert_close(output[..., 4:], whole[name][..., 4:], "float64")


@pytest.mark.parametrize(
    ("options", "is_post"),
    [
        ({}, False),
        ({"norm_position": "post"}, True),
        ({"block": "parallel"}, False),
        ({"norm_position": "sandwich"}, False),
    ],
    ids=["pre-norm", "post-norm", "parallel", "sandwich"],
)
def test_norms_stand_where_the_config_says(options: dict[str, str], is_post: bool) -> None:
    """Without its sublayers a block with norms in its branches is the identity; a post-norm block is its norms."""
    config, weights = one_block(**options)
    weights = {n: w * 0 if "output_proj" in n or "w2" in n else w for n, w in weights.items()}
    x = normal(3, 2, 5, 8)
    statics: dict[str, Any] = {"config": config, "d_head": 4, "theta": config.rope_theta}
    constants = {"mask": oracle.causal_mask(5), "positions": np.arange(5)}
    expected = x
    if is_post:
        expected = oracle.rmsnorm(oracle.rmsnorm(x, weights["ln1.weight"]), weights["ln2.weight"])
    for output in outputs(
        "transformer_block", {"x": x} | weights, constants, dtype="float64", **statics
    ).values():
        assert_close(output, expected, "float64")


@pytest.mark.parametrize("options", [{"norm_position": "branch"}, {"norm_position": "sandwich"}])
@pytest.mark.parametrize("block", ["sequential", "parallel"])
def test_what_a_branch_adds_has_the_size_of_its_gain(options: dict[str, str], block: str) -> None:
    """The norm comes last in a branch, so that with gains of 3 a branch adds a root mean square of 3.

    Norms of what a branch reads have gains of 2. The feed-forward layer of the sequential block is silent: its norm
    then returns zeros.
    """
    config, weights = one_block(block=block, **options)
    is_sandwich = config.norm_position == "sandwich"
    gains = {
        n: np.full_like(w, 2.0 if is_sandwich and "after" not in n else 3.0)
        for n, w in weights.items()
        if n.startswith("ln")
    }
    weights |= gains | ({"ffn.w2.weight": 0 * weights["ffn.w2.weight"]} if block == "sequential" else {})
    x = normal(3, 2, 5, 8)
    statics: dict[str, Any] = {"config": config, "d_head": 4, "theta": config.rope_theta}
    constants = {"mask": oracle.causal_mask(5), "positions": np.arange(5)}
    for output in outputs(
        "transformer_block", {"x": x} | weights, constants, dtype="float64", **statics
    ).values():
        mean_square = ((output - x) ** 2).mean(-1)
        np.testing.assert_allclose(mean_square, 9.0, rtol=1e-2)  # epsilon beside small outputs
