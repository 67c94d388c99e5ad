"""Faults in jax_impl/backend.py: settings and the training step."""

from functools import cache
from typing import Any

import jax

from tests.faults.fault import RUN, STEP, fault


def _configure(original: Any, setting: str, value: Any) -> Any:
    """Return `configure`, which gives JAX's setting another value."""

    def broken(*args: Any) -> None:
        original(*args)
        jax.config.update(setting, value)

    return broken


@fault("XLA multiplies as it likes", "jax_impl.backend.configure", STEP)
def _(original: Any) -> Any:
    return _configure(original, "jax_default_matmul_precision", "default")


@fault("a step's temporary memory is held twice", "jax_impl.backend.configure", STEP)
def _(original: Any) -> Any:
    return _configure(original, "jax_cpu_enable_async_dispatch", True)


@fault("the step forgets to clip", "jax_impl.backend.clip_gradients", RUN)
def _(original: Any) -> Any:
    return lambda gradients, max_norm: (gradients, original(gradients, max_norm)[1])


@fault("a new learning rate compiles again", "jax_impl.backend.make_train_step", STEP)
def _(original: Any) -> Any:
    def broken(*args: Any) -> Any:
        step = cache(lambda lr: original(*args))
        return lambda state, batch, lr: step(lr)(state, batch, lr)

    return broken
