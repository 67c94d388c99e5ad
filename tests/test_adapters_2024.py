"""The adapters of 2024's model against torch's own layers, for either backend."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import adapters_2024 as adapters
from tests.test_adapters import (
    D_FF,
    LAYERS,
    B,
    D,
    H,
    T,
    V,
    _backend,
    assert_close,
    attend,
    attention_weights,
    both_backends,
    both_dtypes,
    leading_and_dtypes,
    normal,
    under,
)
from tokenizer.errors import InputError

__all__ = ["_backend"]  # a fixture, used by name

# The course's tests pass these by position and by name.
SIGNATURES = {
    "run_positionwise_feedforward": "d_model d_ff weights in_features",
    "run_scaled_dot_product_attention": "K Q V mask pdrop",
    "run_multihead_self_attention": "d_model num_heads attn_pdrop weights in_features",
    "run_transformer_block": "d_model num_heads d_ff attn_pdrop residual_pdrop weights in_features",
    "run_transformer_lm": "vocab_size context_length d_model num_layers num_heads d_ff attn_pdrop "
    "residual_pdrop weights in_indices",
    "run_rmsnorm": "d_model eps weights in_features",
    "run_gelu": "in_features",
}


def test_signatures() -> None:
    for name, parameters in SIGNATURES.items():
        assert list(inspect.signature(getattr(adapters, name)).parameters) == parameters.split(), name
    defaults = inspect.signature(adapters.run_scaled_dot_product_attention).parameters
    assert defaults["mask"].default is defaults["pdrop"].default is None


def feed_forward(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    return F.linear(F.gelu(F.linear(x, weights["w1.weight"])), weights["w2.weight"])


def block(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    x = x + attend(F.rms_norm(x, (D,), weights["ln1.weight"], 1e-5), under(weights, "attn."), None)
    return x + feed_forward(F.rms_norm(x, (D,), weights["ln2.weight"], 1e-5), under(weights, "ffn."))


def block_weights(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    attention = {f"attn.{name}": w for name, w in attention_weights(dtype).items()}
    shapes = {"ln1": (D,), "ln2": (D,), "ffn.w1": (D_FF, D), "ffn.w2": (D, D_FF)}
    return attention | {
        f"{name}.weight": normal(*shape, dtype=dtype, seed=seed + i) / 4
        for i, (name, shape) in enumerate(shapes.items())
    }


@both_backends
@leading_and_dtypes
def test_gelu_norm_and_feed_forward(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weights = normal(*leading, D, dtype=dtype), under(block_weights(dtype), "ffn.")
    assert_close(adapters.run_gelu(x), F.gelu(x))
    gain = {"weight": normal(D, dtype=dtype, seed=3)}
    assert_close(adapters.run_rmsnorm(D, 1e-5, gain, x), F.rms_norm(x, (D,), gain["weight"], 1e-5))
    assert_close(adapters.run_positionwise_feedforward(D, D_FF, weights, x), feed_forward(x, weights))


@both_backends
@leading_and_dtypes
def test_attention_with_its_inverted_mask(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    """True = may not attend; and keys come before queries."""
    Q, K, V_ = (
        normal(*leading, n, d, dtype=dtype, seed=i) for i, (n, d) in enumerate([(5, 8), (7, 8), (7, 3)])
    )
    hidden = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    hidden[:, 2] = False
    expected = F.scaled_dot_product_attention(Q, K, V_, attn_mask=~hidden)
    assert_close(adapters.run_scaled_dot_product_attention(K, Q, V_, hidden), expected)
    assert_close(adapters.run_scaled_dot_product_attention(K=K, Q=Q, V=V_, mask=hidden, pdrop=0.0), expected)
    assert_close(
        adapters.run_scaled_dot_product_attention(K, Q, V_), F.scaled_dot_product_attention(Q, K, V_)
    )


@both_backends
@leading_and_dtypes
def test_heads_with_weights_of_their_own(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    whole, x = attention_weights(dtype), normal(*leading, T, D, dtype=dtype, seed=9)
    apart = {"output_proj.weight": whole["output_proj.weight"]}
    for name in "qkv":
        heads = whole[f"{name}_proj.weight"].chunk(H)
        apart |= {f"{name}_heads.{i}.weight": head.clone() for i, head in enumerate(heads)}
    assert_close(adapters.run_multihead_self_attention(D, H, 0.0, apart, x), attend(x, whole, None))


@both_backends
@both_dtypes
def test_block(dtype: torch.dtype) -> None:
    weights, x = block_weights(dtype), normal(B, T, D, dtype=dtype, seed=9)
    assert_close(adapters.run_transformer_block(D, H, D_FF, 0.0, 0.0, weights, x), block(x, weights))


def lm_weights(dtype: torch.dtype) -> dict[str, Tensor]:
    names = {"token_embeddings": V, "position_embeddings": T + 2, "lm_head": V}
    weights = {f"{name}.weight": normal(n, D, dtype=dtype, seed=n) for name, n in names.items()}
    for i in range(LAYERS):
        weights |= {f"layers.{i}.{name}": w for name, w in block_weights(dtype, seed=10 * i).items()}
    return weights | {"ln_final.weight": normal(D, dtype=dtype, seed=50)}


def run_lm(
    weights: dict[str, Tensor], ids: Tensor, attn_pdrop: float = 0.0, residual_pdrop: float = 0.0
) -> Tensor:
    sizes = (V, T + 2, D, LAYERS, H, D_FF)
    return adapters.run_transformer_lm(*sizes, attn_pdrop, residual_pdrop, weights, ids).detach()


@both_backends
@both_dtypes
def test_model(dtype: torch.dtype) -> None:
    """Sequences shorter than the context too: a token's position is its index."""
    weights = lm_weights(dtype)
    ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
    x = weights["token_embeddings.weight"][ids] + weights["position_embeddings.weight"][:T]
    for i in range(LAYERS):
        x = block(x, under(weights, f"layers.{i}."))
    x = F.rms_norm(x, (D,), weights["ln_final.weight"], 1e-5)
    assert_close(run_lm(weights, ids), F.linear(x, weights["lm_head.weight"]))


