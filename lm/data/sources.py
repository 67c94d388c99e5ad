"""Where batches come from: windows of text, windows with tokens masked, or pairs, as the architecture needs them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.data.masking import MASK, masked_batch, masked_eval_batches
from lm.data.pairs import PairFile, open_pair_corpus, open_pairs, pair_eval_batches, pairs_fingerprint
from lm.data.sidecar import token_facts
from lm.data.token_files import Tokens, as_int32, fingerprint, open_tokens, read_parts
from lm.data.windows import eval_batches, get_batch, open_corpus
from tokenizer import END_OF_TEXT, Tokenizer
from tokenizer.errors import InputError


class Source(NamedTuple):
    """What a run trains on."""

    paths: tuple[Path, ...]
    batch: Callable[[TrainConfig, int], Batch]
    """The batch of a step, a pure function of (files, settings, step)."""
    chosen: Callable[[TrainConfig, int], list[tuple[int, int]]]
    """Of each member of that batch, which of the files it is from, and its place in there."""


def open_source(config: TrainConfig, patterns: Sequence[Path], weights: Sequence[float]) -> Source:
    """Open the files to train on, or globs of them, as one corpus.

    Raises:
        InputError: a pattern matches nothing, the weights do not fit, or a file cannot be used.
    """
    model = config.model
    if model.architecture == "encoder_decoder":
        pairs, paths = open_pair_corpus(patterns, weights, model)
        return Source(paths, pairs.batch, pairs.chosen)
    corpus, paths = open_corpus(patterns, weights, model.vocab_size, model.context_length)

    def chosen(config: TrainConfig, step: int) -> list[tuple[int, int]]:
        return corpus.starts(config.seed, step, config.batch_size, config.model.context_length)

    def batch(config: TrainConfig, step: int) -> Batch:
        B, T, A = config.batch_size, config.model.context_length, config.grad_accumulation
        return get_batch(corpus, config.seed, step, B, T, A)

    return Source(paths, partial(masked_batch, corpus) if model.architecture == "encoder" else batch, chosen)


def open_evaluation(config: TrainConfig, path: Path) -> Tokens | PairFile:
    """Open a file to evaluate on.

    Raises:
        InputError: it cannot be used.
    """
    if config.model.architecture == "encoder_decoder":
        return open_pairs(path, config.model)
    return open_tokens(path, config.model.vocab_size, config.model.context_length)


def open_validation(config: TrainConfig, path: Path) -> Tokens | PairFile:
    """Open what a run is evaluated on while it trains: the file, or its first `eval_windows`."""
    data = open_evaluation(config, path)
    return data if config.eval_windows is None else first_windows(data, config, config.eval_windows)


def first_windows(data: Tokens | PairFile, config: TrainConfig, count: int) -> Tokens | PairFile:
    """The first so many windows, or pairs."""
    if isinstance(data, PairFile):
        return data.first(count)
    # A decoder's last target lies behind its window.
    return data[: count * config.model.context_length + (config.model.architecture == "decoder")]


def count_windows(data: Tokens | PairFile, config: TrainConfig) -> int:
    """How many windows, or pairs, the data has; the last window may be shorter."""
    if isinstance(data, PairFile):
        return len(data)
    num_targets = len(data) - (config.model.architecture == "decoder")
    return math.ceil(num_targets / config.model.context_length)


def evaluation_batches(data: Tokens | PairFile, config: TrainConfig) -> Iterator[Batch]:
    """All of the data, each token or pair once; a function of the data alone."""
    if isinstance(data, PairFile):
        return pair_eval_batches(data, config)
    if config.model.architecture == "encoder":
        return masked_eval_batches(data, config)
    return eval_batches(data, config.batch_size, config.model.context_length)


def data_fingerprint(path: Path, config: TrainConfig) -> str:
    """What tells the contents of one data file from another's."""
    return (pairs_fingerprint if config.model.architecture == "encoder_decoder" else fingerprint)(path)


def text_facts(
    path: Path, data: Tokens | PairFile, config: TrainConfig, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What is known of the text that a decoder is evaluated on: its `tokens`, `bytes`, and of a whole file its `nats`.

    Args:
        data: The token file, or its first windows.
        tokenizer: Counts the bytes that nobody has recorded, if the file is of it.
    """
    recorded = token_facts(path) if config.model.architecture == "decoder" else None
    if recorded is None or isinstance(data, PairFile):
        return {}
    if len(data) == recorded.tokens and recorded.sha256 in (None, fingerprint(path)):
        known = {"tokens": recorded.tokens, "bytes": recorded.bytes, "nats": recorded.nats}
    elif tokenizer and tokenizer.sha256 == recorded.tokenizer_sha256:
        known = {"tokens": len(data), "bytes": count_bytes(data, tokenizer)}
    else:
        known = {}
    return {name: value for name, value in known.items() if value is not None}


def count_bytes(tokens: Tokens, tokenizer: Tokenizer) -> int | None:
    """The bytes of the text that tokens stand for; None if the tokenizer lacks one of them."""
    unknown = -1
    sizes = np.full(tokenizer.vocab_size + 1, unknown)
    for i, token in tokenizer.vocab.items():
        sizes[i] = len(token)
    total, some = 0, 1 << 22
    for start in range(0, len(tokens), some):
        found = sizes[np.minimum(as_int32(read_parts(tokens, [(start, start + some)])[0]), len(sizes) - 1)]
        if found.min() == unknown:
            return None
        total += int(found.sum())
    return total


def with_mask_token(config: TrainConfig, tokenizer: Tokenizer | None, tokens_path: Path) -> TrainConfig:
    """The settings, with the id of the tokenizer's <|mask|> where an encoder needs it and none is given.

    Raises:
        InputError: it is needed, and there is none.
    """
    if config.model.architecture != "encoder" or config.mask_token is not None:
        return config
    token = tokenizer.special_tokens.get(MASK) if tokenizer else None
    if token is None:
        what = "its tokenizer has no" if tokenizer else "names no tokenizer, whose"
        raise InputError(
            f"{tokens_path}: {what} {MASK}, which training an encoder needs; encode with a tokenizer made by "
            f"lm tokenizer train --special-tokens '{END_OF_TEXT}' '{MASK}', or give --mask-token ID"
        )
    return replace(config, mask_token=token)
