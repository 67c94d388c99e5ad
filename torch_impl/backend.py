"""The Backend functions (`lm.backend.Backend`) of torch: setup, training and evaluation are here."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from lm.backend import EvalStep, TrainStep
from lm.config import TrainConfig
from lm.data.batch import Batch, check_batch
from lm.mesh import Mesh
from torch_impl import fast, sharding
from torch_impl.fast import choices, repeat
from torch_impl.functional import DropoutKey, clip_gradients, token_cross_entropy
from torch_impl.generation import make_decode_step, make_logits, make_prefill
from torch_impl.sharding import processes
from torch_impl.state import (
    TrainState,
    averaged,
    init_state,
    load_state,
    read_optimizer,
    read_shares,
    read_weights,
)

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
    """Set the number of threads, switch fast forms on or off, and make float32 mean float32.

    Join the processes of a mesh, and refuse a device that is not there.
    """
    fast.use(config.fast)
    torch.set_float32_matmul_precision("highest")
    # cuBLAS reads this once, when it starts. With these workspaces it repeats its bits.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if mesh:
        sharding.join(config, mesh)
        fast.keep_plain()  # processes that choose for themselves could differ
    sharding.device(config)


def versions() -> dict[str, str]:
    """Return the version of torch."""
    return {"torch": torch.__version__}


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Have torch's profiler write a trace of what runs inside: trace.json, for chrome://tracing or Perfetto."""
    with torch.profiler.profile(acc_events=True) as profiler:  # without it, some versions warn
        yield
    profiler.export_chrome_trace(str(folder / "trace.json"))


def micro_batches(
    batch: Batch, config: TrainConfig, rows: slice
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor | None]]:
    """Yield what the model reads, targets and loss mask of these rows of each micro-batch, on the model's device."""
    check_batch(batch, config.model.vocab_size)
    for i in range(len(batch.inputs)):
        inputs = {
            name: fast.send(array[i, rows], config.device) for name, array in batch.model_inputs.items()
        }
        mask_BT = None if batch.loss_mask is None else fast.send(batch.loss_mask[i, rows], config.device)
        yield inputs, fast.send(batch.targets[i, rows], config.device), mask_BT


def sum_losses(
    logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor | None, z_loss: float = 0.0
) -> Float[Tensor, ""]:
    """Sum the losses of the targets that count."""
    losses_BT = token_cross_entropy(logits_BTV, targets_BT, z_loss)
    return (losses_BT if mask_BT is None else torch.where(mask_BT, losses_BT, 0.0)).sum()


def dropout_key(config: TrainConfig, state: TrainState, first_row: int, rows: int) -> DropoutKey | None:
    """Return what the next step drops of these rows of its batch."""
    if not config.model.drops:
        return None
    rows_B = torch.arange(first_row, first_row + rows, dtype=torch.int32, device=config.device)
    return DropoutKey(config.seed, state.step, rows_B)


@torch.no_grad()
def update_average(state: TrainState, config: TrainConfig) -> None:
    """Move the averages of the weights towards the new weights."""
    decay = config.optimizer.average_decay
    if decay is not None and state.average is not None:
        for name, x in state.average.items():
            x.lerp_(state.weights[name], 1 - decay)


def make_train_step(config: TrainConfig, mesh: Mesh | None = None) -> TrainStep:
    """Make the training step: forward, backward, clipping and the optimizer, in eager mode."""

    @sharding.same_bits()
    def train_step(state: TrainState, batch: Batch, lr: float) -> tuple[TrainState, dict[str, Any]]:
        for p in (*state.weights.values(), *(array.whole for array in state.arrays)):
            p.grad = None
        A, B = batch.inputs.shape[:2]
        losses, rows = [], sharding.batch_rows(mesh, B)
        for i, (inputs, targets_BT, mask_BT) in enumerate(micro_batches(batch, config, rows)):
            key = dropout_key(config, state, i * B + rows.start, len(targets_BT))
            if mesh:
                state.model.set_requires_all_reduce(i == A - 1)
            # No name holds the logits: they would stay in memory during the backward pass.
            loss = sum_losses(state.model(**inputs, key=key), targets_BT, mask_BT, config.z_loss)
            loss = loss / batch.num_targets
            loss.backward()
            losses.append(loss.detach())
        total, norm = torch.stack(losses).sum(), None
        if mesh:
            total, norm = sharding.take_gradients(state.model, state.weights, total, mesh)
        for array in state.arrays:
            array.take_gradients()
        arrays = [array.whole for array in state.arrays]
        if state.muon:
            arrays += state.muon.matrices
        norm = clip_gradients(arrays, config.optimizer.max_grad_norm, norm)
        # The only time that the host waits for a GPU in a step.
        loss, grad_norm = torch.stack((total, norm)).tolist()
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite:
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.step()
            if state.muon:
                for group in state.muon.param_groups:
                    group["lr"] = lr * config.optimizer.muon_rate
                state.muon.step()
            update_average(state, config)
        return state, {"loss": loss, "grad_norm": grad_norm, "finite": finite}

    return train_step


def make_eval_step(config: TrainConfig, mesh: Mesh | None = None) -> EvalStep:
    """Make the step that sums losses and counts correct predictions, without dropout."""

    @torch.no_grad()
    def eval_step(state: TrainState, batch: Batch) -> tuple[float, int, int]:
        total, correct, rows = 0.0, 0, sharding.batch_rows(mesh, batch.inputs.shape[1])
        for inputs, targets_BT, mask_BT in micro_batches(batch, config, rows):
            logits_BTV = state.model(**inputs)
            total += float(sum_losses(logits_BTV, targets_BT, mask_BT))
            hits_BT = logits_BTV.argmax(-1) == targets_BT
            correct += int((hits_BT if mask_BT is None else hits_BT & mask_BT).sum())
        if mesh:
            sums = torch.tensor((total, correct), dtype=torch.float64, device=config.device)
            distributed.all_reduce(sums)
            total, correct = sums.tolist()
        return total, batch.num_targets, int(correct)

    return eval_step
