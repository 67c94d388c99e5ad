"""Train a byte-level BPE vocabulary."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer import files
from tokenizer.errors import InputError
from tokenizer.pretokenize import Pretokenizer

Vocab = dict[int, bytes]
Merges = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class TrainResult:
    """A trained vocabulary, and what its training took."""

    vocab: Vocab
    merges: Merges
    special_tokens: list[str]
    pattern: str
    num_bytes: int  # of the corpus
    num_tokens: int  # that encoding the corpus would give
    num_distinct_pieces: int  # pre-tokens, each counted once
    seconds: dict[str, float]  # by phase: "count", "merge"

    @property
    def bytes_per_token(self) -> float:
        """The compression of the corpus."""
        return self.num_bytes / self.num_tokens


def train_bpe(
    input_path: str | Path, vocab_size: int, special_tokens: Iterable[str] = (), **options: Any
) -> tuple[Vocab, Merges]:
    """Train a vocabulary on a text file: `train` without the statistics, the course's interface.

    Args:
        input_path, vocab_size, special_tokens, options: as in `train`.

    Returns:
        vocab: id -> bytes: the special tokens, the 256 bytes, then one token for each merge.
        merges: pairs of byte strings in the order they were merged.

    Raises:
        InputError: as in `train`.
    """
    result = train(input_path, vocab_size, special_tokens, **options)
    return result.vocab, result.merges


def train(
    input_path: str | Path,
    vocab_size: int,
    special_tokens: Iterable[str] = (),
    *,
    num_workers: int | None = None,
    pattern: str = "gpt2",
    progress: bool = False,
) -> TrainResult:
    """Train a vocabulary on a UTF-8 text file.

    The pair of neighbours that occurs most often is merged, again and again; ties go to the greater pair of
    byte strings. The vocabulary is smaller than asked for where the text has no pair left to merge.

    Args:
        input_path: a text file; special tokens in it separate its documents and are not trained on.
        vocab_size: number of tokens, at least 256 and one for each special token.
        special_tokens: strings, first in the vocabulary in this order.
        num_workers: processes that count; None for as many as there are processors. Does not change the result.
        pattern: "gpt2", "cl100k", "o200k", or a regular expression.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or another argument is unusable.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    num_special = len(pretokenizer.special_tokens)
    if vocab_size < 256 + num_special:
        raise InputError(
            f"vocab_size is {vocab_size}, but the 256 bytes and {num_special} special tokens need "
            f"{256 + num_special}; ask for at least that many"
        )
    start = time.perf_counter()
    text = files.read_text(input_path)
    if not text:
        raise InputError(f"{input_path} is empty; give a file with text to train on")
    counts: Counter[str] = Counter()
    num_specials_seen = 0
    for is_special, pieces in pretokenizer.sections(text):
        if is_special:
            num_specials_seen += 1
        else:
            counts.update(pieces)
    counted = time.perf_counter()
    tokens = [token.encode() for token in pretokenizer.special_tokens] + [bytes([i]) for i in range(256)]
    merges, num_tokens = _merge(counts, tokens, num_special, vocab_size)
    return TrainResult(
        vocab=dict(enumerate(tokens)),
        merges=merges,
        special_tokens=pretokenizer.special_tokens,
        pattern=pattern,
        num_bytes=len(text.encode()),
        num_tokens=num_tokens + num_specials_seen,
        num_distinct_pieces=len(counts),
        seconds={"count": counted - start, "merge": time.perf_counter() - counted},
    )


def _merge(counts: Counter[str], tokens: list[bytes], first_byte: int, vocab_size: int) -> tuple[Merges, int]:
    """Append merged tokens to `tokens` until there are `vocab_size`; counts of pairs are kept, not recounted."""
    words = [([first_byte + byte for byte in word.encode()], count) for word, count in counts.items()]
    pair_counts: Counter[tuple[int, int]] = Counter()
    words_with: dict[tuple[int, int], set[int]] = {}
    for w, (ids, count) in enumerate(words):
        for pair in zip(ids, ids[1:], strict=False):
            pair_counts[pair] += count
            words_with.setdefault(pair, set()).add(w)
    merges: Merges = []
    while len(tokens) < vocab_size:
        pair = max(pair_counts, key=lambda p: (pair_counts[p], tokens[p[0]], tokens[p[1]]), default=None)
        if pair is None or pair_counts[pair] < 1:
            break
        new = len(tokens)
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        for w in words_with.pop(pair):
            ids, count = words[w]
            for old in zip(ids, ids[1:], strict=False):
                pair_counts[old] -= count
            i = 0
            while i < len(ids) - 1:
                if (ids[i], ids[i + 1]) == pair:
                    ids[i : i + 2] = [new]
                i += 1
            for now in zip(ids, ids[1:], strict=False):
                pair_counts[now] += count
                words_with.setdefault(now, set()).add(w)
        del pair_counts[pair]
    return merges, sum(len(ids) * count for ids, count in words)
