"""The other architectures on the same stack: encoder, decoder after a prefix, and both together."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_impl.attention import Context
from jax_impl.dtypes import Params
from jax_impl.functional import DropoutKey
from jax_impl.masks import padding_mask, prefix_mask
from jax_impl.model import Tables, embed, hidden_states, logits, transformer_lm
from lm.config import LayerType, ModelConfig
from lm.init import position_tables


def encode(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    key: DropoutKey | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T D"]:
    """Return the hidden states of an encoder, whose sequences are padded to T."""
    T, param_dtype = token_ids_BT.shape[1], params["token_embeddings"]["weight"].dtype
    tables: Tables = {"full": position_tables(config, np.arange(T), T, param_dtype)}
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables, key)
    rope: Any = tables["full"] if config.position == "rope" else None
    context = Context(padding_mask(num_tokens_B, T), rope, key=key)
    return hidden_states(params, x_BTD, config, {"full": context}, rows=rows)[0]


def transformer_encoder(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    key: DropoutKey | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """Token ids to logits of the token at each place, from the tokens on both sides (Devlin et al., 2019)."""
    hidden_BTD = encode(params, token_ids_BT, num_tokens_B, config, compute_dtype, key, rows)
    return logits(params, hidden_BTD, config)


def after_prefix(
    params: Params,
    hidden_BPD: Float[Array, "B P D"],
    num_tokens_B: Int[Array, " B"],
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    key: DropoutKey | None = None,
) -> tuple[Float[Array, "B S D"], dict[LayerType, Context]]:
    """Return the residual stream of a prefix's hidden states and the tokens after them, and the blocks' contexts.

    Added positions count the tokens from 0. RoPE's positions continue from the prefix's end, so that padding does not
    count.
    """
    P, T, param_dtype = (
        hidden_BPD.shape[1],
        token_ids_BT.shape[1],
        params["token_embeddings"]["weight"].dtype,
    )
    place_1S = jnp.arange(P + T, dtype=num_tokens_B.dtype)[None, :]
    is_token_BP1 = (place_1S[:, :P] < num_tokens_B[:, None])[..., None]
    prefix_BPD = jnp.where(jnp.broadcast_to(is_token_BP1, hidden_BPD.shape), hidden_BPD, 0)
    tables: Tables = {"full": position_tables(config, np.arange(T), config.context_length, param_dtype)}
    x_BTD = embed(params, token_ids_BT, config, hidden_BPD.dtype, tables, key)
    rope: Any = None
    if config.position == "rope":
        place_BS = jnp.where(place_1S < P, place_1S, place_1S - P + num_tokens_B[:, None])
        of_all = position_tables(config, np.arange(P + T), P + T, param_dtype)
        # Every head of a sequence has the sequence's positions.
        rope = tuple(jnp.asarray(table)[place_BS[:, None]] for table in of_all)
    context = Context(prefix_mask(num_tokens_B, P, T), rope, key=key)
    return jnp.concatenate((prefix_BPD, x_BTD), axis=1), {"full": context}


def prefix_decoder(
    params: Params,
    hidden_BPD: Float[Array, "B P D"],
    num_tokens_B: Int[Array, " B"],
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    key: DropoutKey | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """Hidden states of a prefix, and the token ids after it, to logits of the next token.

    The prefix is put before the tokens' embeddings, so that all blocks see one sequence. In it the prefix attends to
    all of the prefix, and a token to all of the prefix and to the tokens up to itself.
    """
    x_BSD, contexts = after_prefix(params, hidden_BPD, num_tokens_B, token_ids_BT, config, key)
    x_BSD, _ = hidden_states(params, x_BSD, config, contexts, rows=rows)
    return logits(params, x_BSD[:, hidden_BPD.shape[1] :], config)


def encoder_decoder(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    prefix_BP: Int[Array, "B P"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    key: DropoutKey | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """Token ids of a prefix, which the encoder reads, and token ids after it, to logits of the next token."""
    in_encoder, in_decoder = (key and key.within(half) for half in ("encoder", "decoder"))
    encoder, decoder = params["encoder"], params["decoder"]
    hidden_BPD = encode(encoder, prefix_BP, num_tokens_B, config, compute_dtype, in_encoder, rows)
    return prefix_decoder(decoder, hidden_BPD, num_tokens_B, token_ids_BT, config, in_decoder, rows)


MODELS: dict[str, Callable[..., Array]] = {
    "decoder": transformer_lm,
    "encoder": transformer_encoder,
    "encoder_decoder": encoder_decoder,
}
"""Each takes the weights, a batch's `model_inputs` by name, config, compute_dtype, key and rows."""
