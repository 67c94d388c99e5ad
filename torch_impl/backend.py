"""The Backend functions (`lm.backend.Backend`) of torch."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from lm.backend import DecodeStep, EvalStep, Logits, Prefill, TrainStep
from lm.config import TrainConfig
from lm.data.batch import Batch, check_batch, check_token_ids
from lm.init import initial_weights
from lm.mesh import Mesh, Processes
from lm.run.checkpoint import Index, Leaves, Share, Shares
from tokenizer.errors import InputError
from torch_impl import fast, sharding
from torch_impl.attention import Context, LayerCache, causal_mask
from torch_impl.dtypes import at_least_float32, dtype_named
from torch_impl.fast import choices, repeat
from torch_impl.functional import DropoutKey, clip_gradients, token_cross_entropy
from torch_impl.optimizer import AdamW
from torch_impl.sequences import MODELS, EncoderDecoder, after_prefix, encode

__all__ = ["choices", "repeat"]


class Cache(NamedTuple):
    """What decoding continues from: a cache for each layer, of P slots for a prefix and the slots of the tokens."""

    num_tokens_B: Int[np.ndarray, " B"]
    """The number of tokens of each prefix, 0 without one."""
    P: int
    layers: list[LayerCache]


@dataclass
class TrainState:
    """The model, of the architecture's class, and its optimizer; both are changed in place."""

    model: Any
    held: dict[str, Tensor]
    """What this process holds of each weight: the weight itself, or with a mesh its share of the rows."""
    optimizer: AdamW
    arrays: list[fast.Array]
    """What the optimizer updates: all of `held`, small weights packed together."""
    mesh: Mesh | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return max((state["step"] for state in self.optimizer.state.values()), default=0)


def configure(config: TrainConfig, mesh: Mesh | None = None) -> None:
    """Set the number of threads, make float32 mean float32, refuse a device that is not there, and join a mesh."""
    fast.use(config.fast)
    torch.set_float32_matmul_precision("highest")
    # Read once, when cuBLAS starts: the workspaces with which it gives the same bits again.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if mesh:
        sharding.join(config, mesh)
        fast.keep_plain()  # processes that choose for themselves could differ
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{config.device}' cannot be used by torch ({reason}); try --device cpu"
        ) from None


def processes() -> Processes:
    """The processes of a mesh that `configure` has joined."""
    return sharding.processes() if distributed.is_initialized() else Processes()


def versions() -> dict[str, str]:
    """The version of torch."""
    return {"torch": torch.__version__}


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Have torch's profiler write trace.json, for chrome://tracing or Perfetto, of what runs inside."""
    with torch.profiler.profile() as profiler:
        yield
    profiler.export_chrome_trace(str(folder / "trace.json"))


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """The state before the first step: weights of `lm.init`, moments zero."""
    return load_state(config, initial_weights(config.model, seed, config.param_dtype), None, mesh)


def load_state(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
) -> TrainState:
    """A state of these leaves, copied into memory that torch allocated."""
    dtype = dtype_named(config.param_dtype)
    model = MODELS[config.model.architecture](
        config.model, dtype_named(config.compute_dtype), "meta" if mesh else config.device, dtype
    )
    if mesh:
        sharding.shard(model, mesh, config.device)
    with torch.no_grad():
        held = {name: sharding.held(p) if mesh else p for name, p in model.named_parameters()}
        for name, leaf in weights:
            held[name].copy_(torch.from_numpy(leaf[_place(held[name], leaf.shape, mesh)]))
    o = config.optimizer
    # Gains and biases have one axis.
    decaying = {name: p for name, p in held.items() if p.ndim > 1 or o.decay == "all"}
    others = {name: p for name, p in held.items() if name not in decaying}
    groups = [fast.pack(group) for group in (decaying, others)]
    adamw = AdamW(
        [
            {"params": [array.whole for array in arrays], "weight_decay": weight_decay}
            for arrays, weight_decay in zip(groups, (o.weight_decay, 0.0), strict=True)
            if arrays
        ],
        o.learning_rate,
        (o.beta1, o.beta2),
        o.eps,
    )
    state = TrainState(model, held, adamw, [*groups[0], *groups[1]], mesh)
    if optimizer is not None:
        for array in state.arrays:
            zeros = {moment: torch.zeros_like(array.whole) for moment in ("m", "v")}
            adamw.state[array.whole] = {"step": 0, **zeros}
        moments = dict(_optimizer(state))
        for name, leaf in optimizer:
            if name == "step":
                for array in state.arrays:
                    adamw.state[array.whole]["step"] = int(leaf[...])
            else:
                x = moments[name]
                x.copy_(torch.tensor(leaf[_place(x, leaf.shape, mesh)]))
    return state


def _place(held: Tensor, shape: tuple[int, ...], mesh: Mesh | None) -> Index:
    """Where in a leaf of this shape lies what this process holds of it."""
    return (sharding.held_rows(mesh, shape[0], len(held)),) if mesh and shape else ()


