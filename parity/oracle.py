"""The model a third time: NumPy in float64, for clarity, sharing no code with either backend.

This is the truth that both backends are held to. Gradients come from the complex step (Squire and Trapp, 1998):
for a function that is analytic and real on the real line, Im f(x + ih) / h is the derivative, exact to rounding
however small h is, since nothing is subtracted. Hence every function here also takes complex128 and stays
analytic: no absolute value, no conjugate, and a maximum, which only shifts an exponent, is that of the real part.
And every array, weights included, may have further leading axes, so that many perturbations are computed at once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lm.config import ModelConfig
from lm.dropout import kept

Real = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, np.ndarray]
"""Arrays by dotted name, as in a checkpoint."""
Drop = Callable[[np.ndarray, float, str], np.ndarray]
"""What training does to an array of a step: (array, rate, place) -> array."""


def gradient(f: Callable[[Weights], np.ndarray], arrays: Weights, cotangent: np.ndarray) -> dict[str, Real]:
    """Gradient of sum(cotangent * f(arrays)) with respect to every element of every array."""
    h, at_once = 1e-30, 512
    gradients = {}
    for name, array in arrays.items():
        slopes = np.empty(array.size)
        for start in range(0, array.size, at_once):
            elements = np.arange(start, min(start + at_once, array.size))
            steps = np.zeros((len(elements), array.size), np.complex128)
            steps[np.arange(len(elements)), elements] = 1j * h
            # One leading axis for the perturbations, and ones to broadcast against the axes of the others.
            moved = array + steps.reshape(-1, 1, 1, 1, 1, *array.shape)
            changes = f({**arrays, name: moved}).imag.reshape(-1, cotangent.size) / h
            slopes[elements] = changes @ cotangent.ravel()
        gradients[name] = slopes.reshape(array.shape)
    return gradients


# Functions without weights


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x))."""
    exp = np.exp(x - x.real.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)), from an exponential that cannot overflow."""
    exp = np.exp(np.where(x.real > 0, -x, x))
    return x * np.where(x.real > 0, 1, exp) / (1 + exp)


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the share of the standard normal distribution below x.

    NumPy has no erfc, and Python's takes no complex number: of an infinitesimal imaginary part the derivative, the
    normal density, takes care.
    """
    share = np.vectorize(math.erfc, otypes=[float])(-x.real / math.sqrt(2)) / 2
    if np.iscomplexobj(x):
        share = share + 1j * x.imag * np.exp(-x.real * x.real / 2) / math.sqrt(2 * math.pi)
    return x * share


def relu(x: np.ndarray) -> np.ndarray:
    """x where it is positive, 0 elsewhere."""
    return x * (x.real > 0)


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """1 at the id, 0 elsewhere."""
    return np.eye(size)[ids]


def token_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))) - logits[target], for each position."""
    largest = logits.real.max(-1)
    log_sum = largest + np.log(np.exp(logits - largest[..., None]).sum(-1))
    return log_sum - (logits * one_hot(targets, logits.shape[-1])).sum(-1)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The mean over all positions."""
    return token_cross_entropy(logits, targets).sum(tuple(range(-targets.ndim, 0))) / targets.size


def global_norm(vectors: Weights) -> np.ndarray:
    """Root of the sum of all squares."""
    return np.sqrt(sum((vector * vector).sum(-1) for vector in vectors.values()))


def clip_gradients(gradients: Weights, max_norm: float) -> tuple[dict[str, np.ndarray], float]:
    """Gradients scaled by max_norm / (norm + 1e-6) where norm > max_norm, and the norm."""
    norm = float(global_norm({name: g.ravel() for name, g in gradients.items()}))
    if norm <= max_norm:
        return dict(gradients), norm
    return {name: g * max_norm / (norm + 1e-6) for name, g in gradients.items()}, norm


# Layers


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """y_o = sum_i weight[o, i] x_i + bias_o."""
    return (weight @ x[..., None])[..., 0] + bias


def embedding(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """The weight's rows at the ids."""
    return linear(one_hot(token_ids, weight.shape[-2]), weight.swapaxes(-1, -2))


def rmsnorm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / x.shape[-1] + eps) * weight


def layernorm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - x.sum(-1, keepdims=True) / x.shape[-1]
    return rmsnorm(centred, weight, eps) + bias


ACTIVATIONS = {"silu": silu, "gelu": gelu, "relu": relu}


