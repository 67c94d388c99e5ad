"""The Backend functions (`lm.backend.Backend`) of JAX."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jax_impl import fast, sharding
from jax_impl.attention import Context, LayerCache, causal_mask
from jax_impl.dtypes import Params, at_least_float32, dtype_named
from jax_impl.fast import few_lengths, few_rows, padded
from jax_impl.functional import DropoutKey, clip_gradients, token_cross_entropy
from jax_impl.model import Tables, embed, hidden_states, logits
from jax_impl.optimizer import AdamWState, adamw_update
from jax_impl.sequences import MODELS, after_prefix, encode
from jax_impl.trees import named_leaves, nested
from lm.backend import DecodeStep, EvalStep, Logits, Prefill, TrainStep
from lm.config import TrainConfig
from lm.data.batch import Batch, check_batch, check_token_ids
from lm.init import initial_moments, initial_weights, position_tables
from lm.mesh import Mesh
from lm.run.checkpoint import Leaves, Share, Shares
from tokenizer.errors import InputError


class Cache(NamedTuple):
    """What decoding continues from: each layer's cache, of P slots for a prefix and then the slots of the tokens."""

    num_tokens_B: Int[np.ndarray, " B"]
    """The number of tokens of each prefix, 0 without a prefix. B is the number of texts, padded by `few_rows`."""
    P: int
    layers: list[LayerCache | None]


class TrainState(NamedTuple):
    """The weights and, while training, the optimizer's state. Each step makes a new state in the same memory."""

    params: Params
    optimizer: AdamWState | None


def configure(config: TrainConfig, mesh: Mesh | None = None) -> None:
    """Switch float64 and fast forms on or off, make float32 mean float32, and refuse devices that are not there.

    Compiled programs are kept for later commands (`lm.programs`). With a mesh, join the other processes first
    if the environment names any.
    """
    # On accelerators XLA by default multiplies float32 in TF32 or bfloat16; bfloat16 operands lose nothing by this.
    jax.config.update("jax_default_matmul_precision", "highest")
    # On a CPU a step that is dispatched ahead would get its temporary memory before the last step's memory is freed.
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


processes = sharding.processes


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


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """Return the state before the first step: the weights of `lm.init`, and zero moments."""
    weights = initial_weights(config.model, seed, config.param_dtype)
    return load_state(config, weights, initial_moments(config.model, config.param_dtype), mesh)


def load_state(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
) -> TrainState:
    """Return a state of these leaves, copied into memory that JAX allocated."""
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


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights by name."""
    for name, leaf in named_leaves(state.params):
        yield name, np.asarray(leaf)


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `m.<name>` and `v.<name>` of every weight, and `step`."""
    assert state.optimizer is not None
    for name, leaf in named_leaves(state.optimizer._asdict()):
        yield name, np.asarray(leaf)


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """Return what this process saves of the weights and of the optimizer's leaves."""
    assert state.optimizer is not None

    def shares(tree: Any) -> Shares:
        return (
            (name, Share(leaf.shape, leaf.dtype, partial(sharding.slices_to_save, leaf)))
            for name, leaf in named_leaves(tree)
        )

    return shares(state.params), shares(state.optimizer._asdict())


def micro_batches(
    batch: Batch, config: TrainConfig
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray | None]:
    """Return what the model reads, targets and loss mask of all micro-batches."""
    check_batch(batch, config.model.vocab_size)
    # Copies: JAX may read NumPy's memory in place, even after the call that the array was given to has returned.
    return (
        tuple(array.copy() for array in batch.model_inputs),
        batch.targets.copy(),
        None if batch.loss_mask is None else batch.loss_mask.copy(),
    )


def sum_losses(logits_BTV: Array, targets_BT: Array, mask_BT: Array | None) -> Float[Array, ""]:
    """Sum the losses of the targets that count."""
    losses_BT = token_cross_entropy(logits_BTV, targets_BT)
    return (losses_BT if mask_BT is None else jnp.where(mask_BT, losses_BT, 0.0)).sum()


def dropout_key(config: TrainConfig, step: Array, rows_B: Array) -> DropoutKey | None:
    """Return what a step drops of these rows of its batch."""
    return DropoutKey(config.seed, step, rows_B) if config.model.drops else None


def same_bits(config: TrainConfig) -> dict[str, bool]:
    """Return what every program asks of XLA.

    By default a GPU adds in any order, and each process times its kernels and takes the quickest.
    """
    return {"xla_gpu_deterministic_ops": True} if config.device.startswith(("cuda", "gpu", "rocm")) else {}


