"""JAX at its strictest, and our shape annotations checked at every call, before a backend is imported."""

import jaxtyping

jaxtyping.install_import_hook(["torch_impl", "jax_impl"], "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
