"""The Backend functions (`lm.backend.Backend`) of JAX: setup, training and evaluation are here."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from jax_impl import fast, sharding
from jax_impl.dtypes import Params, dtype_named
from jax_impl.functional import DropoutKey, clip_gradients, token_cross_entropy
from jax_impl.generation import make_decode_step, make_logits, make_prefill
from jax_impl.optimizer import AdamWState, MuonState, adamw_update, muon_update
from jax_impl.sequences import MODELS
from jax_impl.sharding import processes
from jax_impl.state import (
    TrainState,
    averaged,
    init_state,
    load_state,
    read_optimizer,
    read_shares,
    read_weights,
)
from jax_impl.trees import choose, join
from lm.backend import EvalStep, TrainStep
from lm.config import OptimizerConfig, TrainConfig
from lm.data.batch import Batch, check_batch
from lm.init import muon_names, parameter_shapes
from lm.mesh import Mesh

__all__ = [
    "averaged",
    "choices",
    "configure",
    "init_state",
    "load_state",
    "make_decode_step",
    "make_eval_step",
    "make_logits",
    "make_prefill",
    "make_train_step",
    "processes",
    "read_optimizer",
    "read_shares",
    "read_weights",
    "repeat",
    "trace",
    "versions",
]


def configure(config: TrainConfig, mesh: Mesh | None = None) -> None:
    """Set JAX up: float64, fast forms, float32 products in float32, kept programs, and the device or the mesh.

    With a mesh, join the other processes first if the environment names any.

    Raises:
        InputError: the device or the mesh's devices are not there.
    """
    # By default XLA multiplies float32 in TF32 or bfloat16 on accelerators. Products of bfloat16 stay as they are.
    jax.config.update("jax_default_matmul_precision", "highest")
    # On a CPU a step that is dispatched ahead allocates its temporary memory before the last step's memory is freed.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if config.compute_dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    fast.use(config.fast)
    fast.keep_programs()
    if mesh is None:
        sharding.device(config)
    else:
        sharding.join()
        sharding.device_mesh(config, mesh)


def versions() -> dict[str, str]:
    """Return the versions of jax and of its compiler."""
    import jaxlib

    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def choices(only_measured: bool = False) -> dict[str, str]:
    """Return nothing: XLA's programs do not depend on how fast this machine was when they were compiled."""
    return {}


def repeat(choices: dict[str, str]) -> None:
    """Do nothing: see `choices`."""


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Have JAX's profiler write a trace of what runs inside, for Perfetto or XProf."""
    with jax.profiler.trace(str(folder)):
        yield


