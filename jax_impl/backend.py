"""The Backend functions (`lm.backend.Backend`) of JAX."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jax_impl import sharding
from jax_impl.attention import LayerCache, causal_mask
from jax_impl.functional import Draw, at_least_float32, clip_gradients, token_cross_entropy
from jax_impl.layers import Params
from jax_impl.model import (
    MODELS,
    Tables,
    behind,
    embed,
    encode,
    hidden_states,
    host_tables,
    logits,
    tables_of,
)
from jax_impl.optimizer import AdamWState, adamw_update
from lm.backend import DecodeStep, EvalStep, Logits, Prefill, TrainStep
from lm.config import TrainConfig
from lm.data.batch import Batch, check_batch, check_token_ids
from lm.init import initial_moments, initial_weights, parameter_shapes
from lm.mesh import Mesh, Processes
from lm.programs import program_folder
from lm.run.checkpoint import Leaves, Share, Shares
from tokenizer.errors import InputError

_DECODING = {"xla_cpu_prefer_vector_width": 512}
"""To XLA, which else takes half of AVX-512's registers: with all, one row's products read the weights faster."""


PROGRAMS_KEPT = {
    "jax_compilation_cache_max_size": 100_000_000,  # of a folder; what was used least recently goes
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""JAX's settings, unless the environment gives others. By its own, what takes a second to compile is kept for ever."""


class Cache(NamedTuple):
    """What decoding goes on from: a cache a layer, of P slots for a prefix and as many behind them as tokens need."""

    num_tokens_B: Int[np.ndarray, " B"]
    """Each prefix's tokens, 0 without one; B is the number of texts, padded as by `few_rows`."""
    P: int
    layers: list[LayerCache | None]


class TrainState(NamedTuple):
    """The weights and, while training, the optimizer's state; each step makes a new one of their memory."""

    params: Params
    optimizer: AdamWState | None


def configure(config: TrainConfig, mesh: Mesh | None = None) -> None:
    """Switch float64 on where it is asked for, make float32 mean float32, and refuse devices that are not there.

    Compiled programs are kept for later commands (`lm.programs`). With a mesh, join the other processes first,
    where the environment names any.
    """
    # XLA's default on accelerators multiplies float32 in TF32 or bfloat16; bfloat16 operands lose nothing by this.
    jax.config.update("jax_default_matmul_precision", "highest")
    # On a CPU a step that is dispatched ahead would get its temporary memory before the last step's is freed: twice.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if config.compute_dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    keep_programs()
    if mesh is None:
        sharding.device(config)
    else:
        sharding.join()
        sharding.devices(config, mesh)


def keep_programs() -> None:
    """Have JAX keep compiled programs in the user's cache directory, or in JAX_COMPILATION_CACHE_DIR.

    JAX's own JAX_ENABLE_COMPILATION_CACHE=false, which --no-compile-cache sets, keeps none.
    """
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false":
        jax.config.update(
            "jax_enable_compilation_cache", False
        )  # JAX may have been imported before it was set
        return
    for name, value in PROGRAMS_KEPT.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    bounded = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE") != "-1"
    folder = program_folder(os.environ.get("JAX_COMPILATION_CACHE_DIR") or None, bounded)
    jax.config.update("jax_compilation_cache_dir", folder)
    # What cannot be read is compiled.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def processes() -> Processes:
    """The processes of a mesh that `configure` has joined."""
    return sharding.processes() if jax.process_count() > 1 else Processes()


def versions() -> dict[str, str]:
    """The versions of jax and of its compiler."""
    import jaxlib

    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def choices(only_measured: bool = False) -> dict[str, str]:
    """Nothing: XLA's programs do not depend on how fast this machine was when they were compiled."""
    return {}


def repeat(choices: dict[str, str]) -> None:
    """There is nothing to repeat: see `choices`."""


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[None]:
    """Have JAX's profiler write a trace, for Perfetto or XProf, of what runs inside."""
    with jax.profiler.trace(str(folder)):
        yield


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """The state before the first step: weights of `lm.init`, moments zero."""
    weights = initial_weights(config.model, seed, config.param_dtype)
    return load_state(config, weights, initial_moments(config.model, config.param_dtype), mesh)


