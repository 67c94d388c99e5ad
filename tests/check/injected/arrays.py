"""NumPy's names over torch and over jax.numpy: what the injected implementations are written in.

A name that torch and jax.numpy share, with equal arguments, is looked up in them (`exp`, `einsum`, `where`, `tril` ...;
also methods such as `x.sum(axis=..., keepdims=True)`, `x.reshape`, `x.swapaxes`, `@`). The others are methods here.
float64 in JAX needs JAX_ENABLE_X64, which the tests set.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch

Framework = Literal["torch", "jax"]
FRAMEWORKS: tuple[Framework, ...] = ("torch", "jax")
Tree = dict[str, Any]
"""Arrays of one framework by name."""


class Torch:
    """torch by NumPy's names."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def array(self, x: np.ndarray | float, like: Any) -> Any:
        """Return a constant in the type of `like`."""
        return torch.as_tensor(np.asarray(x), dtype=like.dtype)

    def ids(self, x: np.ndarray) -> Any:
        """Return integers or booleans that may index."""
        return torch.from_numpy(np.ascontiguousarray(x))

    def max(self, x: Any, axis: int) -> Any:
        """Return the maximum along `axis`, which stays. Its gradient goes to one element."""
        return x.max(axis, keepdim=True).values

    def maximum(self, x: Any, least: float) -> Any:
        """Return the larger one; at equality half of the gradient flows to x."""
        return torch.maximum(x, torch.full_like(x, least))

    def stack(self, arrays: Sequence[Any], axis: int) -> Any:
        return torch.stack(tuple(arrays), axis)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        return torch.cat(tuple(arrays), axis)

    def repeat(self, x: Any, times: int, axis: int) -> Any:
        """Repeat each element, as np.repeat does."""
        return torch.repeat_interleave(x, times, axis)

    def roll(self, x: Any, shift: int, axis: int) -> Any:
        return torch.roll(x, shift, axis)

    def take_along_axis(self, x: Any, index: Any, axis: int) -> Any:
        return torch.gather(x, axis, index)

    def one_hot(self, ids: Any, size: int, like: Any) -> Any:
        return torch.eye(size, dtype=like.dtype)[ids]

    def logsumexp(self, x: Any, axis: int) -> Any:
        """log(sum(exp(x))) along `axis`, which stays."""
        return torch.logsumexp(x, axis, keepdim=True)

    def erf(self, x: Any) -> Any:
        return torch.erf(x)

    def sigmoid(self, x: Any) -> Any:
        return torch.sigmoid(x)

    def stop_gradient(self, x: Any) -> Any:
        return x.detach()

    def float32(self, x: Any) -> Any:
        """Return x rounded to float32."""
        return x.to(torch.float32)

    def bfloat16(self, x: Any) -> Any:
        """Return x rounded to bfloat16, in its own type."""
        return x.to(torch.bfloat16).to(x.dtype)

    def astype(self, x: Any, like: Any) -> Any:
        return x.to(like.dtype)


class Jax:
    """jax.numpy, with what only jax.nn, jax.lax or nobody has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def array(self, x: np.ndarray | float, like: Any) -> Any:
        """Return a constant in the type of `like`."""
        return jnp.asarray(x, dtype=like.dtype)

    def ids(self, x: np.ndarray) -> Any:
        """Return integers or booleans that may index."""
        return jnp.asarray(x)

    def max(self, x: Any, axis: int) -> Any:
        """Return the maximum along `axis`, which stays. Its gradient goes to one element."""
        return x.max(axis, keepdims=True)

    def maximum(self, x: Any, least: float) -> Any:
        return jnp.maximum(x, least)

    def stack(self, arrays: Sequence[Any], axis: int) -> Any:
        return jnp.stack(tuple(arrays), axis)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        return jnp.concatenate(tuple(arrays), axis)

    def repeat(self, x: Any, times: int, axis: int) -> Any:
        """Repeat each element, as np.repeat does."""
        return jnp.repeat(x, times, axis)

    def roll(self, x: Any, shift: int, axis: int) -> Any:
        return jnp.roll(x, shift, axis)

    def take_along_axis(self, x: Any, index: Any, axis: int) -> Any:
        return jnp.take_along_axis(x, index, axis)

    def one_hot(self, ids: Any, size: int, like: Any) -> Any:
        return jnp.eye(size, dtype=like.dtype)[ids]

    def logsumexp(self, x: Any, axis: int) -> Any:
        """log(sum(exp(x))) along `axis`, which stays."""
        return jax.nn.logsumexp(x, axis, keepdims=True)

    def erf(self, x: Any) -> Any:
        return jax.lax.erf(x)

    def sigmoid(self, x: Any) -> Any:
        return jax.nn.sigmoid(x)

    def stop_gradient(self, x: Any) -> Any:
        return jax.lax.stop_gradient(x)

    def float32(self, x: Any) -> Any:
        """Return x rounded to float32."""
        return x.astype(jnp.float32)

    def bfloat16(self, x: Any) -> Any:
        """Return x rounded to bfloat16, in its own type."""
        return x.astype(jnp.bfloat16).astype(x.dtype)

    def astype(self, x: Any, like: Any) -> Any:
        return x.astype(like.dtype)


def run(
    framework: Framework,
    f: Callable[[Any, Tree], Any],
    arrays: dict[str, np.ndarray],
    dtype: str = "float64",
    cotangent: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """Return f(namespace, arrays) and, if there is a cotangent, the gradients of sum(cotangent * f) by autodiff.

    Args:
        framework: The namespace and the type of the arrays that f receives.
        arrays: Arrays by name, which become `dtype`. f closes over ids, masks and sizes.
        dtype: "float32" or "float64".
        cotangent: What flows in at the output.

    Returns:
        The output and, by name, the gradients, all in float64. A gradient is None if torch finds no way to its array.
    """
    if framework == "torch":
        return _run_torch(f, arrays, dtype, cotangent)
    return _run_jax(f, arrays, dtype, cotangent)


def _float64(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _run_torch(
    f: Callable[[Any, Tree], Any], arrays: dict[str, np.ndarray], dtype: str, cotangent: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    leaves = {
        name: torch.tensor(x, dtype=getattr(torch, dtype)).requires_grad_(cotangent is not None)
        for name, x in arrays.items()
    }
    output = f(Torch(), leaves)
    if cotangent is None:
        return _float64(output.numpy()), {}
    incoming = torch.tensor(cotangent, dtype=output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), incoming, allow_unused=True)
    return _float64(output.detach().numpy()), {
        name: None if g is None else _float64(g.numpy()) for name, g in zip(leaves, gradients, strict=True)
    }


def _run_jax(
    f: Callable[[Any, Tree], Any], arrays: dict[str, np.ndarray], dtype: str, cotangent: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    with contextlib.ExitStack() as settings:
        # What people write promotes and broadcasts as NumPy does, whatever the tests' own settings are.
        settings.enter_context(jax.numpy_rank_promotion("allow"))
        settings.enter_context(jax.numpy_dtype_promotion("standard"))
        leaves = {name: jnp.asarray(x, dtype) for name, x in arrays.items()}
        if cotangent is None:
            return _float64(f(Jax(), leaves)), {}

        @jax.jit
        def backward(leaves: Tree, cotangent: np.ndarray) -> tuple[Any, Tree]:
            output, pull_back = jax.vjp(lambda leaves: f(Jax(), leaves), leaves)
            return output, pull_back(jnp.asarray(cotangent, output.dtype))[0]

        output, gradients = backward(leaves, cotangent)
        # jax.tree sorts a dict's names.
        return _float64(output), {name: _float64(gradients[name]) for name in leaves}
