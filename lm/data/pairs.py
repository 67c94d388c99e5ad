"""Files of pairs, mapped into memory, and the batches of an encoder-decoder. A pair is a prefix and its target."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.mixture import draw, find_weighted, mixture_shares
from lm.data.npy import map_npy
from lm.data.sidecar import find_beside
from lm.data.token_files import Tokens, as_int32, fingerprint, open_tokens, read_parts
from lm.files import require_file
from tokenizer.encode_pairs import OFFSETS
from tokenizer.errors import InputError

Pair = tuple[Tokens, Tokens]
"""Ids of the prefix, and ids of the target with an end token before and after it."""


@dataclass(frozen=True)
class PairFile:
    """Pairs as `tokenizer.encode_pairs` writes them."""

    tokens: Tokens
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) // 2

    def __getitem__(self, index: int) -> Pair:
        (bounds,) = read_parts(self.offsets, [(2 * index, 2 * index + 3)])
        start, middle, stop = bounds.tolist()
        ids = as_int32(read_parts(self.tokens, [(start, stop)])[0])
        return ids[: middle - start], ids[middle - start :]

    def take(self, count: int) -> "PairFile":
        """Return the first `count` pairs."""
        return replace(self, offsets=self.offsets[: 2 * count + 1])


def open_pairs(path: Path, model: ModelConfig) -> PairFile:
    """Map a file of pairs into memory. Check all offsets, and check the ids as `open_tokens` does.

    Raises:
        InputError: it is not a file of pairs, an id is vocab_size or more, or a pair is too long for the model.
    """
    bounds_path = find_beside(path, OFFSETS)
    if path.suffix == ".jsonl" or (path.exists() and not bounds_path.exists()):
        raise InputError(
            f"{path}: not a file of encoded pairs; make one: lm tokenizer encode --tokenizer FOLDER --input "
            "PAIRS.jsonl --out PAIRS.npy"
        )
    tokens = open_tokens(path, model.vocab_size, 0)
    require_file(bounds_path)
    try:
        offsets = map_npy(bounds_path)
    except ValueError as error:
        raise InputError(
            f"{bounds_path}: does not hold the bounds of pairs ({error}); encode the pairs again"
        ) from None
    if offsets.dtype != np.int64:
        raise InputError(f"{bounds_path}: does not hold the bounds of pairs; encode the pairs again")
    if len(offsets) < 3 or len(offsets) % 2 == 0 or offsets[0] != 0 or offsets[-1] != len(tokens):
        raise InputError(f"{bounds_path}: the bounds do not fit the pairs beside it; encode the pairs again")
    longest = [_longest(offsets, len(tokens), part, bounds_path) for part in (0, 1)]
    # The model reads the end token before the target, and predicts the one after it.
    for what, length, limit in (
        ("prefix", longest[0], "prefix_length"),
        ("target", longest[1] - 1, "context_length"),
    ):
        if length > getattr(model, limit):
            raise InputError(
                f"{path}: the longest {what} takes {length} tokens, and model.{limit} is {getattr(model, limit)}; "
                f"set it to {length}, or encode pairs that are shorter"
            )
    return PairFile(tokens, offsets)


def _longest(offsets: np.ndarray, num_tokens: int, part: int, bounds_path: Path) -> int:
    """Return the length of the longest prefix (part 0), or of the longest target with its end tokens (part 1)."""
    longest, block = 0, 1 << 20
    for start in range(0, len(offsets) - 1, block):
        bounds = read_parts(offsets, [(start, start + block + 1)])[0]
        lengths = np.diff(bounds)[part::2]
        # The bounds are checked too, because differences of huge numbers may wrap around.
        if lengths.min() < 1 + part or bounds.min() < 0 or bounds.max() > num_tokens:
            raise InputError(f"{bounds_path}: does not hold the bounds of pairs; encode the pairs again")
        longest = max(longest, int(lengths.max()))
    return longest


@dataclass(frozen=True)
class PairCorpus:
    """Files that training pairs are drawn from, as windows are drawn from `lm.data.windows.Corpus`."""

    files: tuple[PairFile, ...]
    shares: tuple[float, ...]

    def places(self, config: TrainConfig, step: int) -> list[tuple[int, int]]:
        """Return (index of the file, index of the pair in the file) of each pair of a step's batch."""
        sizes = [len(file) for file in self.files]
        return draw(sizes, self.shares, config.seed, step, config.batch_size)

    def batch(self, config: TrainConfig, step: int) -> Batch:
        """Return the batch of a step, a pure function of (corpus, step, settings)."""
        pairs = [self.files[i][k] for i, k in self.places(config, step)]
        return pair_batch(pairs, config.batch_size, config.model, config.grad_accumulation)


def open_pair_corpus(
    patterns: Sequence[Path], weights: Sequence[float], model: ModelConfig
) -> tuple[PairCorpus, tuple[Path, ...]]:
    """Open files of pairs as one corpus, as `lm.data.windows.open_corpus` does, and return their paths too."""
    found = find_weighted(patterns, weights)
    opened = [[open_pairs(path, model) for path in paths] for paths in found]
    files = tuple(chain(*opened))
    shares = mixture_shares([[len(file) for file in group] for group in opened], weights)
    return PairCorpus(files, shares), tuple(chain(*found))


def pair_batch(pairs: Sequence[Pair], batch_size: int, model: ModelConfig, micro_batches: int = 1) -> Batch:
    """Pad pairs to the shapes of the model. Rows without a pair do not count towards the loss.

    The decoder reads the end token before the target and then the target. It predicts the target and the end token
    after it.
    """
    assert model.prefix_length is not None
    prefix = np.zeros((batch_size, model.prefix_length), np.int32)
    inputs, targets = np.zeros((2, batch_size, model.context_length), np.int32)
    num_tokens, num_targets = np.zeros((2, batch_size), np.int32)
    for row, (prefix_ids, target) in enumerate(pairs):
        num_tokens[row], num_targets[row] = len(prefix_ids), len(target) - 1
        prefix[row, : len(prefix_ids)] = prefix_ids
        inputs[row, : len(target) - 1] = target[:-1]
        targets[row, : len(target) - 1] = target[1:]
    loss_mask = np.arange(model.context_length) < num_targets[:, None]

    def split(array: np.ndarray) -> np.ndarray:
        return array.reshape(micro_batches, -1, *array.shape[1:])

    return Batch(split(inputs), split(targets), split(loss_mask), split(num_tokens), split(prefix))


def pair_eval_batches(pairs: PairFile, config: TrainConfig) -> Iterator[Batch]:
    """Yield all pairs in their order, each once. The last batch may have rows without a pair."""
    for start in range(0, len(pairs), config.batch_size):
        chunk = [pairs[i] for i in range(start, min(start + config.batch_size, len(pairs)))]
        yield pair_batch(chunk, config.batch_size, config.model)


def pairs_fingerprint(path: Path) -> str:
    """Return a hash of the contents of a file of pairs: the hash of its `fingerprint`s."""
    both = [fingerprint(path), fingerprint(find_beside(path, OFFSETS))]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()