def micro_batches(
    batch: Batch, config: TrainConfig
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Return the model's inputs, the targets and the loss mask of all micro-batches."""
    check_batch(batch, config.model.vocab_size)
    # Copies: JAX may read NumPy's memory in place, even after the call that took the array has returned.
    return (
        {name: array.copy() for name, array in batch.model_inputs.items()},
        batch.targets.copy(),
        None if batch.loss_mask is None else batch.loss_mask.copy(),
    )


def sum_losses(
    logits_BTV: Array, targets_BT: Array, mask_BT: Array | None, z_loss: float = 0.0
) -> Float[Array, ""]:
    """Sum the losses of the targets that count."""
    losses_BT = token_cross_entropy(logits_BTV, targets_BT, z_loss)
    return (losses_BT if mask_BT is None else jnp.where(mask_BT, losses_BT, 0.0)).sum()


def dropout_key(config: TrainConfig, step: Array, rows_B: Array) -> DropoutKey | None:
    """Return the key of what a step drops in these rows of its batch."""
    return DropoutKey(config.seed, step, rows_B) if config.model.drops else None


def update_average(
    average: Params | None, params: Params, config: OptimizerConfig, apply: Bool[Array, ""]
) -> Params | None:
    """Move the averages of the weights towards the new weights."""
    decay = config.average_decay
    if average is None or decay is None:
        return None
    return jax.tree.map(lambda x, p: jnp.where(apply, x + (1 - decay) * (p - x), x), average, params)


def make_train_step(config: TrainConfig, mesh: Mesh | None = None) -> TrainStep:
    """Make the training step: forward, backward, clipping and the optimizer, one jitted function.

    It donates its state.
    """
    model, o = MODELS[config.model.architecture], config.optimizer
    names_of_muon = muon_names(config.model, o)
    names_of_adamw = parameter_shapes(config.model).keys() - names_of_muon
    stream_rows, rows = (sharding.batch_rows(config, mesh, axis) if mesh else None for axis in (0, 1))

    def loss(
        params: Params,
        inputs: dict[str, Array],
        targets_BT: Array,
        mask_BT: Array | None,
        rows_B: Array,
        count: Array,
        step: Array,
    ) -> Array:
        params, key = sharding.gather_embeddings(params, stream_rows), dropout_key(config, step, rows_B)
        dtype = dtype_named(config.compute_dtype)
        logits_BTV = model(
            params, **inputs, config=config.model, compute_dtype=dtype, key=key, rows=stream_rows
        )
        return sum_losses(logits_BTV, targets_BT, mask_BT, config.z_loss) / count

    shardings: dict[str, Any] = {}
    if mesh and rows:
        of_params = sharding.params_shardings(config, mesh)
        whole: Any = NamedSharding(rows.mesh, PartitionSpec())
        of_adamw = choose(of_params, names_of_adamw)
        of_muon = MuonState(choose(of_params, names_of_muon)) if names_of_muon else None
        of_average = None if o.average_decay is None else of_params
        of_state = TrainState(of_params, AdamWState(of_adamw, of_adamw, whole), of_muon, of_average)
        shardings = {
            "in_shardings": (of_state, rows, whole, whole),
            "out_shardings": (of_state, whole),
        }
    options = fast.training_options(config.device) | sharding.same_bits(config)

    @partial(jax.jit, donate_argnums=0, compiler_options=options, **shardings)
    def jitted(
        state: TrainState, batch: tuple[dict[str, Array], Array, Array | None], count: Array, lr: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        params, optimizer, muon, average = state
        assert optimizer is not None
        micro_step, step = jax.value_and_grad(loss), optimizer.step
        A, B = batch[1].shape[:2]
        all_micro = *batch, jnp.arange(A * B, dtype=np.int32).reshape(A, B)
        if A == 1:
            total, gradients = micro_step(params, *jax.tree.map(lambda x: x[0], all_micro), count, step)
        else:
            zeros = jnp.zeros((), lr.dtype), jax.tree.map(jnp.zeros_like, params)
            (total, gradients), _ = jax.lax.scan(
                lambda sums, micro: (
                    jax.tree.map(jnp.add, sums, micro_step(params, *micro, count, step)),
                    None,
                ),
                zeros,
                all_micro,
            )
        clipped, norm = clip_gradients(gradients, o.max_grad_norm)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        of_adamw = choose(params, names_of_adamw)
        # Gains and biases have one axis.
        decay = jax.tree.map(lambda p: o.weight_decay if p.ndim > 1 or o.decay == "all" else 0.0, of_adamw)
        of_adamw, optimizer = adamw_update(
            choose(clipped, names_of_adamw),
            optimizer,
            of_adamw,
            lr,
            (o.beta1, o.beta2),
            o.eps,
            decay,
            finite,
            o.adamw,
        )
        if muon is None:
            params = of_adamw
        else:
            of_muon, muon = muon_update(
                choose(clipped, names_of_muon),
                muon,
                choose(params, names_of_muon),
                lr * o.muon_rate,
                o.muon_momentum,
                o.weight_decay,
                o.muon_scale,
                o.muon_dtype,
                finite,
            )
            params = join(of_adamw, of_muon)
        metrics = {"loss": total, "grad_norm": norm, "finite": finite}
        return TrainState(params, optimizer, muon, update_average(average, params, o, finite)), metrics

    # Scalars of the weights' type: a new value does not recompile, and no float64 creeps in.
    scalar = np.dtype(config.param_dtype).type

    def train_step(state: TrainState, batch: Batch, lr: float) -> tuple[TrainState, dict[str, Any]]:
        arrays = micro_batches(batch, config)
        if rows:
            arrays = jax.tree.map(lambda array: sharding.put(array, rows), arrays)
        return jitted(state, arrays, scalar(batch.num_targets), scalar(lr))

    return train_step


def make_eval_step(config: TrainConfig, mesh: Mesh | None = None) -> EvalStep:
    """Make the evaluation of a batch: the forward pass alone."""
    model = MODELS[config.model.architecture]
    rows = sharding.batch_rows(config, mesh, 0) if mesh else None
    shardings: dict[str, Any] = {}
    if mesh and rows:
        shardings = {
            "in_shardings": (sharding.params_shardings(config, mesh), rows, rows, rows),
            "out_shardings": NamedSharding(rows.mesh, PartitionSpec()),
        }

    @partial(jax.jit, compiler_options=sharding.same_bits(config), **shardings)
    def jitted(
        params: Params, inputs: dict[str, Array], targets_BT: Array, mask_BT: Array | None
    ) -> tuple[Array, Array]:
        params = sharding.gather_embeddings(params, rows)
        dtype = dtype_named(config.compute_dtype)
        logits_BTV = model(params, **inputs, config=config.model, compute_dtype=dtype, rows=rows)
        hits_BT = logits_BTV.argmax(-1).astype(targets_BT.dtype) == targets_BT
        correct = (hits_BT if mask_BT is None else hits_BT & mask_BT).sum()
        return sum_losses(logits_BTV, targets_BT, mask_BT), correct

    def eval_step(state: TrainState, batch: Batch) -> tuple[float, int, int]:
        total, correct = 0.0, 0
        arrays = micro_batches(batch, config)
        for i in range(len(batch.inputs)):
            micro = jax.tree.map(lambda x, i=i: sharding.put(x[i], rows) if rows else x[i], arrays)
            micro_total, micro_correct = jitted(state.params, *micro)
            total += float(micro_total)
            correct += int(micro_correct)
        return total, batch.num_targets, correct

    return eval_step
