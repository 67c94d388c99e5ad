"""The Backend functions (`lm.backend.Backend`) of torch."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lm.backend import DecodeStep, EvalStep, Prefill, TrainStep
from lm.checkpoint import Leaves
from lm.config import TrainConfig
from lm.data import Batch, check_token_ids
from lm.init import initial_weights
from tokenizer.errors import InputError
from torch_impl.attention import LayerCache, causal_mask
from torch_impl.functional import Draw, clip_gradients, token_cross_entropy
from torch_impl.model import TransformerLM
from torch_impl.optimizer import AdamW


@dataclass
class TrainState:
    """The model and its optimizer; both are changed in place."""

    model: TransformerLM
    optimizer: AdamW

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return max((state["step"] for state in self.optimizer.state.values()), default=0)


def configure(config: TrainConfig) -> None:
    """Set the number of threads, make float32 mean float32, and refuse a device that is not there."""
    torch.set_float32_matmul_precision("highest")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{config.device}' cannot be used by torch ({reason}); try --device cpu"
        ) from None


def versions() -> dict[str, str]:
    """The version of torch."""
    return {"torch": torch.__version__}


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Have torch's profiler write trace.json, for chrome://tracing or Perfetto, of what runs inside."""
    with torch.profiler.profile() as profiler:
        yield
    profiler.export_chrome_trace(str(folder / "trace.json"))


def init_state(config: TrainConfig, seed: int) -> TrainState:
    """The state before the first step: weights of `lm.init`, moments zero."""
    return load_state(config, initial_weights(config.model, seed, config.param_dtype), None)