def load_state(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
) -> TrainState:
    """A state of these leaves, copied into memory that JAX allocated."""
    if config.compute_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "compute_dtype float64 needs JAX's x64 mode: call lm.backend.load, or set JAX_ENABLE_X64=1"
        )
    sharding_of = sharding.shardings(config, mesh)

    def put(leaves: Leaves) -> Params:
        return nested({name: sharding.put(leaf, sharding_of(name, leaf.shape)) for name, leaf in leaves})

    if optimizer is None:
        return TrainState(put(weights), None)
    return TrainState(put(weights), AdamWState(**put(optimizer)))


def nested(leaves: dict[str, Any]) -> Any:
    """Nested dicts and lists of leaves named by dotted paths."""
    if "" in leaves:
        return leaves[""]
    children: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        key, _, rest = name.partition(".")
        children.setdefault(key, {})[rest] = leaf
    if all(key.isdigit() for key in children):
        return [nested(children[str(i)]) for i in range(len(children))]
    return {key: nested(child) for key, child in children.items()}


def _named_leaves(tree: Any) -> Iterator[tuple[str, Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by name."""
    for name, leaf in _named_leaves(state.params):
        yield name, np.asarray(leaf)


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """`m.<name>` and `v.<name>` of every weight, and `step`."""
    assert state.optimizer is not None
    for name, leaf in _named_leaves(state.optimizer._asdict()):
        yield name, np.asarray(leaf)


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """The slices of the weights and of the optimizer's leaves on this process's devices; copies of a slice once."""
    assert state.optimizer is not None

    def shares(tree: Any) -> Shares:
        return (
            (name, Share(leaf.shape, leaf.dtype, partial(sharding.slices_to_save, leaf)))
            for name, leaf in _named_leaves(tree)
        )

    return shares(state.params), shares(state.optimizer._asdict())


def _arrays(
    batch: Batch, config: TrainConfig
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray | None]:
    """What the model takes, targets and loss mask of all micro-batches."""
    check_batch(batch, config.model.vocab_size)
    # Copies: JAX may read NumPy's memory in place, and after the call that it was given to has returned.
    return (
        tuple(array.copy() for array in batch.model_inputs),
        batch.targets.copy(),
        None if batch.loss_mask is None else batch.loss_mask.copy(),
    )


def _params_shardings(config: TrainConfig, mesh: Mesh) -> Params:
    sharding_of = sharding.shardings(config, mesh)
    return nested({name: sharding_of(name, shape) for name, shape in parameter_shapes(config.model).items()})


def _sum_losses(logits_BTV: Array, targets_BT: Array, mask_BT: Array | None) -> Float[Array, ""]:
    losses_BT = token_cross_entropy(logits_BTV, targets_BT)
    return (losses_BT if mask_BT is None else jnp.where(mask_BT, losses_BT, 0.0)).sum()


def same_bits(config: TrainConfig) -> dict[str, bool]:
    """What every program asks of XLA.

    By default a GPU adds in any order, and each process times its kernels and takes the quickest.
    """
    return {"xla_gpu_deterministic_ops": True} if config.device.startswith(("cuda", "gpu", "rocm")) else {}


def compiler_options(config: TrainConfig) -> dict[str, Any]:
    """What a step asks of XLA.

    On CPU it would take the barriers away that keep apart what the backward pass computes again, find that the forward
    pass has the same, and keep all activations after all.
    """
    on_cpu = {"xla_disable_hlo_passes": "cse_barrier_expander"} if config.device == "cpu" else {}
    return on_cpu | same_bits(config)


def make_train_step(config: TrainConfig, mesh: Mesh | None = None) -> TrainStep:
    """Forward, backward, clipping and AdamW, as one jitted function that donates the state's memory."""
    model, o = MODELS[config.model.architecture], config.optimizer

    def loss(
        params: Params,
        inputs: tuple[Array, ...],
        targets_BT: Array,
        mask_BT: Array | None,
        rows_B: Array,
        count: Array,
        step: Array,
    ) -> Array:
        draw = Draw(config.seed, step, rows_B) if config.model.drops else None
        dtype = jnp.dtype(config.compute_dtype)
        params = sharding.with_whole_embeddings(params, stream_at)
        logits_BTV = model(params, *inputs, config.model, dtype, draw, stream_at)
        return _sum_losses(logits_BTV, targets_BT, mask_BT) / count

    stream_at, rows = (sharding.batch_sharding(config, mesh, axis) if mesh else None for axis in (0, 1))
    shardings: dict[str, Any] = {}
    if mesh and rows:
        params_at = _params_shardings(config, mesh)
        whole: Any = NamedSharding(rows.mesh, PartitionSpec())
        state_at = TrainState(params_at, AdamWState(params_at, params_at, whole))
        shardings = {
            "in_shardings": (state_at, rows, whole, whole),
            "out_shardings": (state_at, whole),
        }

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(config), **shardings)
    def jitted(
        state: TrainState, batch: tuple[tuple[Array, ...], Array, Array | None], count: Array, lr: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        params, optimizer = state
        assert optimizer is not None
        micro_step, step = jax.value_and_grad(loss), optimizer.step
        M, B = batch[1].shape[:2]
        micro_batches = *batch, jnp.arange(M * B, dtype=np.int32).reshape(M, B)
        if M == 1:
            total, gradients = micro_step(params, *jax.tree.map(lambda x: x[0], micro_batches), count, step)
        else:
            zeros = jnp.zeros((), lr.dtype), jax.tree.map(jnp.zeros_like, params)
            (total, gradients), _ = jax.lax.scan(
                lambda sums, micro: (
                    jax.tree.map(jnp.add, sums, micro_step(params, *micro, count, step)),
                    None,
                ),
                zeros,
                micro_batches,
            )
        clipped, norm = clip_gradients(gradients, o.max_grad_norm)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        # Gains and biases have one axis.
        decay = jax.tree.map(lambda p: o.weight_decay if p.ndim > 1 or o.decay == "all" else 0.0, params)
        betas = o.beta1, o.beta2
        updated = adamw_update(clipped, optimizer, params, lr, betas, o.eps, decay, finite)
        return TrainState(*updated), {"loss": total, "grad_norm": norm, "finite": finite}

    # As scalars of the weights' type, so that neither a new value recompiles nor float64 creeps in.
    scalar = np.dtype(config.param_dtype).type

    def train_step(state: TrainState, batch: Batch, lr: float) -> tuple[TrainState, dict[str, Any]]:
        arrays = _arrays(batch, config)
        if rows:
            arrays = jax.tree.map(lambda array: sharding.put(array, rows), arrays)
        return jitted(state, arrays, scalar(batch.num_targets), scalar(lr))

    return train_step


def make_eval_step(config: TrainConfig, mesh: Mesh | None = None) -> EvalStep:
    """Forward only."""
    model = MODELS[config.model.architecture]

    rows = sharding.batch_sharding(config, mesh, 0) if mesh else None
    shardings: dict[str, Any] = {}
    if mesh and rows:
        shardings = {
            "in_shardings": (_params_shardings(config, mesh), rows, rows, rows),
            "out_shardings": NamedSharding(rows.mesh, PartitionSpec()),
        }

    @partial(jax.jit, compiler_options=same_bits(config), **shardings)
    def jitted(
        params: Params, inputs: tuple[Array, ...], targets_BT: Array, mask_BT: Array | None
    ) -> tuple[Array, Array]:
        dtype = jnp.dtype(config.compute_dtype)
        params = sharding.with_whole_embeddings(params, rows)
        logits_BTV = model(params, *inputs, config.model, dtype, None, rows)
        hits_BT = logits_BTV.argmax(-1).astype(targets_BT.dtype) == targets_BT
        correct = (hits_BT if mask_BT is None else hits_BT & mask_BT).sum()
        return _sum_losses(logits_BTV, targets_BT, mask_BT), correct

    def eval_step(state: TrainState, batch: Batch) -> tuple[float, int, int]:
        total, correct = 0.0, 0
        arrays = _arrays(batch, config)
        for i in range(len(batch.inputs)):
            micro = jax.tree.map(lambda x, i=i: sharding.put(x[i], rows) if rows else x[i], arrays)
            micro_total, micro_correct = jitted(state.params, *micro)
            total += float(micro_total)
            correct += int(micro_correct)
        return total, batch.num_targets, correct

    return eval_step


def make_logits(config: TrainConfig) -> Logits:
    """One forward pass, without a cache, of few shapes."""
    m = config.model
    model = MODELS[m.architecture]

    @partial(jax.jit, compiler_options=same_bits(config))
    def jitted(params: Params, *inputs: Array) -> Array:
        logits_BTV = model(params, *inputs, m, jnp.dtype(config.compute_dtype))
        return logits_BTV.astype(config.param_dtype)

    def all_logits(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
    ) -> Float[np.ndarray, "B T V"]:
        for token_ids in (token_ids_BT, prefix_BP):
            if token_ids is not None:
                check_token_ids(token_ids, m.vocab_size)
        (B, T), rows = token_ids_BT.shape, few_rows(len(token_ids_BT))
        # Of one type, whatever type the caller has.
        inputs = [padded(token_ids_BT.astype(np.int32), rows, few_lengths(T, m.context_length))]
        if num_tokens_B is not None:
            inputs.append(padded(num_tokens_B, rows))
        if prefix_BP is not None:
            inputs.append(padded(prefix_BP, rows, few_lengths(prefix_BP.shape[1], m.prefix_length or 0)))
        return np.asarray(jitted(state.params, *inputs))[:B, :T]

    return all_logits


def few_rows(n: int) -> int:
    """The number of rows that n are padded to: a power of two up to 64, and multiples of 64.

    A program is compiled for each shape, which takes longer than it runs.
    """
    part = min(64, 1 << max(0, n - 1).bit_length())
    return -(-n // part) * part


def few_lengths(n: int, longest: int) -> int:
    """The length that n tokens are padded to: one of at most eight, the longest and powers of two below it."""
    least = max(16, 1 << max(0, (longest - 1) // 128).bit_length())
    return max(n, min(longest, max(least, 1 << max(0, n - 1).bit_length())))


def padded(array: np.ndarray, *shape: int) -> np.ndarray:
    """The array, its last row and its last column repeated up to a shape.

    Whatever stands there changes no number of the others: rows do not meet, no query sees a later key, and an encoder
    has a mask. Repeated, it holds no token that the caller did not give.
    """
    if array.shape == shape:  # pad would take microseconds, of which a decoding step has few
        return array
    more = [(0, size - n) for size, n in zip(shape, array.shape, strict=True)]
    return np.pad(array, more, mode="edge")


def make_prefill(config: TrainConfig) -> Prefill:
    """One pass over the prompts, that fills the first slots of a cache."""
    m, dtype = config.model, jnp.dtype(config.compute_dtype)

    @partial(jax.jit, static_argnums=3, compiler_options=same_bits(config))
    def jitted(
        params: Params,
        token_ids_BT: Array,
        lengths_B: Array,
        slots: int,
        prefix_BP: Array | None,
        num_tokens_B: Array,
    ) -> tuple[Array, list[LayerCache | None]]:
        B, T = token_ids_BT.shape
        decoder = _decoder(params)
        if prefix_BP is None:
            tables = tables_of(m, np.arange(T), m.context_length, config.param_dtype)
            x_BSD, mask = embed(decoder, token_ids_BT, m, dtype, tables), causal_mask(T)
        else:
            hidden_BPD = encode(params["encoder"], prefix_BP, num_tokens_B, m, dtype)
            x_BSD, mask, tables = behind(decoder, hidden_BPD, num_tokens_B, token_ids_BT, m)
        S = x_BSD.shape[1]
        assert m.num_kv_heads is not None  # filled in by ModelConfig
        zeros = jnp.zeros((B, m.num_kv_heads, S - T + slots, m.d_head), dtype)
        caches = [LayerCache(zeros.mT, zeros) for _ in decoder["layers"]]
        # What lies behind a shorter prompt's end is overwritten before it is seen.
        slots_BS = jnp.broadcast_to(jnp.arange(S)[None, :], (B, S))
        x_BSD, written = hidden_states(decoder, x_BSD, m, mask, tables, caches, slots_BS)
        last_BD = x_BSD[jnp.arange(B), S - T + lengths_B - 1]
        return at_least_float32(logits(decoder, last_BD)), written

    def prefill(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        lengths_B: Int[np.ndarray, " B"],
        slots: int | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_BT, m.vocab_size)
        (B, T), P, rows = token_ids_BT.shape, 0, few_rows(len(token_ids_BT))
        if prefix_BP is None or num_tokens_B is None:
            num_tokens_B = np.zeros(B, np.int64)
        else:
            check_token_ids(prefix_BP, m.vocab_size)
            P = prefix_BP.shape[1]
            prefix_BP = padded(prefix_BP, rows, P)
        num_tokens_B = padded(num_tokens_B, rows)
        logits_BV, caches = jitted(
            state.params,
            padded(token_ids_BT, rows, T),
            padded(lengths_B, rows),
            slots or m.context_length,
            prefix_BP,
            num_tokens_B,
        )
        return np.asarray(logits_BV)[:B], Cache(num_tokens_B, P, caches)

    return prefill


def _decoder(params: Params) -> Params:
    return params.get("decoder", params)


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """One token a sequence against the cache, which slides: position t takes slot t mod S, behind the prefix's."""
    m, dtype = config.model, jnp.dtype(config.compute_dtype)

    @partial(jax.jit, donate_argnums=1, static_argnums=2, compiler_options=_DECODING | same_bits(config))
    def jitted(
        params: Params,
        caches: list[LayerCache],
        P: int,
        ids_B1: Array,
        position_B1: Array,
        num_tokens_B1: Array,
        tables: Tables,
    ) -> tuple[Array, list[LayerCache | None]]:
        S, decoder = caches[0].v_BHSK.shape[2] - P, _decoder(params)
        sees_BS = jnp.concatenate(
            (jnp.arange(P)[None, :] < num_tokens_B1, jnp.arange(S)[None, :] <= position_B1), axis=1
        )
        slots_B1, mask_B11S = P + position_B1 % S, sees_BS[:, None, None, :]
        x_B1D = embed(decoder, ids_B1, m, dtype, tables)
        x_B1D, written = hidden_states(decoder, x_B1D, m, mask_B11S, tables, caches, slots_B1)
        return at_least_float32(logits(decoder, x_B1D[:, 0])), written

    def decode_step(
        state: TrainState,
        cache: Cache,
        token_ids_B: Int[np.ndarray, " B"],
        positions_B: Int[np.ndarray, " B"],
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_B, m.vocab_size)
        rows = len(cache.num_tokens_B)
        ids_B1, position_B1 = (padded(x_B, rows)[:, None] for x_B in (token_ids_B, positions_B))
        num_tokens_B1 = cache.num_tokens_B[:, None].astype(positions_B.dtype)
        # RoPE goes on where the prefix ends.
        place_B1 = position_B1 + num_tokens_B1 if m.position == "rope" else position_B1
        # On the host: each array that is put on the device by itself costs as much as a layer.
        tables = host_tables(m, place_B1, m.context_length, config.param_dtype)
        logits_BV, written = jitted(
            state.params, cache.layers, cache.P, ids_B1, position_B1, num_tokens_B1, tables
        )
        return np.asarray(logits_BV)[: len(token_ids_B)], cache._replace(layers=written)

    return decode_step
