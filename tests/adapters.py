"""The course's adapter functions: torch tensors in and out, whichever backend computes.

LM_BACKEND=jax hands the mathematics to jax_impl; what acts on a torch model or optimizer stays torch's.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import jax
import jax.numpy as jnp
import numpy.typing as npt
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.dlpack import from_dlpack

import jax_impl.attention
import jax_impl.functional
import jax_impl.layers
import jax_impl.masks
import jax_impl.model
import torch_impl.attention
import torch_impl.functional
import torch_impl.layers
import torch_impl.masks
import torch_impl.model
from jax_impl.trees import nested
from lm.config import ModelConfig
from lm.data.batch import check_token_ids
from lm.data.windows import get_batch
from lm.init import rope_tables
from lm.schedule import schedule
from tokenizer import Tokenizer, train_bpe
from tokenizer.errors import InputError
from torch_impl.optimizer import AdamW

FilePath = str | os.PathLike[str]
Module = TypeVar("Module", bound=torch.nn.Module)

# Float64 tensors, and int64 indices, are to reach JAX as they are.
jax.config.update("jax_enable_x64", True)


def _use_jax() -> bool:
    backend = os.environ.get("LM_BACKEND", "torch")
    if backend not in ("torch", "jax"):
        raise InputError(f"LM_BACKEND is {backend!r}: give torch or jax")
    return backend == "jax"


def _via_jax(function: Callable[..., Any], *args: Any) -> Tensor:
    """Call a JAX function on arguments whose tensors become arrays, also those in dicts and tuples."""

    def to_jax(x: Any) -> Any:
        return jnp.from_dlpack(x.detach().cpu().contiguous()) if isinstance(x, Tensor) else x

    # Use the CPU even if there is a GPU: its matrix products may round to 10 bits.
    with jax.default_device(jax.devices("cpu")[0]):
        return from_dlpack(function(*jax.tree.map(to_jax, args))).clone()


def _loaded(module: Module, weights: Mapping[str, Tensor]) -> Module:
    """The module with these weights, in their dtypes."""
    module.load_state_dict(weights, assign=True)
    return module


def _rope_tables(theta: float, d_head: int, positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `positions`, in the precision that x is rotated in."""
    cos, sin = rope_tables(theta, d_head, positions.cpu().numpy())
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.tensor(cos, dtype=dtype, device=x.device), torch.tensor(sin, dtype=dtype, device=x.device)


def run_linear(
    d_in: int,
    d_out: int,
    weights: Float[Tensor, "d_out d_in"],
    in_features: Float[Tensor, "... d_in"],
) -> Float[Tensor, "... d_out"]:
    if _use_jax():
        return _via_jax(jax_impl.layers.linear, {"weight": weights}, in_features)
    return _loaded(torch_impl.layers.Linear(d_in, d_out), {"weight": weights})(in_features)


def run_embedding(
    vocab_size: int,
    d_model: int,
    weights: Float[Tensor, "vocab_size d_model"],
    token_ids: Int[Tensor, "..."],
) -> Float[Tensor, "... d_model"]:
    check_token_ids(token_ids.cpu().numpy(), vocab_size)
    if _use_jax():
        return _via_jax(jax_impl.layers.embedding, {"weight": weights}, token_ids)
    return _loaded(torch_impl.layers.Embedding(vocab_size, d_model), {"weight": weights})(token_ids)


def run_swiglu(
    d_model: int,
    d_ff: int,
    w1_weight: Float[Tensor, "d_ff d_model"],
    w2_weight: Float[Tensor, "d_model d_ff"],
    w3_weight: Float[Tensor, "d_ff d_model"],
    in_features: Float[Tensor, "... d_model"],
) -> Float[Tensor, "... d_model"]:
    weights = {"w1.weight": w1_weight, "w2.weight": w2_weight, "w3.weight": w3_weight}
    if _use_jax():
        return _via_jax(jax_impl.layers.swiglu, nested(weights), in_features)
    return _loaded(torch_impl.layers.SwiGLU(d_model, d_ff), weights)(in_features)


