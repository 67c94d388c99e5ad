"""Writing text: the Backend functions of torch that read prompts into a cache and then one token a step."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lm.backend import DecodeStep, Logits, Prefill
from lm.config import LayerType, TrainConfig
from lm.data.batch import check_token_ids
from lm.data.documents import document_starts
from lm.init import position_tables
from lm.text.rings import kept_places, ring_length
from torch_impl import fast
from torch_impl.attention import Context, LayerCache
from torch_impl.dtypes import at_least_float32, dtype_named
from torch_impl.sequences import EncoderDecoder, after_prefix, encode
from torch_impl.state import TrainState


class Cache(NamedTuple):
    """What decoding continues from: each layer's cache, of P slots for a prefix and then a ring for the tokens."""

    num_tokens_B: Int[np.ndarray, " B"]
    """The number of tokens of each prefix, 0 without a prefix."""
    P: int
    layers: list[LayerCache]


def decoder_of(model: Any) -> Any:
    """Return the part of a model that writes text."""
    return model.decoder if isinstance(model, EncoderDecoder) else model


def make_logits(config: TrainConfig) -> Logits:
    """Make the forward pass without a cache."""

    @torch.no_grad()
    def all_logits(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
    ) -> Float[np.ndarray, "B T V"]:
        for token_ids in (token_ids_BT, prefix_BP):
            if token_ids is not None:
                check_token_ids(token_ids, config.model.vocab_size)
        inputs = {
            "token_ids_BT": token_ids_BT,
            "num_tokens_B": num_tokens_B,
            "prefix_BP": prefix_BP,
            "starts_BT": document_starts(token_ids_BT, config),
        }
        logits_BTV = state.model(
            **{name: fast.send(a, config.device) for name, a in inputs.items() if a is not None}
        )
        return logits_BTV.to(dtype_named(config.param_dtype)).cpu().numpy()

    return all_logits


def make_prefill(config: TrainConfig) -> Prefill:
    """Make the pass over the prompts, which fills a cache."""
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
        slots = slots or m.context_length
        (B, T), model = token_ids_BT.shape, decoder_of(state.model)
        ids_BT = fast.send(token_ids_BT, config.device)
        if prefix_BP is None or num_tokens_B is None:
            num_tokens_B, tables = np.zeros(B, np.int64), model.tables(T)
            x_BSD, contexts = model.embed(ids_BT, tables), model.causal_contexts(T, tables)
        else:
            check_token_ids(prefix_BP, m.vocab_size)
            prefix, num_tokens = fast.send(prefix_BP, config.device), fast.send(num_tokens_B, config.device)
            hidden_BPD = encode(state.model.encoder, prefix, num_tokens)
            x_BSD, contexts = after_prefix(model, hidden_BPD, num_tokens, ids_BT)
        P = x_BSD.shape[1] - T
        kept = {kind: kept_places(lengths_B, P, ring_length(m, kind, slots)) for kind in contexts}
        shapes = [(B, m.num_kv_heads, kept[m.layer_type(i)].shape[1], m.d_head) for i in range(m.num_layers)]
        # Slots that no token has written are multiplied by weights of 0, so they must be finite.
        layers = [LayerCache(x_BSD.new_zeros(shape), x_BSD.new_zeros(shape)) for shape in shapes]
        contexts = {
            kind: replace(context, kept_BS=fast.send(kept[kind], config.device))
            for kind, context in contexts.items()
        }
        x_BSD = model.hidden_states(x_BSD, contexts, layers)
        last_BD = x_BSD[fast.send(np.arange(B), config.device), fast.send(P + lengths_B - 1, config.device)]
        logits_BV = at_least_float32(model.logits(last_BD))
        # Contiguous, since a product may be a transpose, and reading one row of a transpose reads all of its memory.
        return logits_BV.contiguous().cpu().numpy(), Cache(num_tokens_B, P, layers)

    return prefill


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """Make the step that reads one token of each text. The caches slide (`lm.text.rings`)."""
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
        position_B1, num_tokens_B1 = positions_B[:, None], cache.num_tokens_B[:, None]
        # RoPE continues from the prefix's end.
        place_B1 = position_B1 + num_tokens_B1 if m.position == "rope" else position_B1
        rings = {m.layer_type(i): layer.k_BHSK.shape[2] - P for i, layer in enumerate(cache.layers)}
        tables: dict[LayerType, tuple[Tensor, ...]] = {}
        contexts: dict[LayerType, Context] = {}
        for layer_type, S in rings.items():
            filled = min(S, int(positions_B.max()) + 1)
            sees_BS = np.concatenate((np.arange(P) < num_tokens_B1, np.arange(filled) <= position_B1), axis=1)
            mask_B11S, slots_B1, *of_type = (
                fast.send(a, config.device)
                for a in (
                    sees_BS[:, None, None],
                    P + position_B1 % S,
                    *position_tables(m, place_B1, m.context_length, config.param_dtype, layer_type),
                )
            )
            tables[layer_type] = tuple(of_type)
            # Every head of a text has the text's position.
            rope: Any = tuple(table[:, None] for table in of_type) if m.position == "rope" else None
            contexts[layer_type] = Context(mask_B11S, rope, slots_B1)
        ids_B1 = fast.send(token_ids_B[:, None], config.device)
        x_B1D = model.hidden_states(model.embed(ids_B1, tables), contexts, cache.layers)
        logits_BV = at_least_float32(model.logits(x_B1D[:, 0]))
        return logits_BV.contiguous().cpu().numpy(), cache

    return decode_step