@both_backends
def test_what_is_not_in_the_model_is_refused() -> None:
    weights, ids = lm_weights(torch.float32), torch.zeros((1, T + 3), dtype=torch.int64)
    with pytest.raises(InputError, match="position"):
        run_lm(weights, ids)
    with pytest.raises(InputError, match="outside 0"):
        run_lm(weights, ids[:, :2] + V)


@both_backends
def test_dropout_is_drawn_afresh_and_repeats_with_torchs_seed() -> None:
    weights, ids = lm_weights(torch.float64), torch.zeros((B, T), dtype=torch.int64)

    def seeded(function: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(3)
        return function()

    calls: list[Callable[[], Any]] = [
        lambda: run_lm(weights, ids, attn_pdrop=0.5),
        lambda: run_lm(weights, ids, residual_pdrop=0.5),
        lambda: adapters.run_scaled_dot_product_attention(
            normal(4, 5), normal(6, 5), normal(4, 3), None, 0.5
        ),
        lambda: adapters.run_transformer_block(
            D, H, D_FF, 0.3, 0.3, block_weights(torch.float64), normal(B, T, D, dtype=torch.float64)
        ).detach(),
    ]
    for call in calls:
        assert torch.equal(seeded(call), seeded(call))
        assert not torch.equal(call(), call())


@both_backends
def test_dropped_weights_average_to_attention() -> None:
    """Over many rows of the same queries, a quarter of the weights gone and the others larger by 4/3."""
    Q, K, V_ = normal(1, 2, 4).expand(4000, 2, 4), normal(1, 3, 4).expand(4000, 3, 4), torch.eye(3)
    out = adapters.run_scaled_dot_product_attention(
        K.clone(), Q.clone(), V_.expand(4000, 3, 3).clone(), None, 0.25
    )
    weights = F.scaled_dot_product_attention(Q[0], K[0], V_)
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.015)
    torch.testing.assert_close(out.mean(0), weights, rtol=0, atol=0.05)
    torch.testing.assert_close(out.amax(0), weights * 4 / 3, rtol=1e-5, atol=1e-6)