def _weights(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    for name, p in state.held.items():
        yield name, p.detach()


def _optimizer(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    for array in state.arrays:
        adamw = state.optimizer.state.get(array.whole, {})
        for moment in ("m", "v"):
            whole = adamw[moment] if moment in adamw else torch.zeros_like(array.whole)
            for name, x in array.views(whole).items():
                yield f"{moment}.{name}", x.detach()
    yield "step", torch.tensor(state.step, dtype=torch.int32)


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by name."""
    return ((name, x.cpu().numpy()) for name, x in _weights(state))


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """`m.<name>` and `v.<name>` of every weight, and `step`."""
    return ((name, x.cpu().numpy()) for name, x in _optimizer(state))


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """The same, weights and optimizer, in slices: what this process is to save."""
    whole = {name: tuple(p.shape) for name, p in state.model.named_parameters()}
    shapes = (
        whole | {f"{moment}.{name}": shape for moment in "mv" for name, shape in whole.items()} | {"step": ()}
    )

    def share(name: str, x: Tensor) -> Share:
        shape = shapes[name]

        def slices() -> Iterator[tuple[Index, np.ndarray]]:
            if state.mesh is None or sharding.is_to_save(state.mesh, shape):
                yield _place(x, shape, state.mesh), x.cpu().numpy()

        return Share(shape, np.dtype(str(x.dtype).removeprefix("torch.")), slices)

    return (
        ((name, share(name, x)) for name, x in _weights(state)),
        ((name, share(name, x)) for name, x in _optimizer(state)),
    )


def micro_batches(
    batch: Batch, config: TrainConfig, rows: slice
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor | None]]:
    """What the model takes, targets and loss mask of these rows of each micro-batch, on the model's device."""
    check_batch(batch, config.model.vocab_size)
    for i in range(len(batch.inputs)):
        inputs = tuple(torch.tensor(a[i, rows], device=config.device) for a in batch.model_inputs)
        targets = torch.tensor(batch.targets[i, rows], device=config.device)
        mask = (
            None if batch.loss_mask is None else torch.tensor(batch.loss_mask[i, rows], device=config.device)
        )
        yield inputs, targets, mask


def _rows(batch: Batch, mesh: Mesh | None) -> slice:
    """Those of each micro-batch that this process takes."""
    B = batch.inputs.shape[1]
    return sharding.batch_rows(mesh, B) if mesh else slice(0, B)


def sum_losses(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor | None) -> Float[Tensor, ""]:
    """Return the sum of the losses at the positions that count."""
    losses_BT = token_cross_entropy(logits_BTV, targets_BT)
    return (losses_BT if mask_BT is None else torch.where(mask_BT, losses_BT, 0.0)).sum()


def dropout_key(config: TrainConfig, state: TrainState, first_row: int, rows: int) -> DropoutKey | None:
    """Return what the next step drops of these rows of its batch."""
    if not config.model.drops:
        return None
    rows_B = torch.arange(first_row, first_row + rows, dtype=torch.int32, device=config.device)
    return DropoutKey(config.seed, state.step, rows_B)


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Have torch take deterministic algorithms inside, and refuse operations that have none.

    By default it adds the gradients of an embedding's rows with atomics, in the order in which the threads come.
    The setting ends with the step: the process may be another program's, and decoding, whose operations are
    deterministic anyway, would become slower.
    """
    settings: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    # torch.use_deterministic_algorithms does the same, but imports the compiler, which takes a second.
    torch.set_deterministic_debug_mode("error")
    # A pass over each new array, which all of our code writes before it reads.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fills


def make_train_step(config: TrainConfig, mesh: Mesh | None = None) -> TrainStep:
    """Forward, backward, clipping and AdamW, in eager mode."""

    @same_bits()
    def train_step(state: TrainState, batch: Batch, lr: float) -> tuple[TrainState, dict[str, Any]]:
        for p in state.held.values():
            p.grad = None
        losses, rows, (A, B) = [], _rows(batch, mesh), batch.inputs.shape[:2]
        for i, (inputs, targets_BT, mask_BT) in enumerate(micro_batches(batch, config, rows)):
            key = dropout_key(config, state, i * B + rows.start, len(targets_BT))
            if mesh:
                state.model.set_requires_all_reduce(i == A - 1)
            loss = sum_losses(state.model(*inputs, key=key), targets_BT, mask_BT) / batch.num_targets
            loss.backward()
            losses.append(loss.detach())
        total, norm = torch.stack(losses).sum(), None
        if mesh:
            total, norm = sharding.take_gradients(state.model, state.held, total, mesh)
        for array in state.arrays:
            array.take_gradients()
        arrays = [array.whole for array in state.arrays]
        norm = clip_gradients(arrays, config.optimizer.max_grad_norm, norm)
        finite = torch.isfinite(total) & torch.isfinite(norm)
        if finite:
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.step()
        return state, {"loss": total, "grad_norm": norm, "finite": finite}

    return train_step


def make_eval_step(config: TrainConfig, mesh: Mesh | None = None) -> EvalStep:
    """Forward only."""

    @torch.no_grad()
    def eval_step(state: TrainState, batch: Batch) -> tuple[float, int, int]:
        total, correct = 0.0, 0
        for inputs, targets_BT, mask_BT in micro_batches(batch, config, _rows(batch, mesh)):
            logits_BTV = state.model(*inputs)
            total += float(sum_losses(logits_BTV, targets_BT, mask_BT))
            hits_BT = logits_BTV.argmax(-1) == targets_BT
            correct += int((hits_BT if mask_BT is None else hits_BT & mask_BT).sum())
        if mesh:
            sums = torch.tensor((total, correct), dtype=torch.float64, device=config.device)
            total, correct = sharding.total(sums).tolist()
        return total, batch.num_targets, int(correct)

    return eval_step


def make_logits(config: TrainConfig) -> Logits:
    """One forward pass, without a cache."""

    @torch.no_grad()
    def all_logits(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
    ) -> Float[np.ndarray, "B T V"]:
        inputs = [a for a in (token_ids_BT, num_tokens_B, prefix_BP) if a is not None]
        for token_ids in inputs[::2]:
            check_token_ids(token_ids, config.model.vocab_size)
        logits_BTV = state.model(*(torch.tensor(a, device=config.device) for a in inputs))
        return logits_BTV.to(dtype_named(config.param_dtype)).cpu().numpy()

    return all_logits


def decoder_of(model: Any) -> Any:
    """Return the part of a model that writes text."""
    return model.decoder if isinstance(model, EncoderDecoder) else model


def _on_host(logits_BV: Tensor) -> Float[np.ndarray, "B V"]:
    """Copy logits row by row: a product may be a transpose, and who reads a row of it reads all memory."""
    return at_least_float32(logits_BV).contiguous().cpu().numpy()


def make_prefill(config: TrainConfig) -> Prefill:
    """One pass over the prompts, that fills the first slots of a cache."""
    m = config.model

    @torch.inference_mode()
    def prefill(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        lengths_B: Int[np.ndarray, " B"],
        slots: int | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_BT, m.vocab_size)
        (B, T), model = token_ids_BT.shape, decoder_of(state.model)
        ids_BT = torch.tensor(token_ids_BT, device=config.device)
        if prefix_BP is None or num_tokens_B is None:
            num_tokens_B, tables = np.zeros(B, np.int64), model.first_tables(T)
            x_BSD, context = (
                model.embed(ids_BT, tables),
                Context(causal_mask(T, config.device), model.rope(tables)),
            )
        else:
            check_token_ids(prefix_BP, m.vocab_size)
            prefix, num_tokens = (torch.tensor(a, device=config.device) for a in (prefix_BP, num_tokens_B))
            hidden_BPD = encode(state.model.encoder, prefix, num_tokens)
            x_BSD, context = after_prefix(model, hidden_BPD, num_tokens, ids_BT)
        S = x_BSD.shape[1]
        P, H = S - T, m.num_kv_heads
        shape = B, H, P + (slots or m.context_length), m.d_head
        layers = [LayerCache(x_BSD.new_zeros(shape), x_BSD.new_zeros(shape)) for _ in model.layers]
        # What lies after a shorter prompt's end is overwritten before it is seen.
        slots_BS = torch.arange(S, device=config.device).expand(B, S)
        x_BSD = model.hidden_states(x_BSD, replace(context, slots_BT=slots_BS), layers)
        last_BD = x_BSD[torch.arange(B), torch.tensor(P + lengths_B - 1)]
        return _on_host(model.logits(last_BD)), Cache(num_tokens_B, P, layers)

    return prefill


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """One token a sequence against the cache, which slides: position t takes slot t mod S, after the prefix's slots."""
    m = config.model

    @torch.inference_mode()
    def decode_step(
        state: TrainState,
        cache: Cache,
        token_ids_B: Int[np.ndarray, " B"],
        positions_B: Int[np.ndarray, " B"],
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_B, m.vocab_size)
        model, P = decoder_of(state.model), cache.P
        slots = cache.layers[0].k_BHSK.shape[2] - P
        filled = min(slots, int(positions_B.max()) + 1)
        position_B1, num_tokens_B1 = positions_B[:, None], cache.num_tokens_B[:, None]
        sees_BS = np.concatenate((np.arange(P) < num_tokens_B1, np.arange(filled) <= position_B1), axis=1)
        mask_B11S, ids_B1, slots_B1 = (
            torch.tensor(a, device=config.device)
            for a in (sees_BS[:, None, None], token_ids_B[:, None], P + position_B1 % slots)
        )
        # RoPE continues where the prefix ends, and every head of a sequence has its positions.
        rotary = m.position == "rope"
        tables = model.tables_of((position_B1 + num_tokens_B1)[:, None] if rotary else position_B1)
        context = Context(mask_B11S, model.rope(tables), slots_B1)
        x_B1D = model.hidden_states(model.embed(ids_B1, tables), context, cache.layers)
        return _on_host(model.logits(x_B1D[:, 0])), cache

    return decode_step
