"""The JAX baseline: the same model and step as a user of JAX would write them, with `jax.nn.dot_product_attention`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bench.contenders import Contender, Weights, Work, epsilon_after_correction
from lm.config import ModelConfig, OptimizerConfig
from lm.init import rope_tables

Params = dict[str, Array]


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate interleaved pairs by RoPE, in float32. x is (B, T, H, K)."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    return jnp.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape).astype(x.dtype)


def rmsnorm(x: Array, weight: Array) -> Array:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + 1e-5)
    return (x32 * scale * weight[(None,) * (x.ndim - 1)]).astype(x.dtype)


def loss(
    params: Params, ids: Array, targets: Array, tables: tuple[Array, ...], config: ModelConfig, dtype: Any
) -> Array:
    """Return the mean cross-entropy."""

    def project(x: Array, name: str) -> Array:
        return x @ params[f"{name}.weight"].astype(dtype).T

    x = params["token_embeddings.weight"].astype(dtype)[ids]
    for i in range(config.num_layers):
        name = f"layers.{i}"
        h = rmsnorm(x, params[f"{name}.ln1.weight"])
        q, k, v = (
            project(h, f"{name}.attn.{part}_proj").reshape(*h.shape[:2], config.num_heads, -1)
            for part in "qkv"
        )
        q, k = rotate(q, *tables), rotate(k, *tables)
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + project(out.reshape(h.shape), f"{name}.attn.output_proj")
        h = rmsnorm(x, params[f"{name}.ln2.weight"])
        x = x + project(
            jax.nn.silu(project(h, f"{name}.ffn.w1")) * project(h, f"{name}.ffn.w3"), f"{name}.ffn.w2"
        )
    logits = project(rmsnorm(x, params["ln_final.weight"]), "lm_head").astype(jnp.float32)
    at_target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - at_target).mean()


def adamw(p: Array, g: Array, m: Array, v: Array, step: Array, o: OptimizerConfig) -> tuple[Array, ...]:
    """Return the weight and its moments after a step of AdamW as most libraries write it."""
    m, v = o.beta1 * m + (1 - o.beta1) * g, o.beta2 * v + (1 - o.beta2) * g * g
    m_hat, v_hat = m / (1 - o.beta1**step), v / (1 - o.beta2**step)
    update = m_hat / (jnp.sqrt(v_hat) + epsilon_after_correction(o)) + o.weight_decay * p
    return p - o.learning_rate * update, m, v


def make(work: Work, weights: Weights) -> Contender:
    """The baseline under jit, with donated buffers."""
    precision = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}[work.dtype]
    jax.config.update("jax_default_matmul_precision", precision)
    device = jax.devices(work.device.partition(":")[0])[0]
    config, o, m = work.model, work.config.optimizer, work.model
    assert m.d_head is not None
    found = rope_tables(m.rope_theta, m.d_head, np.arange(m.context_length))
    # With an axis for the batch and one for the heads.
    tables = tuple(jnp.asarray(table[None, :, None], jnp.float32) for table in found)
    dtype = jnp.bfloat16 if work.dtype == "bfloat16" else jnp.float32

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(
        params: Params, m: Params, v: Params, step: Array, ids: Array, targets: Array
    ) -> tuple[Params, Params, Params, Array, Array]:
        value, gradients = jax.value_and_grad(loss)(params, ids, targets, tables, config, dtype)
        norm = jnp.sqrt(sum((jnp.square(g).sum() for g in gradients.values()), jnp.float32(0)))
        scale = jnp.where(norm > o.max_grad_norm, o.max_grad_norm / (norm + 1e-6), 1.0).astype(jnp.float32)
        updated = {n: adamw(p, gradients[n] * scale, m[n], v[n], step, o) for n, p in params.items()}
        new = tuple({n: u[i] for n, u in updated.items()} for i in range(3))
        return new[0], new[1], new[2], value, norm

    params = {name: jax.device_put(weight.copy(), device) for name, weight in weights.items()}
    state = params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
    count = 0

    def step(inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        nonlocal state, count
        count += 1
        *new, value, norm = update(*state, jnp.float32(count), inputs, targets)
        state = new[0], new[1], new[2]
        return float(value), float(norm)

    return (
        step,
        lambda name: np.asarray(state[0][name]),
        lambda: (device.memory_stats() or {}).get("peak_bytes_in_use"),
    )
