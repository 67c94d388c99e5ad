"""Generate token ids, one decode step at a time. NumPy chooses each token, so both backends write the same text."""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lm.backend import DecodeStep, Prefill
from lm.budgets import BUDGETS
from lm.config import TrainConfig
from lm.data.documents import last_document
from lm.text.sampling import Choice, Noise, SamplingConfig, choose_token
from tokenizer import InputError, Tokenizer

Ending = Literal["stop", "length", "context", "interrupted"]
"""Why a text ended: at a stop token or text, at max_new_tokens, at the last learned position, or by Ctrl-C."""


class Drawn(NamedTuple):
    """A token drawn for one row of the batch."""

    row: int
    token: int
    log_probability: float | None
    """Log-probability in nats under the model, before temperature and the other rules. None if not asked for."""
    tie: Choice | None
    """The choice, if rounding may have decided between the token and its runner-up."""


def generate(
    prefill: Prefill,
    decode_step: DecodeStep,
    state: Any,
    config: TrainConfig,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    stop_tokens: Collection[int] = (),
    endings: dict[int, Ending] | None = None,
    log_probabilities: bool = False,
    prefix: tuple[np.ndarray, np.ndarray] | tuple[()] = (),
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Drawn]:
    """Continue each prompt in `sampling.samples` rows, and yield the tokens step by step, row by row.

    A row ends before a stop token. Its draws depend on the seed, the sample's number within its prompt and the token's
    position, but not on the other rows. Beyond the context the cache slides: each token attends to the last
    context_length tokens, and keeps its position. A model with learned positions ends its texts there.

    If documents are packed, an end token in a text begins a new document, at position 0.

    Args:
        endings: Filled with the reason why each row ended. The caller may end a row by adding an entry.
        prefix: What the encoder of an encoder-decoder reads for each row, padded, and the number of tokens of each row.
        drawable: Which tokens may be drawn (`drawable_tokens`); None means all.

    Raises:
        InputError: a prompt is empty or longer than the context, or a logit is not finite.
    """
    prompts = read_prompts(prompts, config)
    endings = {} if endings is None else endings
    rows = [(prompt.copy(), sample) for prompt in prompts for sample in range(sampling.samples)]
    if not rows:
        return
    context_length = config.model.context_length
    lengths = np.array([len(text) for text, _ in rows])
    # Only few sizes occur, so texts of many lengths share a compiled step. A decode step reads all slots of the cache,
    # so its sizes are finer.
    longest = int(lengths.max())
    T = min(context_length, _round_up(longest, sizes=1))
    slots = min(context_length, max(T, _round_up(longest + sampling.max_new_tokens, sizes=4)))
    token_ids = np.zeros((len(rows), T), np.int32)
    for row, (text, _) in enumerate(rows):
        token_ids[row, : len(text)] = text
    logits, cache = prefill(state, token_ids, lengths, slots, *prefix)
    # The last learned position still predicts the token after it.
    last_position = context_length - 1 if config.model.position == "learned" else np.inf
    tokens, positions = np.zeros(len(rows), np.int32), lengths - 1
    choose = functools.partial(
        choose_token,
        sampling=sampling,
        make_noise=functools.lru_cache(len(rows))(Noise),  # rows at the same position share their noise
        drawable=drawable,
    )
    # Parity allows each of two logits to be off by its budget.
    rounding = 2 * BUDGETS[config.compute_dtype].model_forward
    for step in range(sampling.max_new_tokens):
        largest = np.maximum(logits.max(-1), -logits.min(-1))
        if not np.isfinite(largest).all():
            raise InputError(
                "the model's logits are not finite, so no token can be drawn; take an earlier checkpoint"
            )
        for row, (text, sample) in enumerate(rows):
            if row in endings:
                continue
            if positions[row] > last_position:
                endings[row] = "context"
                continue
            choice = choose(logits[row], text, sample=sample)
            if choice.token in stop_tokens:
                endings[row] = "stop"
                continue
            text.append(choice.token)
            tokens[row] = choice.token
            begins_document = config.documents == "packed" and choice.token == config.end_token
            positions[row] = 0 if begins_document else positions[row] + 1
            yield Drawn(
                row,
                choice.token,
                log_probability(logits[row], choice.token) if log_probabilities else None,
                choice if choice.gap <= rounding * largest[row] else None,
            )
        if len(endings) == len(rows):
            return
        if step + 1 < sampling.max_new_tokens:
            # Shapes are fixed, so a row that has ended reads its last token again. Its logits are not used.
            read = np.minimum(positions, last_position).astype(np.int64)
            logits, cache = decode_step(state, cache, tokens, read)
    endings |= {row: "length" for row in range(len(rows)) if row not in endings}


