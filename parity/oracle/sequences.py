"""The other architectures. Each sequence is computed on its own, so that padding has no part in the numbers."""

import numpy as np

from lm.config import ModelConfig
from parity.oracle.attention import causal_mask
from parity.oracle.gradients import Weights
from parity.oracle.model import embed, hidden_states, logits, submodule


def full_mask(n: int) -> np.ndarray:
    """Let all tokens see all tokens."""
    return np.ones((n, n), bool)


def prefix_mask(n: int, S: int) -> np.ndarray:
    """Let all S tokens see the first n, and each token see the tokens up to itself."""
    return causal_mask(S) | (np.arange(S) < n)


def encode_sequence(weights: Weights, x: np.ndarray, n: int, config: ModelConfig) -> np.ndarray:
    """Apply an encoder's blocks to the first n rows of x (T, D), which all see each other."""
    return hidden_states(weights, x[..., :n, :], config, full_mask(n))


def after_prefix(x: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of x that follow a prefix of n."""
    return x[..., n:, :]


def encoder_stack(weights: Weights, x: np.ndarray, num_tokens: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Apply the blocks of an encoder to x (B, T, D), in which all tokens see all tokens; 0 at the padding."""
    rows = [encode_sequence(weights, x[..., b, :, :], n, config) for b, n in enumerate(num_tokens)]
    return pad(rows, x.shape[-2])


def transformer_encoder(
    weights: Weights, token_ids: np.ndarray, num_tokens: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Token ids (B, T) to logits (B, T, V) of the token at each place; 0 at the padding."""
    rows = []
    for ids, n in zip(token_ids, num_tokens, strict=True):
        rows.append(logits(weights, encode_sequence(weights, embed(weights, ids, config), n, config), config))
    return pad(rows, token_ids.shape[1])


def prefix_decoder(
    weights: Weights, hidden: np.ndarray, token_ids: np.ndarray, num_tokens: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Hidden states (B, P, D), and token ids (B, T) after them, to logits (B, T, V) of the next token.

    Every place sees all hidden states, and each token sees the tokens up to itself.
    """
    rows = []
    for b, n in enumerate(num_tokens):
        x = concatenate(hidden[..., b, :n, :], embed(weights, token_ids[b], config))
        S = n + token_ids.shape[1]
        x = hidden_states(weights, x, config, prefix_mask(n, S))
        rows.append(logits(weights, after_prefix(x, n), config))
    return pad(rows, token_ids.shape[1])


def encoder_decoder(
    weights: Weights, token_ids: np.ndarray, num_tokens: np.ndarray, prefix: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Prefixes (B, P), and token ids (B, T) that follow from them, to logits (B, T, V) of the next token."""
    encoder, decoder = submodule(weights, "encoder."), submodule(weights, "decoder.")
    rows = []
    for b, n in enumerate(num_tokens):
        hidden_1PD = encode_sequence(encoder, embed(encoder, prefix[b], config), n, config)[..., None, :, :]
        rows.append(prefix_decoder(decoder, hidden_1PD, token_ids[b : b + 1], np.array([n]), config))
    return np.concatenate(np.broadcast_arrays(*rows), axis=-3)


def concatenate(*parts: np.ndarray) -> np.ndarray:
    """Put sequences (T, D) one after the other, whatever leading axes of perturbations each of them has."""
    lead = np.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return np.concatenate([np.broadcast_to(part, lead + part.shape[-2:]) for part in parts], axis=-2)


def pad(rows: list[np.ndarray], T: int) -> np.ndarray:
    """Stack sequences of different lengths, each with zeros up to T."""
    return np.stack([concatenate(row, np.zeros((T - row.shape[-2], row.shape[-1]))) for row in rows], axis=-3)
