"""Sources of batches: windows of text, masked windows or pairs, depending on the architecture."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.data.documents import document_starts
from lm.data.masking import MASK, masked_batch, masked_eval_batches
from lm.data.pairs import PairFile, open_pair_corpus, open_pairs, pair_eval_batches, pairs_fingerprint
from lm.data.sidecar import token_facts
from lm.data.token_files import Tokens, as_int32, contains, fingerprint, open_tokens, read_parts
from lm.data.windows import eval_batches, eval_windows, get_batch, open_corpus
from lm.text.ends import choose_ends
from tokenizer import END_OF_TEXT, Tokenizer
from tokenizer.errors import InputError


class Source(NamedTuple):
    """The files that a run trains on."""

    paths: tuple[Path, ...]
    batch: Callable[[TrainConfig, int], Batch]
    """Returns the batch of a step: a pure function of (files, settings, step)."""
    places: Callable[[TrainConfig, int], list[tuple[int, int]]]
    """Returns, for each window or pair of that batch, the index of its file and its place in that file."""
    tokens: tuple[Tokens, ...] = ()
    """The token files; none if the files hold pairs."""


def open_source(config: TrainConfig, patterns: Sequence[Path], weights: Sequence[float]) -> Source:
    """Open the files to train on, or globs of them, as one corpus.

    Raises:
        InputError: a pattern matches nothing, the weights do not fit, or a file cannot be used.
    """
    model = config.model
    if model.architecture == "encoder_decoder":
        pairs, paths = open_pair_corpus(patterns, weights, model)
        return Source(paths, pairs.batch, pairs.places)
    corpus, paths = open_corpus(patterns, weights, model.vocab_size, model.context_length)

    def places(config: TrainConfig, step: int) -> list[tuple[int, int]]:
        return corpus.starts(config.seed, step, config.batch_size, config.model.context_length)

    def batch(config: TrainConfig, step: int) -> Batch:
        B, T, A = config.batch_size, config.model.context_length, config.grad_accumulation
        return _with_starts(get_batch(corpus, config.seed, step, B, T, A), config)

    make = partial(masked_batch, corpus) if model.architecture == "encoder" else batch
    return Source(paths, make, places, corpus.files)


def open_evaluation(config: TrainConfig, path: Path) -> Tokens | PairFile:
    """Open a file to evaluate on.

    Raises:
        InputError: the file cannot be used.
    """
    if config.model.architecture == "encoder_decoder":
        return open_pairs(path, config.model)
    tokens = open_tokens(path, config.model.vocab_size, config.model.context_length)
    if config.eval_by == "documents" and config.end_token is not None:
        _require_documents(
            config.end_token, [tokens], path, "evaluate on whole documents", "--eval-by windows"
        )
    return tokens


def open_validation(config: TrainConfig, path: Path) -> Tokens | PairFile:
    """Open a file to evaluate on during training: all of it, or its first `eval_windows`.

    Raises:
        InputError: the file cannot be used.
    """
    data = open_evaluation(config, path)
    return data if config.eval_windows is None else first_windows(data, config, config.eval_windows)


def first_windows(data: Tokens | PairFile, config: TrainConfig, count: int) -> Tokens | PairFile:
    """Return the first `count` windows or pairs."""
    if isinstance(data, PairFile):
        return data.take(count)
    if config.model.architecture == "encoder":
        return data[: count * config.model.context_length]
    _, stop = _windows(data, config)[:count][-1]
    return data[: stop + 1]  # the last target is the token after its window


def count_windows(data: Tokens | PairFile, config: TrainConfig) -> int:
    """Return the number of windows or pairs. The last window may be shorter."""
    if isinstance(data, PairFile):
        return len(data)
    if config.model.architecture == "encoder":
        return math.ceil(len(data) / config.model.context_length)
    return len(_windows(data, config))


def _windows(data: Tokens, config: TrainConfig) -> list[tuple[int, int]]:
    return eval_windows(data, config.model.context_length, _eval_end(config))


def _eval_end(config: TrainConfig) -> int | None:
    """Return the token before each document if windows begin with documents, or None if they do not."""
    if config.eval_by == "windows":
        return None
    assert config.end_token is not None  # filled in when the run was opened
    return config.end_token


def evaluation_batches(data: Tokens | PairFile, config: TrainConfig) -> Iterator[Batch]:
    """Yield batches with each token or pair of the data once. They depend on the data and the batch size only."""
    if isinstance(data, PairFile):
        return pair_eval_batches(data, config)
    if config.model.architecture == "encoder":
        return masked_eval_batches(data, config)
    batches = eval_batches(data, config.batch_size, config.model.context_length, _eval_end(config))
    return (_with_starts(batch, config) for batch in batches)


def _with_starts(batch: Batch, config: TrainConfig) -> Batch:
    return replace(batch, starts=document_starts(batch.inputs, config))


def data_fingerprint(path: Path, config: TrainConfig) -> str:
    """Return a hash of a data file's contents."""
    return (pairs_fingerprint if config.model.architecture == "encoder_decoder" else fingerprint)(path)


