"""Whole models in torch and JAX, with a switch for each mistake: decoder, encoder and prefix decoder."""

from dataclasses import replace
from typing import Any

import numpy as np

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation
from tests.check.injected.attention import softmax
from tests.check.injected.block import below, block, norm


def positions_of(xp: Any, arrays: Tree, config: Any, ids: np.ndarray, like: Any, wrong: str) -> Any:
    """Return what is added to the embeddings of ids (B, T)."""
    B, T = ids.shape
    if config.position == "learned":
        rows = np.broadcast_to(np.arange(T), (B, T)).copy()
        match wrong:
            case "learned positions from 1":
                rows += 1
            case "first learned position for all tokens":
                rows *= 0
            case "learned positions by the place in the batch":
                rows = np.broadcast_to(np.arange(B)[:, None], (B, T)).copy()
        return arrays["position_embeddings.weight"][xp.ids(rows)]
    D = config.d_model
    columns = np.arange(D)
    exponents = columns if wrong == "a frequency for each column" else columns // 2 * 2
    angles = np.arange(T)[:, None] * 10_000.0 ** (-exponents / D)
    table = np.where(columns % 2 == 0, np.sin(angles), np.cos(angles))
    if wrong == "cosines before sines":
        table = np.where(columns % 2 == 0, np.cos(angles), np.sin(angles))
    if wrong == "sines and cosines in halves":
        table = np.hstack([table[:, 0::2], table[:, 1::2]])
    return xp.array(table, like)


def embed(xp: Any, arrays: Tree, config: Any, ids: np.ndarray, wrong: str) -> Any:
    """Embeddings (B, T, D) of tokens and positions."""
    x = arrays["token_embeddings.weight"][xp.ids(ids)]
    adds = config.position in ("learned", "sinusoidal")
    if wrong == "embedding: scaled by sqrt(d_model)" or (
        adds and wrong == "embeddings scaled by the root of d_model, positions not"
    ):
        x = x * config.d_model**0.5
    if config.position in ("rope", "none") or (
        config.position == "learned" and wrong == "learned positions missing"
    ):
        return x
    return x + positions_of(xp, arrays, config, ids, x, wrong)


def blocks(xp: Any, arrays: Tree, config: Any, x: Any, mask: np.ndarray, wrong: str) -> Any:
    """All blocks and the last norm."""

    def ln_final(x: Any) -> Any:
        own = wrong.removeprefix("final norm: epsilon ")
        last = config if own == wrong else replace(config, norm_eps=float(own))
        return norm(xp, arrays, "ln_final", x, last, wrong)

    n = config.num_layers
    order = {
        "layers reversed": list(reversed(range(n))),
        "first layer's weights for all layers": [0] * n,
        "last layer's weights for all layers": [n - 1] * n,
        "last layer skipped": list(range(n))[:-1],
        "first layer skipped": list(range(n))[1:],
    }.get(wrong, list(range(n)))
    positions = np.arange(x.shape[-2]) if config.position == "rope" else None
    for i in order:
        x = block(xp, {**below(arrays, f"layers.{i}."), "x": x}, mask, positions, config, wrong)
        if wrong == "final norm after every layer":
            x = ln_final(x)
    if wrong in ("final norm missing", "final norm after every layer") or config.norm_position == "post":
        return x
    return ln_final(x)


def head(xp: Any, arrays: Tree, x: Any, wrong: str) -> Any:
    """Hidden states to logits."""
    if wrong == "logits divided by the root of d_model":
        x = x / x.shape[-1] ** 0.5
    weight = arrays["token_embeddings.weight" if wrong == "head tied to the embeddings" else "lm_head.weight"]
    y = x @ weight.T
    if wrong == "softmax applied to the logits":
        return softmax(xp, y)
    return y - xp.logsumexp(y, -1) if wrong == "log-softmax applied to the logits" else y


def lm(xp: Any, arrays: Tree, config: Any, ids: np.ndarray, wrong: str = "") -> Any:
    """Token ids (B, T) to logits (B, T, V)."""
    causal = np.tri(ids.shape[1], dtype=bool)
    x = blocks(xp, arrays, config, embed(xp, arrays, config, ids, wrong), causal, wrong)
    return head(xp, arrays, x, wrong)


def encoder(
    xp: Any, arrays: Tree, config: Any, ids: np.ndarray, num_tokens: np.ndarray, wrong: str = ""
) -> Any:
    """Token ids (B, T) to logits (B, T, V) of the token at each place, all rows at once under one mask."""
    T = ids.shape[1]
    sees = np.arange(T) < num_tokens[:, None]
    if wrong == "padding attended to":
        sees = np.ones_like(sees)
    mask = np.broadcast_to(sees[:, None, None, :], (len(ids), 1, T, T))
    if wrong == "causal mask in an encoder":
        mask = mask & np.tri(T, dtype=bool)
    y = head(
        xp, arrays, blocks(xp, arrays, config, embed(xp, arrays, config, ids, wrong), mask, wrong), wrong
    )
    return y * xp.array((np.arange(T) < num_tokens[:, None])[..., None], y)


def prefix_decoder(
    xp: Any, arrays: Tree, config: Any, ids: np.ndarray, num_tokens: np.ndarray, wrong: str = ""
) -> Any:
    """Hidden states x (B, P, D), and token ids (B, T) after them, to logits (B, T, V), a row at a time."""
    rows = []
    T = ids.shape[1]
    for b, n in enumerate(num_tokens.tolist()):
        if wrong == "padding of the prefix attended to":
            n = arrays["x"].shape[1]
        tokens = embed(xp, arrays, config, ids[b : b + 1], wrong)
        x = xp.concatenate([arrays["x"][b : b + 1, :n], tokens], 1)
        mask = np.zeros((n + T, n + T), bool)
        for t in range(n + T):
            mask[t, : max(n, t + 1)] = True
            if wrong == "causal mask over the prefix":
                mask[t, t + 1 :] = False
            if wrong == "tokens see the future" or (wrong == "prefix sees the tokens" and t < n):
                mask[t] = True
            if wrong == "prefix hidden from the tokens" and t >= n:
                mask[t, :n] = False
        y = head(xp, arrays, blocks(xp, arrays, config, x, mask, wrong), wrong)
        rows.append(y[0, n - 1 : -1] if wrong == "logits one place early" else y[0, n:])
    return xp.stack(rows, 0)


def _lm(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return lm(xp, arrays, given.statics["config"], given.constants["token_ids"], wrong)


def _encoder(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    ids, num_tokens = given.constants["token_ids"], given.constants["num_tokens"]
    return encoder(xp, arrays, given.statics["config"], ids, num_tokens, wrong)


def _prefix_decoder(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    ids, num_tokens = given.constants["token_ids"], given.constants["num_tokens"]
    return prefix_decoder(xp, arrays, given.statics["config"], ids, num_tokens, wrong)


INJECTED: dict[str, Implementation] = {
    "transformer_lm": _lm,
    "transformer_lm of 2024": _lm,
    "transformer_lm with learned positions": _lm,
    "transformer_lm with sinusoids": _lm,
    "transformer_encoder": _encoder,
    "prefix_decoder": _prefix_decoder,
}