def make_train_step(config: TrainConfig, mesh: Mesh | None = None) -> TrainStep:
    """Make the training step: forward, backward, clipping and AdamW, one jitted function that donates its state."""
    model, o = MODELS[config.model.architecture], config.optimizer
    stream_rows, rows = (sharding.batch_rows(config, mesh, axis) if mesh else None for axis in (0, 1))

    def loss(
        params: Params,
        inputs: tuple[Array, ...],
        targets_BT: Array,
        mask_BT: Array | None,
        rows_B: Array,
        count: Array,
        step: Array,
    ) -> Array:
        params, key = sharding.gather_embeddings(params, stream_rows), dropout_key(config, step, rows_B)
        dtype = dtype_named(config.compute_dtype)
        logits_BTV = model(params, *inputs, config.model, dtype, key, stream_rows)
        return sum_losses(logits_BTV, targets_BT, mask_BT) / count

    shardings: dict[str, Any] = {}
    if mesh and rows:
        of_params = sharding.params_shardings(config, mesh)
        whole: Any = NamedSharding(rows.mesh, PartitionSpec())
        of_state = TrainState(of_params, AdamWState(of_params, of_params, whole))
        shardings = {
            "in_shardings": (of_state, rows, whole, whole),
            "out_shardings": (of_state, whole),
        }
    options = fast.training_options(config.device) | same_bits(config)

    @partial(jax.jit, donate_argnums=0, compiler_options=options, **shardings)
    def jitted(
        state: TrainState, batch: tuple[tuple[Array, ...], Array, Array | None], count: Array, lr: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        params, optimizer = state
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
        # Gains and biases have one axis.
        decay = jax.tree.map(lambda p: o.weight_decay if p.ndim > 1 or o.decay == "all" else 0.0, params)
        betas = o.beta1, o.beta2
        updated = adamw_update(clipped, optimizer, params, lr, betas, o.eps, decay, finite)
        return TrainState(*updated), {"loss": total, "grad_norm": norm, "finite": finite}

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

    @partial(jax.jit, compiler_options=same_bits(config), **shardings)
    def jitted(
        params: Params, inputs: tuple[Array, ...], targets_BT: Array, mask_BT: Array | None
    ) -> tuple[Array, Array]:
        params = sharding.gather_embeddings(params, rows)
        logits_BTV = model(params, *inputs, config.model, dtype_named(config.compute_dtype), None, rows)
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


def make_logits(config: TrainConfig) -> Logits:
    """Make the forward pass without a cache."""
    m = config.model
    model = MODELS[m.architecture]

    @partial(jax.jit, compiler_options=same_bits(config))
    def jitted(params: Params, *inputs: Array) -> Array:
        logits_BTV = model(params, *inputs, m, dtype_named(config.compute_dtype))
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
        # int32, whatever type the caller's ids have: each type would compile a program.
        inputs = [padded(token_ids_BT.astype(np.int32), rows, few_lengths(T, m.context_length))]
        if num_tokens_B is not None:
            inputs.append(padded(num_tokens_B, rows))
        if prefix_BP is not None:
            inputs.append(padded(prefix_BP, rows, few_lengths(prefix_BP.shape[1], m.prefix_length or 0)))
        return np.asarray(jitted(state.params, *inputs))[:B, :T]

    return all_logits


def decoder_of(params: Params) -> Params:
    """Return the weights of the part that writes text."""
    return params.get("decoder", params)


def make_prefill(config: TrainConfig) -> Prefill:
    """Make the pass over the prompts, which fills the first slots of a cache."""
    m, dtype = config.model, dtype_named(config.compute_dtype)

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
        decoder = decoder_of(params)
        if prefix_BP is None:
            tables: Any = position_tables(m, np.arange(T), m.context_length, config.param_dtype)
            x_BSD = embed(decoder, token_ids_BT, m, dtype, tables)
            context = Context(causal_mask(T), tables if m.position == "rope" else None)
        else:
            hidden_BPD = encode(params["encoder"], prefix_BP, num_tokens_B, m, dtype)
            x_BSD, context = after_prefix(decoder, hidden_BPD, num_tokens_B, token_ids_BT, m)
        S = x_BSD.shape[1]
        assert m.num_kv_heads is not None  # filled in by ModelConfig
        zeros = jnp.zeros((B, m.num_kv_heads, S - T + slots, m.d_head), dtype)
        caches = [LayerCache(zeros.mT, zeros) for _ in decoder["layers"]]
        # Slots after a shorter prompt's end are overwritten before they are seen.
        context = replace(context, slots_BT=jnp.broadcast_to(jnp.arange(S)[None, :], (B, S)))
        x_BSD, written = hidden_states(decoder, x_BSD, m, context, caches)
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


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """Make the step that reads one token of each text. The cache slides: position t takes slot P + t mod S."""
    m, dtype = config.model, dtype_named(config.compute_dtype)
    options = fast.decoding_options() | same_bits(config)

    @partial(jax.jit, donate_argnums=1, static_argnums=2, compiler_options=options)
    def jitted(
        params: Params,
        caches: list[LayerCache],
        P: int,
        ids_B1: Array,
        position_B1: Array,
        num_tokens_B1: Array,
        tables: Tables,
    ) -> tuple[Array, list[LayerCache | None]]:
        S, decoder = caches[0].v_BHSK.shape[2] - P, decoder_of(params)
        sees_BS = jnp.concatenate(
            (jnp.arange(P)[None, :] < num_tokens_B1, jnp.arange(S)[None, :] <= position_B1), axis=1
        )
        # Every head of a text has the text's position.
        rope: Any = tuple(table[:, None] for table in tables) if m.position == "rope" else None
        context = Context(sees_BS[:, None, None, :], rope, P + position_B1 % S)
        x_B1D = embed(decoder, ids_B1, m, dtype, tables)
        x_B1D, written = hidden_states(decoder, x_B1D, m, context, caches)
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
        # RoPE continues from the prefix's end.
        place_B1 = position_B1 + num_tokens_B1 if m.position == "rope" else position_B1
        # On the host: each array that is put on the device by itself costs as much as a layer.
        tables = position_tables(m, place_B1, m.context_length, config.param_dtype)
        logits_BV, written = jitted(
            state.params, cache.layers, cache.P, ids_B1, position_B1, num_tokens_B1, tables
        )
        return np.asarray(logits_BV)[: len(token_ids_B)], cache._replace(layers=written)

    return decode_step