def text_facts(
    path: Path, data: Tokens | PairFile, config: TrainConfig, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return what is known about the text that a decoder is evaluated on: its `tokens` and `bytes`.

    If the text is the whole file, its information in `nats` may be known too.

    Args:
        data: The token file, or its first windows.
        tokenizer: Counts the bytes if they are not recorded. It must be the tokenizer that encoded the file.
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
    """Count the bytes of the tokens' text; None if the tokenizer lacks one of the tokens."""
    unknown = -1
    sizes = np.full(tokenizer.vocab_size + 1, unknown)
    for i, token in tokenizer.vocab.items():
        sizes[i] = len(token)
    total, block = 0, 1 << 22
    for start in range(0, len(tokens), block):
        found = sizes[np.minimum(as_int32(read_parts(tokens, [(start, start + block)])[0]), len(sizes) - 1)]
        if found.min() == unknown:
            return None
        total += int(found.sum())
    return total


def add_token_ids(config: TrainConfig, tokenizer: Tokenizer | None, source: Source) -> TrainConfig:
    """Return the settings with the ids of special tokens that they need and do not give: mask_token or end_token.

    Raises:
        InputError: the tokenizer has no such token, or documents are to be packed and no file has an end token.
    """
    path = source.paths[0]
    if config.model.architecture == "encoder" and config.mask_token is None:
        return _add_mask_token(config, tokenizer, path)
    config = add_end_token(config, tokenizer, path)
    if config.documents == "packed":
        assert config.end_token is not None  # just added
        _require_documents(config.end_token, source.tokens, path, "pack", "--documents joined")
    return config


def add_end_token(config: TrainConfig, tokenizer: Tokenizer | None, tokens_path: Path) -> TrainConfig:
    """Return the settings. If they need an end_token and do not give it, it is the tokenizer's end of a text.

    Raises:
        InputError: the tokenizer has no such token.
    """
    if config.end_token is not None or not config.needs_end_token:
        return config
    stop = choose_ends(tokenizer).stop
    if not stop:
        what = f"its tokenizer has no {END_OF_TEXT}" if tokenizer else "names no tokenizer"
        use, instead = (
            ("packed documents need", "--documents joined")
            if config.documents == "packed"
            else ("evaluation on whole documents needs", "--eval-by windows")
        )
        raise InputError(
            f"{tokens_path}: {what}, and {use} the token between them; encode with a tokenizer that has "
            f"{END_OF_TEXT}, or give --end-token ID or {instead}"
        )
    return replace(config, end_token=stop[0])


def _require_documents(
    end_token: int, files: Sequence[Tokens], path: Path, purpose: str, instead: str
) -> None:
    if not any(contains(tokens, end_token) for tokens in files):
        raise InputError(
            f"{path}: has no end token {end_token}, so there are no documents to {purpose}; put {END_OF_TEXT} between "
            f"the documents of the text and encode it again, or give {instead}"
        )


def _add_mask_token(config: TrainConfig, tokenizer: Tokenizer | None, tokens_path: Path) -> TrainConfig:
    """Return the settings. The mask_token of an encoder becomes the id of the tokenizer's <|mask|>."""
    token = tokenizer.special_tokens.get(MASK) if tokenizer else None
    if token is None:
        what = f"its tokenizer has no {MASK}" if tokenizer else "names no tokenizer"
        raise InputError(
            f"{tokens_path}: {what}, and an encoder trains with {MASK}; encode with a tokenizer made by "
            f"lm tokenizer train --special-tokens '{END_OF_TEXT}' '{MASK}', or give --mask-token ID"
        )
    return replace(config, mask_token=token)
