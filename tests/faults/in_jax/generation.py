"""Faults in jax_impl/generation.py: prefill and decoding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.faults.fault import CACHED, MODEL, PREFIXED, fault, inside


@fault("prefill answers for the token before the last", "jax_impl.generation.make_prefill", MODEL)
def _(original: Any) -> Any:
    def broken(config: Any) -> Any:
        prefill = original(config)
        return lambda state, ids, lengths, *args: prefill(state, ids, lengths - 1, *args)

    return broken


def _decode(original: Any, in_mask: Callable[[Any], np.ndarray], in_rope: Callable[[Any], np.ndarray]) -> Any:
    """Return `make_decode_step`, whose mask and whose RoPE take these numbers of a cache for its prefixes' tokens."""

    def broken(config: Any) -> Any:
        right = original(config)

        def decode_step(state: Any, cache: Any, token_ids_B: np.ndarray, positions_B: np.ndarray) -> Any:
            wrong = cache._replace(num_tokens_B=in_mask(cache))
            moved_B1 = (in_rope(cache) - wrong.num_tokens_B)[:, None]

            def move(tables: Any) -> Any:
                return lambda m, places_B1, *args: tables(
                    m, places_B1 + moved_B1 if m.position == "rope" else places_B1, *args
                )

            step = inside("jax_impl.generation.position_tables", move, right)
            logits_BV, written = step(state, wrong, token_ids_B, positions_B)
            return logits_BV, written._replace(num_tokens_B=cache.num_tokens_B)

        return decode_step

    return broken


@fault("RoPE forgets the prefix while decoding", "jax_impl.generation.make_decode_step", PREFIXED)
def _(original: Any) -> Any:
    return _decode(
        original,
        in_mask=lambda cache: cache.num_tokens_B,
        in_rope=lambda cache: np.zeros_like(cache.num_tokens_B),
    )


@fault("decoding attends to a prefix's padding", "jax_impl.generation.make_decode_step", PREFIXED)
def _(original: Any) -> Any:
    return _decode(
        original,
        in_mask=lambda cache: np.full_like(cache.num_tokens_B, cache.P),
        in_rope=lambda cache: cache.num_tokens_B,
    )


@fault("decoded logits have no cap", "jax_impl.generation.make_decode_step", CACHED)
def _(original: Any) -> Any:
    def uncapped(logits: Any) -> Any:
        return lambda params, x, config: logits(params, x, replace(config, logit_softcap=None))

    def broken(config: Any) -> Any:
        step = original(config)
        return inside("jax_impl.generation.logits", uncapped, step)

    return broken