def feed_forward(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """w2 (f(w1 x)), or for SwiGLU w2 (silu(w1 x) * (w3 x))."""

    def w(i: int, x: np.ndarray) -> np.ndarray:
        return linear(x, weights[f"w{i}.weight"], weights.get(f"w{i}.bias", 0.0))

    return w(2, silu(w(1, x)) * w(3, x) if kind == "swiglu" else ACTIVATIONS[kind](w(1, x)))


# Attention


def rope(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """R x of Su et al. (2021), eq. 15: R is block-diagonal, its block p turns by position * theta^(-2p/K)."""
    K = x.shape[-1]
    R = np.zeros((*positions.shape, K, K))
    for p in range(K // 2):
        angle = positions / theta ** (2 * p / K)
        R[..., 2 * p, 2 * p] = np.cos(angle)
        R[..., 2 * p, 2 * p + 1] = -np.sin(angle)
        R[..., 2 * p + 1, 2 * p] = np.sin(angle)
        R[..., 2 * p + 1, 2 * p + 1] = np.cos(angle)
    return (R @ x[..., None])[..., 0]


def attention_scores(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Q K^T / sqrt(d_k)."""
    return np.einsum("...tk,...sk->...ts", Q, K) / math.sqrt(Q.shape[-1])


def attention_weights(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """exp(score) as a share of the sum over the keys that a query may see; zeros where it may see none."""
    may_see = np.ones((Q.shape[-2], K.shape[-2]), bool) if mask is None else mask
    scores = attention_scores(Q, np.where(np.asarray(may_see.any(-2))[..., None], K, 0))
    largest = np.where(may_see, scores.real, -np.inf).max(-1, keepdims=True)
    exp = np.where(may_see, np.exp(np.where(may_see, scores - largest, 0)), 0)
    total = np.where(may_see.any(-1, keepdims=True), exp.sum(-1, keepdims=True), 1)
    return exp / total


def attention(Q: np.ndarray, K: np.ndarray, V: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The mean of the values that a query may see, by their weights."""
    is_seen = True if mask is None else np.asarray(mask.any(-2))[..., None]
    return np.einsum("...ts,...sv->...tv", attention_weights(Q, K, mask), np.where(is_seen, V, 0))


def multihead_self_attention(
    weights: Weights,
    x: np.ndarray,
    num_heads: int,
    mask: np.ndarray,
    positions: np.ndarray | None = None,
    theta: float = 10_000.0,
    eps: float = 1e-5,
    drop: Callable[[np.ndarray], np.ndarray] = lambda weights: weights,
) -> np.ndarray:
    """Head h is attention over rows h K .. (h + 1) K of the projections; heads are concatenated, and mixed.

    Where keys and values have fewer heads, each serves as many query heads in turn. Queries and keys are normalised
    where there are gains for it, then turned by RoPE where positions are given.
    """
    K = x.shape[-1] // num_heads
    sharing = num_heads * K // weights["k_proj.weight"].shape[-2]
    attention_weights_of_heads, values = [], []
    for h in range(num_heads):
        projected = {}
        for name, head in (("q", h), ("k", h // sharing), ("v", h // sharing)):
            rows = slice(head * K, (head + 1) * K)
            bias = weights[f"{name}_proj.bias"][..., rows] if f"{name}_proj.bias" in weights else 0.0
            projected[name] = linear(x, weights[f"{name}_proj.weight"][..., rows, :], bias)
        for name in "qk":
            if f"{name}_norm.weight" in weights:
                projected[name] = rmsnorm(projected[name], weights[f"{name}_norm.weight"], eps)
            if positions is not None:
                projected[name] = rope(projected[name], positions, theta)
        attention_weights_of_heads.append(attention_weights(projected["q"], projected["k"], mask))
        values.append(projected["v"])
    dropped = drop(np.stack(np.broadcast_arrays(*attention_weights_of_heads), -3))
    heads = [np.einsum("...ts,...sv->...tv", dropped[..., h, :, :], v) for h, v in enumerate(values)]
    return linear(
        np.concatenate(np.broadcast_arrays(*heads), -1),
        weights["output_proj.weight"],
        weights.get("output_proj.bias", 0.0),
    )


def causal_mask(T: int) -> np.ndarray:
    """True at (t, s) where s <= t."""
    return np.array([[s <= t for s in range(T)] for t in range(T)])


# The model


def below(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    """The weights whose names start with the prefix, without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def norm(weights: Weights, name: str, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The config's norm with the weights of this name."""
    if config.norm == "none":
        return x
    if config.norm == "rmsnorm":
        return rmsnorm(x, weights[f"{name}.weight"], config.norm_eps)
    return layernorm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], config.norm_eps)


def transformer_block(
    weights: Weights,
    x: np.ndarray,
    config: ModelConfig,
    mask: np.ndarray,
    positions: np.ndarray,
    drop: Drop = lambda x, rate, place: x,
) -> np.ndarray:
    """One of four: norms before or after; attention and feed-forward one after the other, or side by side."""

    def attend(x: np.ndarray) -> np.ndarray:
        turned = positions if config.position == "rope" else None
        y = multihead_self_attention(
            below(weights, "attn."),
            x,
            config.num_heads,
            mask,
            turned,
            config.rope_theta,
            config.norm_eps,
            lambda w: drop(w, config.attention_dropout, "weights"),
        )
        return drop(y, config.residual_dropout, "attn")

    def feed(x: np.ndarray) -> np.ndarray:
        return drop(feed_forward(below(weights, "ffn."), x, config.ffn), config.residual_dropout, "ffn")

    match config.norm_position, config.block:
        case "pre", "sequential":
            x = x + attend(norm(weights, "ln1", x, config))
            return x + feed(norm(weights, "ln2", x, config))
        case "post", "sequential":
            x = norm(weights, "ln1", x + attend(x), config)
            return norm(weights, "ln2", x + feed(x), config)
        case "pre", "parallel":
            normed = norm(weights, "ln1", x, config)
            return x + attend(normed) + feed(normed)
    return norm(weights, "ln1", x + attend(x) + feed(x), config)


def sinusoids(d_model: int, positions: np.ndarray) -> np.ndarray:
    """Vaswani et al. (2017), section 3.5, an element at a time."""
    table = np.zeros((*positions.shape, d_model))
    for j in range(d_model):
        angle = positions / 10_000 ** ((j - j % 2) / d_model)
        table[..., j] = np.cos(angle) if j % 2 else np.sin(angle)
    return table


def dropping(seed: int, step: int, rows: np.ndarray) -> Drop:
    """Dropout at a step of the rows with these indices in its batch, by the masks of `lm.dropout`."""

    def drop(x: np.ndarray, rate: float, place: str) -> np.ndarray:
        if rate == 0:
            return x
        shape = x.shape[-3:] if place.endswith("weights") else x.shape[-2:]
        return x * kept(seed, place, step, rows, shape, rate) / (1 - rate)

    return drop


def embedded(weights: Weights, token_ids: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Embeddings of the tokens and of their positions, which count from 0."""
    positions = np.arange(token_ids.shape[-1])
    x = embedding(weights["token_embeddings.weight"], token_ids)
    if config.position == "learned":
        x = x + embedding(weights["position_embeddings.weight"], positions)
    if config.position == "sinusoidal":
        x = x + sinusoids(config.d_model, positions)
    return x


def blocks(
    weights: Weights,
    x: np.ndarray,
    config: ModelConfig,
    mask: np.ndarray,
    drop: Drop = lambda x, rate, place: x,
) -> np.ndarray:
    """All blocks, and the norm at their end. RoPE counts the places from 0."""
    for i in range(config.num_layers):

        def drop_in_layer(x: np.ndarray, rate: float, place: str, i: int = i) -> np.ndarray:
            return drop(x, rate, f"layers.{i}.{place}")

        layer = below(weights, f"layers.{i}.")
        x = transformer_block(layer, x, config, mask, np.arange(len(mask)), drop_in_layer)
    return norm(weights, "ln_final", x, config) if config.norm_position == "pre" else x


def head(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The residual stream to logits."""
    return linear(x, weights["token_embeddings.weight" if config.tie_embeddings else "lm_head.weight"])


def transformer_lm(
    weights: Weights, token_ids: np.ndarray, config: ModelConfig, drop: Drop = lambda x, rate, place: x
) -> np.ndarray:
    """Token ids (B, T) to logits (B, T, V) of the next token."""
    x = drop(embedded(weights, token_ids, config), config.embedding_dropout, "embedding")
    return head(weights, blocks(weights, x, config, causal_mask(token_ids.shape[1]), drop), config)


# Each sequence on its own, without padding, which so has no part in what the numbers are.


def encoder_stack(weights: Weights, x: np.ndarray, num_tokens: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The blocks of an encoder: all tokens see all tokens. 0 where x (B, T, D) has padding."""
    rows = [
        blocks(weights, x[..., b, :n, :], config, np.ones((n, n), bool)) for b, n in enumerate(num_tokens)
    ]
    return padded(rows, x.shape[-2])


def transformer_encoder(
    weights: Weights, token_ids: np.ndarray, num_tokens: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Token ids (B, T) to logits (B, T, V) of the token at each place; 0 where there is padding."""
    rows = [
        head(
            weights,
            blocks(weights, embedded(weights, ids[:n], config), config, np.ones((n, n), bool)),
            config,
        )
        for ids, n in zip(token_ids, num_tokens, strict=True)
    ]
    return padded(rows, token_ids.shape[1])


def prefix_decoder(
    weights: Weights, hidden: np.ndarray, token_ids: np.ndarray, num_tokens: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Hidden states (B, P, D) and token ids (B, T) behind them to logits (B, T, V) of the next token.

    All see the hidden states, and tokens see tokens up to themselves.
    """
    rows = []
    for b, n in enumerate(num_tokens):
        x = along_tokens(hidden[..., b, :n, :], embedded(weights, token_ids[b], config))
        S = n + token_ids.shape[1]
        x = blocks(weights, x, config, causal_mask(S) | (np.arange(S) < n))
        rows.append(head(weights, x[..., n:, :], config))
    return padded(rows, token_ids.shape[1])


def encoder_decoder(
    weights: Weights, token_ids: np.ndarray, num_tokens: np.ndarray, prefix: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """Prefixes (B, P) and token ids (B, T) that follow from them to logits (B, T, V) of the next token."""
    encoder, decoder = below(weights, "encoder."), below(weights, "decoder.")
    rows = []
    for b, n in enumerate(num_tokens):
        x = embedded(encoder, prefix[b, :n], config)
        hidden = blocks(encoder, x, config, np.ones((n, n), bool))
        # Of one sequence.
        rows.append(
            prefix_decoder(decoder, hidden[..., None, :, :], token_ids[b : b + 1], np.array([n]), config)
        )
    return np.concatenate(np.broadcast_arrays(*rows), axis=-3)


def along_tokens(*parts: np.ndarray) -> np.ndarray:
    """One sequence after the other, whatever perturbations either has."""
    lead = np.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return np.concatenate([np.broadcast_to(part, lead + part.shape[-2:]) for part in parts], axis=-2)


def padded(rows: list[np.ndarray], T: int) -> np.ndarray:
    """Sequences of different lengths, with zeros up to T."""
    return np.stack(
        [along_tokens(row, np.zeros((T - row.shape[-2], row.shape[-1]))) for row in rows], axis=-3
    )


# Training


def cosine_schedule(step: int, highest: float, lowest: float, warmup_steps: int, cosine_steps: int) -> float:
    """Up in a line, down half a cosine, then flat."""
    if step < warmup_steps:
        return highest * step / warmup_steps
    if step >= cosine_steps:
        return lowest
    turn = math.pi * (step - warmup_steps) / (cosine_steps - warmup_steps)
    return lowest + (highest - lowest) * (1 + math.cos(turn)) / 2


class AdamW:
    """Loshchilov and Hutter (2019), algorithm 2, with the course's epsilon and order of decay."""

    def __init__(self, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.m: dict[str, Any] = {}
        self.v: dict[str, Any] = {}
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """The weights after one more step."""
        self.t += 1
        (beta1, beta2), new = self.betas, {}
        for name, g in gradients.items():
            self.m[name] = beta1 * self.m.get(name, 0.0) + (1 - beta1) * g
            self.v[name] = beta2 * self.v.get(name, 0.0) + (1 - beta2) * g**2
            rate = lr * math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
            new[name] = weights[name] - rate * self.m[name] / (np.sqrt(self.v[name]) + self.eps)
            new[name] = new[name] * (1 - lr * self.weight_decay)
        return new


class SGD:
    """Gradient descent with the rate lr / sqrt(t + 1) at step t = 0, 1, ..."""

    def __init__(self) -> None:
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """The weights after one more step."""
        self.t += 1
        return {name: weights[name] - lr / math.sqrt(self.t) * g for name, g in gradients.items()}