def load_state(config: TrainConfig, weights: Leaves, optimizer: Leaves | None) -> TrainState:
    """A state of these leaves, copied into memory that torch allocated."""
    dtype = getattr(torch, config.param_dtype)
    model = TransformerLM(config.model, getattr(torch, config.compute_dtype), config.device, dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in weights:
            parameters[name].copy_(torch.from_numpy(array))
    o = config.optimizer
    # Gains and biases have one axis.
    decaying = [p for p in parameters.values() if p.ndim > 1 or o.decay == "all"]
    others = [p for p in parameters.values() if p.ndim == 1 and o.decay == "matrices"]
    groups = [{"params": decaying}] + [{"params": others, "weight_decay": 0.0}] * bool(others)
    adamw = AdamW(groups, o.learning_rate, (o.beta1, o.beta2), o.eps, o.weight_decay)
    for name, array in optimizer or ():
        if name == "step":
            for p in parameters.values():
                adamw.state[p]["step"] = int(array)
        else:
            moment, _, name = name.partition(".")
            adamw.state[parameters[name]][moment] = torch.tensor(array, device=config.device)
    return TrainState(model, adamw)


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by name."""
    for name, p in state.model.named_parameters():
        yield name, p.detach().cpu().numpy()


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """`m.<name>` and `v.<name>` of every weight, and `step`."""
    for name, p in state.model.named_parameters():
        adamw = state.optimizer.state.get(p, {})
        for moment in ("m", "v"):
            yield f"{moment}.{name}", adamw.get(moment, torch.zeros_like(p)).detach().cpu().numpy()
    yield "step", np.array(state.step, np.int32)


def _micro_batches(batch: Batch, state: TrainState) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Inputs, targets and loss mask of each micro-batch, on the model's device."""
    embeddings = state.model.token_embeddings.weight
    device, vocab_size = embeddings.device, embeddings.shape[0]
    check_token_ids(batch.inputs, vocab_size)
    check_token_ids(batch.targets, vocab_size)
    for i in range(len(batch.inputs)):
        inputs, targets = (torch.tensor(a[i], device=device) for a in (batch.inputs, batch.targets))
        mask = None if batch.loss_mask is None else torch.tensor(batch.loss_mask[i], device=device)
        yield inputs, targets, mask


def _sum_losses(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor | None) -> Float[Tensor, ""]:
    losses_BT = token_cross_entropy(logits_BTV, targets_BT)
    return (losses_BT if mask_BT is None else torch.where(mask_BT, losses_BT, 0.0)).sum()


def _draw(config: TrainConfig, state: TrainState, first_row: int, rows: int) -> Draw | None:
    """What the step that follows drops of these rows of its batch."""
    if not config.model.drops:
        return None
    device = state.model.token_embeddings.weight.device
    rows_B = torch.arange(first_row, first_row + rows, dtype=torch.int32, device=device)
    return Draw(config.seed, state.step, rows_B)


def make_train_step(config: TrainConfig) -> TrainStep:
    """Forward, backward, clipping and AdamW, in eager mode."""

    def train_step(state: TrainState, batch: Batch, lr: float) -> tuple[TrainState, dict[str, Any]]:
        state.optimizer.zero_grad()
        losses = []
        for i, (inputs_BT, targets_BT, mask_BT) in enumerate(_micro_batches(batch, state)):
            draw = _draw(config, state, i * len(inputs_BT), len(inputs_BT))
            loss = _sum_losses(state.model(inputs_BT, draw), targets_BT, mask_BT) / batch.num_targets
            loss.backward()
            losses.append(loss.detach())
        total = torch.stack(losses).sum()
        norm = clip_gradients(state.model.parameters(), config.optimizer.max_grad_norm)
        finite = torch.isfinite(total) & torch.isfinite(norm)
        if finite:
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.step()
        return state, {"loss": total, "grad_norm": norm, "finite": finite}

    return train_step


def make_eval_step(config: TrainConfig) -> EvalStep:
    """Forward only."""

    @torch.no_grad()
    def eval_step(state: TrainState, batch: Batch) -> tuple[float, int, int]:
        total, correct = 0.0, 0
        for inputs_BT, targets_BT, mask_BT in _micro_batches(batch, state):
            logits_BTV = state.model(inputs_BT)
            total += float(_sum_losses(logits_BTV, targets_BT, mask_BT))
            hits_BT = logits_BTV.argmax(-1) == targets_BT
            correct += int((hits_BT if mask_BT is None else hits_BT & mask_BT).sum())
        return total, batch.num_targets, correct

    return eval_step


def make_prefill(config: TrainConfig) -> Prefill:
    """One pass over the prompts, that fills a cache of context_length slots."""
    m = config.model

    @torch.no_grad()
    def prefill(
        state: TrainState, token_ids_BT: Int[np.ndarray, "B T"], lengths_B: Int[np.ndarray, " B"]
    ) -> tuple[np.ndarray, list[LayerCache]]:
        check_token_ids(token_ids_BT, m.vocab_size)
        B, T = token_ids_BT.shape
        assert m.num_kv_heads is not None  # filled in by ModelConfig
        shape = B, m.num_kv_heads, m.context_length, m.d_head
        options: dict[str, Any] = {"dtype": state.model.compute_dtype, "device": config.device}
        caches = [
            LayerCache(torch.zeros(shape, **options), torch.zeros(shape, **options))
            for _ in state.model.layers
        ]
        # Query t sees slots 0 .. t; what lies behind a shorter prompt's end is overwritten before it is seen.
        mask_TS = causal_mask(m.context_length, config.device)[:T]
        slots_BT = torch.arange(T, device=config.device).expand(B, T)
        ids_BT = torch.tensor(token_ids_BT, device=config.device)
        tables = state.model.first_tables(T)
        x_BTD = state.model.embed(ids_BT, tables)
        x_BTD = state.model.hidden_states(x_BTD, mask_TS, tables, caches, slots_BT)
        last_BD = x_BTD[torch.arange(B), torch.tensor(lengths_B) - 1]
        return state.model.logits(last_BD).double().cpu().numpy(), caches

    return prefill


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """One token a sequence against the cache, which slides: position t takes slot t mod context_length."""
    m = config.model

    @torch.no_grad()
    def decode_step(
        state: TrainState,
        caches: list[LayerCache],
        token_ids_B: Int[np.ndarray, " B"],
        positions_B: Int[np.ndarray, " B"],
    ) -> tuple[np.ndarray, list[LayerCache]]:
        check_token_ids(token_ids_B, m.vocab_size)
        mask_B11S = torch.tensor(
            np.arange(m.context_length) <= positions_B[:, None, None, None], device=config.device
        )
        slots_B1 = torch.tensor(positions_B[:, None] % m.context_length, device=config.device)
        tables = state.model.tables_of(positions_B[:, None])
        ids_B1 = torch.tensor(token_ids_B[:, None], device=config.device)
        x_B1D = state.model.embed(ids_B1, tables)
        x_B1D = state.model.hidden_states(x_B1D, mask_B11S, tables, caches, slots_B1)
        return state.model.logits(x_B1D[:, 0]).double().cpu().numpy(), caches

    return decode_step
