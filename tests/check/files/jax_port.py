# mypy: ignore-errors
"""A right port to JAX, by our names."""

from functools import partial

import jax
import jax.numpy as jnp


def softmax(x, axis):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(axis, keepdims=True)))
    return e / e.sum(axis, keepdims=True)


silu = jax.jit(lambda x: x * jax.nn.sigmoid(x))
silu.__wrapped__.__name__ = "silu"


@jax.jit
def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x):
    return jax.nn.gelu(x, approximate=True)


def cross_entropy(logits, targets):
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - picked).mean()


def linear(x, weight):
    return jnp.einsum("...i,oi->...o", x, weight)


def embedding(weight, token_ids):
    return weight[token_ids]


def rmsnorm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * weight


def layernorm(x, weight, bias, eps):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * weight + bias


def swiglu(x, w1, w2, w3):
    return linear(silu(linear(x, w1)) * linear(x, w3), w2)


def feed_forward(x, w1, w2):
    return linear(gelu(linear(x, w1)), w2)


def rope(x, positions, theta):
    K = x.shape[-1]
    angles = positions[..., None] * theta ** (-jnp.arange(0, K, 2) / K)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def scaled_dot_product_attention(Q, K, V, mask=None):
    scores = jnp.einsum("...td,...sd->...ts", Q, K) / Q.shape[-1] ** 0.5
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ V


@partial(jax.jit, static_argnames="num_heads")
def multihead_self_attention(x, q_proj, k_proj, v_proj, output_proj, num_heads, rotate=lambda y: y):
    *lead, T, D = x.shape

    def split(weight):
        return linear(x, weight).reshape(*lead, T, num_heads, -1).swapaxes(-2, -3)

    heads = scaled_dot_product_attention(
        rotate(split(q_proj)), rotate(split(k_proj)), split(v_proj), jnp.tri(T, dtype=bool)
    )
    return linear(heads.swapaxes(-2, -3).reshape(*lead, T, D), output_proj)


def attend(x, weights, num_heads, theta):
    names = ("q", "k", "v", "output")
    projections = [weights[f"attn.{name}_proj.weight"] for name in names]
    return multihead_self_attention.__wrapped__(
        x, *projections, num_heads, lambda y: rope(y, jnp.arange(y.shape[-2]), theta)
    )


def transformer_block(x, weights, num_heads, theta):
    x = x + attend(rmsnorm(x, weights["ln1.weight"], 1e-5), weights, num_heads, theta)
    ffn = [weights[f"ffn.w{i}.weight"] for i in (1, 2, 3)]
    return x + swiglu(rmsnorm(x, weights["ln2.weight"], 1e-5), *ffn)


def transformer_lm(token_ids, weights, num_heads, theta):
    x = weights["token_embeddings.weight"][token_ids]
    for i in range(sum(name.endswith("ln1.weight") for name in weights)):
        prefix = f"layers.{i}."
        layer = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        x = transformer_block(x, layer, num_heads, theta)
    return linear(rmsnorm(x, weights["ln_final.weight"], 1e-5), weights["lm_head.weight"])