def run_scaled_dot_product_attention(
    Q: Float[Tensor, "... queries d_k"],
    K: Float[Tensor, "... keys d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
) -> Float[Tensor, "... queries d_v"]:
    if _use_jax():
        return _via_jax(jax_impl.attention.scaled_dot_product_attention, Q, K, V, mask)
    return torch_impl.attention.scaled_dot_product_attention(Q, K, V, mask)


def run_multihead_self_attention(
    d_model: int,
    num_heads: int,
    q_proj_weight: Float[Tensor, "d_model d_model"],
    k_proj_weight: Float[Tensor, "d_model d_model"],
    v_proj_weight: Float[Tensor, "d_model d_model"],
    o_proj_weight: Float[Tensor, "d_model d_model"],
    in_features: Float[Tensor, "... seq d_model"],
) -> Float[Tensor, "... seq d_model"]:
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return _attention(d_model, num_heads, weights, in_features, None)


def run_multihead_self_attention_with_rope(
    d_model: int,
    num_heads: int,
    max_seq_len: int,
    theta: float,
    q_proj_weight: Float[Tensor, "d_model d_model"],
    k_proj_weight: Float[Tensor, "d_model d_model"],
    v_proj_weight: Float[Tensor, "d_model d_model"],
    o_proj_weight: Float[Tensor, "d_model d_model"],
    in_features: Float[Tensor, "... seq d_model"],
    token_positions: Int[Tensor, "... seq"] | None = None,
) -> Float[Tensor, "... seq d_model"]:
    if token_positions is None:
        token_positions = torch.arange(in_features.shape[-2])
    # Every head of a sequence has its positions.
    tables = _rope_tables(theta, d_model // num_heads, token_positions[..., None, :], in_features)
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return _attention(d_model, num_heads, weights, in_features, tables)


def _attention_weights(q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> dict[str, Tensor]:
    return {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "output_proj.weight": output}


def _attention(
    d_model: int, num_heads: int, weights: dict[str, Tensor], x: Tensor, tables: tuple[Tensor, Tensor] | None
) -> Tensor:
    if _use_jax():
        mask = jax_impl.masks.causal_mask(x.shape[-2])
        return _via_jax(
            lambda params, x, tables: jax_impl.attention.multihead_self_attention(
                params, x, jax_impl.attention.Context(mask, tables), num_heads
            )[0],
            nested(weights),
            x,
            tables,
        )
    module = torch_impl.attention.MultiHeadSelfAttention(d_model, num_heads)
    context = torch_impl.attention.Context(torch_impl.masks.causal_mask(x.shape[-2], x.device), tables)
    return _loaded(module, weights)(x, context)


def run_rope(
    d_k: int,
    theta: float,
    max_seq_len: int,
    in_query_or_key: Float[Tensor, "... seq d_k"],
    token_positions: Int[Tensor, "... seq"],
) -> Float[Tensor, "... seq d_k"]:
    tables = _rope_tables(theta, d_k, token_positions, in_query_or_key)
    if _use_jax():
        return _via_jax(jax_impl.attention.rope, in_query_or_key, tables)
    return torch_impl.attention.rope(in_query_or_key, tables)


def run_transformer_block(
    d_model: int,
    num_heads: int,
    d_ff: int,
    max_seq_len: int,
    theta: float,
    weights: dict[str, Tensor],
    in_features: Float[Tensor, "batch seq d_model"],
) -> Float[Tensor, "batch seq d_model"]:
    config = ModelConfig(1, max_seq_len, d_model, 1, num_heads, d_ff, theta)
    T = in_features.shape[-2]
    assert config.d_head is not None
    tables = _rope_tables(theta, config.d_head, torch.arange(T), in_features)
    if _use_jax():
        mask = jax_impl.masks.causal_mask(T)
        return _via_jax(
            lambda params, x, tables: jax_impl.model.transformer_block(
                params, x, config, jax_impl.attention.Context(mask, tables)
            )[0],
            nested(weights),
            in_features,
            tables,
        )
    block = _loaded(torch_impl.model.TransformerBlock(config), weights)
    context = torch_impl.attention.Context(torch_impl.masks.causal_mask(T, in_features.device), tables)
    return block(in_features, context)


def run_transformer_lm(
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    rope_theta: float,
    weights: dict[str, Tensor],
    in_indices: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq vocab_size"]:
    check_token_ids(in_indices.cpu().numpy(), vocab_size)
    config = ModelConfig(vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta)
    if _use_jax():
        return _via_jax(jax_impl.model.transformer_lm, nested(weights), in_indices, config)
    head = weights["lm_head.weight"]
    model = torch_impl.model.TransformerLM(config, device=head.device, dtype=head.dtype)
    return _loaded(model, weights)(in_indices)


def run_rmsnorm(
    d_model: int,
    eps: float,
    weights: Float[Tensor, " d_model"],
    in_features: Float[Tensor, "... d_model"],
) -> Float[Tensor, "... d_model"]:
    if _use_jax():
        return _via_jax(jax_impl.layers.rmsnorm, {"weight": weights}, in_features, eps)
    return _loaded(torch_impl.layers.RMSNorm(d_model, eps), {"weight": weights})(in_features)


def run_silu(in_features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    if _use_jax():
        return _via_jax(jax_impl.functional.silu, in_features)
    return torch_impl.functional.silu(in_features)


def run_get_batch(
    dataset: npt.NDArray[Any], batch_size: int, context_length: int, device: str
) -> tuple[Int[Tensor, "batch_size context_length"], Int[Tensor, "batch_size context_length"]]:
    if len(dataset) <= context_length:
        raise InputError(f"{len(dataset)} tokens are fewer than context_length + 1 = {context_length + 1}")
    # Each call draws afresh, and torch.manual_seed repeats what was drawn.
    seed = int(torch.randint(2**63 - 1, ()))
    batch = get_batch(dataset, seed, 0, batch_size, context_length)
    x, y = (torch.tensor(ids[0], dtype=torch.int64).to(device) for ids in (batch.inputs, batch.targets))
    return x, y


def run_softmax(in_features: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    if _use_jax():
        return _via_jax(jax_impl.functional.softmax, in_features, dim)
    return torch_impl.functional.softmax(in_features, dim)


def run_cross_entropy(
    inputs: Float[Tensor, "batch_size vocab_size"], targets: Int[Tensor, " batch_size"]
) -> Float[Tensor, ""]:
    check_token_ids(targets.cpu().numpy(), inputs.shape[-1])
    if _use_jax():
        return _via_jax(jax_impl.functional.cross_entropy, inputs, targets)
    return torch_impl.functional.cross_entropy(inputs, targets)


def run_gradient_clipping(parameters: Iterable[torch.nn.Parameter], max_l2_norm: float) -> None:
    torch_impl.functional.clip_gradients(parameters, max_l2_norm)


def get_adamw_cls() -> type[torch.optim.Optimizer]:
    return AdamW


def run_get_lr_cosine_schedule(
    it: int,
    max_learning_rate: float,
    min_learning_rate: float,
    warmup_iters: int,
    cosine_cycle_iters: int,
) -> float:
    return schedule("cosine", it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters)


def run_save_checkpoint(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    out: FilePath | BinaryIO | IO[bytes],
) -> None:
    """Write any model's and optimizer's state without pickle: safetensors, with its structure in the header.

    `lm.run.checkpoint` stores this project's own models; here the state dicts are whatever torch makes of them.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [encode(item) for item in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise InputError(f"a checkpoint cannot hold {value!r} of type {type(value).__name__}")

    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}
    structure = json.dumps(encode(states))
    data = safetensors.torch.save(tensors, metadata={"structure": structure})
    if isinstance(out, str | os.PathLike):
        Path(out).write_bytes(data)
    else:
        out.write(data)


def run_load_checkpoint(
    src: FilePath | BinaryIO | IO[bytes], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Restore what `run_save_checkpoint` wrote and return its iteration. Executes nothing from the file."""
    data = Path(src).read_bytes() if isinstance(src, str | os.PathLike) else src.read()
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        structure = json.loads(header["__metadata__"]["structure"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{src}: not a file that run_save_checkpoint wrote ({error})") from None

    def decode(value: Any) -> Any:
        match value:
            case {"tensor": name}:
                return tensors[name].clone()  # out of the file's buffer, into aligned memory
            case {"dict": items}:
                return {decode(key): decode(item) for key, item in items}
            case {"list": items}:
                return [decode(item) for item in items]
            case {"tuple": items}:
                return tuple(decode(item) for item in items)
        return value

    states = decode(structure)
    model.load_state_dict(states["model"])
    optimizer.load_state_dict(states["optimizer"])
    return int(states["iteration"])


def get_tokenizer(
    vocab: dict[int, bytes],
    merges: list[tuple[bytes, bytes]],
    special_tokens: list[str] | None = None,
) -> Tokenizer:
    return Tokenizer(vocab, merges, special_tokens)


def run_train_bpe(
    input_path: FilePath, vocab_size: int, special_tokens: list[str], **kwargs: Any
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    return train_bpe(Path(input_path), vocab_size, special_tokens, **kwargs)