def _round_up(n: int, sizes: int) -> int:
    """Round n up to a size: `sizes` of them lie between a power of two and the next. The smallest is 16.

    >>> [_round_up(n, sizes=4) for n in (3, 33, 41, 63)]
    [16, 40, 48, 64]
    """
    part = max(16, 1 << (n - 1).bit_length()) // (2 * sizes)
    return max(16, -(-n // part) * part)


def generate_after_prefixes(
    prefill: Prefill,
    decode_step: DecodeStep,
    state: Any,
    config: TrainConfig,
    prefixes: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    start_token: int,
    stop_tokens: Collection[int],
    endings: dict[int, Ending] | None = None,
    log_probabilities: bool = False,
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Drawn]:
    """Write the target of each prefix with an encoder-decoder: `generate`, beginning with the start token.

    Prefixes of different lengths share a batch, and none changes another's target.

    Raises:
        InputError: a prefix is empty or longer than prefix_length.
    """
    check_prefixes(prefixes, config)
    rows = [prefix for prefix in prefixes for _ in range(sampling.samples)]
    prefix_BP = np.zeros((len(rows), config.model.prefix_length or 0), np.int32)
    for row, prefix in enumerate(rows):
        prefix_BP[row, : len(prefix)] = prefix
    return generate(
        prefill,
        decode_step,
        state,
        config,
        [[start_token]] * len(prefixes),
        sampling,
        stop_tokens,
        endings,
        log_probabilities,
        (prefix_BP, np.array([len(prefix) for prefix in rows])),
        drawable,
    )


def drawable_tokens(
    tokenizer: Tokenizer, stop_tokens: Collection[int], vocab_size: int
) -> Bool[np.ndarray, " V"] | None:
    """Return which of a model's tokens may be drawn: stop tokens and those that have text. None if all may.

    A model's vocabulary may be padded beyond its tokenizer's, and a tokenizer's ids may have gaps.

    Raises:
        InputError: no token may be drawn.
    """
    drawable = np.zeros(vocab_size, bool)
    ids = np.array([*tokenizer.ids_with_text, *stop_tokens])
    drawable[ids[ids < vocab_size]] = True
    if not drawable.any():
        raise InputError(
            f"the tokenizer has text for none of the model's ids, 0 to {vocab_size - 1}; "
            "give the model's own tokenizer"
        )
    return None if drawable.all() else drawable


def read_prompts(prompts: Sequence[Sequence[int]], config: TrainConfig) -> list[list[int]]:
    """Return what the model reads of each prompt, and refuse a prompt that is empty or longer than the context."""
    read = [last_document(prompt, config) for prompt in prompts]
    _check_lengths(read, "prompt", "context_length", config.model.context_length)
    return read


def check_prefixes(prefixes: Sequence[Sequence[int]], config: TrainConfig) -> None:
    """Refuse a prefix that is empty or longer than prefix_length."""
    _check_lengths(prefixes, "prefix", "prefix_length", config.model.prefix_length or 0)


def _check_lengths(texts: Sequence[Sequence[int]], what: str, setting: str, longest: int) -> None:
    for text in texts:
        if not 0 < len(text) <= longest:
            raise InputError(
                f"the {what} has {len(text)} tokens; give from 1 to the model's {setting} {longest}"
            )


def log_probability(logits: Float[np.ndarray, " V"], token: int) -> float:
    """Return a token's log-probability in nats. It is not finite if a logit is not, unless that changes nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = logits.astype(np.float64) - logits.max()
        return float(shifted[token] - np.log(np.exp(shifted).sum()))
