"""Faults in jax_impl/backend.py: settings and the training step."""

import contextlib
from functools import cache
from typing import Any

import jax

from tests.faults.fault import MASKED, NOT_FINITE, RUN, STEP, fault


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


@fault("JAX's z-loss counts masked tokens", "jax_impl.backend.sum_losses", MASKED)
def _(original: Any) -> Any:
    def broken(logits: Any, targets: Any, mask: Any, z_loss: float = 0.0) -> Any:
        of_all = [original(logits, targets, None, z) for z in (z_loss, 0.0)]
        return original(logits, targets, mask) + of_all[0] - of_all[1]

    return broken


@fault("JAX's averages move in a step that is not finite", "jax_impl.backend.update_average", NOT_FINITE)
def _(original: Any) -> Any:
    return lambda average, params, config, apply: original(average, params, config, apply | True)


@fault("JAX evaluates the weights, not their averages", "jax_impl.state.averaged", NOT_FINITE)
def _(original: Any) -> Any:
    return contextlib.nullcontext


@fault("a new learning rate compiles again", "jax_impl.backend.make_train_step", STEP)
def _(original: Any) -> Any:
    def broken(*args: Any) -> Any:
        step = cache(lambda lr: original(*args))
        return lambda state, batch, lr: step(lr)(state, batch, lr)

    return broken
