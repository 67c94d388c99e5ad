"""Gradients written by hand, and the fast paths beside them."""

from tests.faults.quoted.fault import ATTENTION, FUSED, LINEAR, LOSS, NORM, ROPE, SWIGLU, fault

FAULTS = (
    fault(
        "the norm's own gradient takes the root for a constant",
        "torch_impl/fused.py",
        ".sub_(normed.mul_(mean))",
        "",
        NORM,
    ),
    fault(
        "the gate's slope is its sigmoid",
        "torch_impl/fused.py",
        "torch.lerp(silu, silu.new_ones(()), sigmoid)",
        "sigmoid",
        SWIGLU,
    ),
    fault(
        "the loss's gradient ignores what flows in",
        "torch_impl/fused.py",
        "(at_target.expm1() * g.flatten())",
        "at_target.expm1()",
        LOSS,
    ),
    fault(
        "the gradient of scores lacks the softmax's mean",
        "torch_impl/fused.py",
        "d_weights.sub_(means)",
        "d_weights",
        ATTENTION,
    ),
    fault(
        "the gradient of few scores lacks the softmax's mean",
        "torch_impl/fused.py",
        "d_weights.sub_(mean)",
        "d_weights",
        ATTENTION,
    ),
    fault(
        "the gradient of scores lacks the softmax's mean, in JAX",
        "jax_impl/attention.py",
        "weights * (d_weights - mean)).astype",
        "weights * d_weights).astype",
        ATTENTION,
    ),
    fault(
        "the gradient of queries lacks the scale, in JAX",
        "jax_impl/attention.py",
        "d_scores @ K * scale",
        "d_scores @ K",
        ATTENTION,
    ),
    fault(
        "the loss's gradient ignores what flows in, in JAX",
        "jax_impl/functional.py",
        "g_N[:, None] * (softmax_NV - one_hot_NV)",
        "(softmax_NV - one_hot_NV)",
        LOSS,
    ),
    fault(
        "the gate's gradient loses a term, in JAX",
        "jax_impl/functional.py",
        "d_silu * sigmoid * (1 + a32 * (1 - sigmoid))",
        "d_silu * sigmoid",
        SWIGLU,
    ),
    fault(
        "the gradient of a tall weight is not turned back, in JAX",
        "jax_impl/layers.py",
        "lax.optimization_barrier(x_NI.T @ g_NO).T",
        "lax.optimization_barrier(x_NI.T @ g_NO).reshape(weight_IO.T.shape)",
        LINEAR,
    ),
    fault(
        "keys of a block of queries end too soon",
        "torch_impl/fused.py",
        "max(by_any, 1)",
        "max(by_any - 1, 1)",
        FUSED,
    ),
    fault(
        "the fast RoPE turns the other way",
        "torch_impl/fused.py",
        "-1, 2)) * turn_TP",
        "-1, 2)) * turn_TP.conj()",
        ROPE,
    ),
)
