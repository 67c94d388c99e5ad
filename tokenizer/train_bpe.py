"""Train a byte-level BPE vocabulary."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizer.counts import PieceCounts, count_pieces, count_pieces_on
from tokenizer.errors import InputError
from tokenizer.files.sources import Paths, open_texts
from tokenizer.machine import peak_memory
from tokenizer.merges.learn import learn_merges
from tokenizer.parallel.ranges import share
from tokenizer.pretokenize import Pattern, Pretokenizer
from tokenizer.progress import progress_bar

MAX_VOCAB_SIZE = 2**31 - 1  # models read ids as int32

if TYPE_CHECKING:
    from distributed import Client

Vocab = dict[int, bytes]
Merges = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class TrainResult:
    """A trained vocabulary, and the time and memory that training took."""

    vocab: Vocab
    merges: Merges
    special_tokens: list[str]
    pattern: Pattern
    num_bytes: int  # of the corpus; of pairs, of their texts
    num_tokens: int  # that encoding the corpus would give
    num_distinct_pieces: int  # pre-tokens, each counted once
    seconds: dict[str, float]  # by phase: "count", "merge"
    peak_memory: int  # bytes, of this process

    @property
    def bytes_per_token(self) -> float:
        """The compression of the corpus."""
        return self.num_bytes / self.num_tokens


def train_bpe(
    input_path: Paths, vocab_size: int, special_tokens: Iterable[str] = (), **options: Any
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
    input_path: Paths,
    vocab_size: int,
    special_tokens: Iterable[str] = (),
    *,
    num_workers: int | None = None,
    pattern: str | Sequence[str] = "gpt2",
    progress: bool = False,
    client: "Client | None" = None,
) -> TrainResult:
    """Train a vocabulary on UTF-8 text files.

    Merge repeatedly the pair of neighbours that occurs most often; ties go to the greater pair of byte strings. The
    vocabulary is smaller than asked for if the text has no pair left to merge.

    Args:
        input_path: the text: a file or several, globs, addresses that fsspec knows, pipes, "-" for standard input;
            special tokens in it separate its documents and are not trained on. Of .jsonl files, each line is a pair
            (see `files.pairs`). gzip files are decompressed.
        vocab_size: number of tokens, at least 256 and one for each special token, at most 2^31 - 1.
        special_tokens: strings, first in the vocabulary in this order.
        num_workers: processes that count; None for one per processor. The result does not depend on it.
        pattern: "gpt2", "cl100k", "o200k", a regular expression, or several of them, as in `Pretokenizer`.
        progress: show a progress bar on stderr.
        client: a Dask cluster that counts, instead of processes of this machine. The result does not depend on it.

    Raises:
        InputError: a file is missing, empty or not UTF-8, or another argument is unusable.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    num_special = len(pretokenizer.special_tokens)
    if vocab_size < 256 + num_special:
        raise InputError(
            f"vocab_size is {vocab_size}, but the 256 bytes and {num_special} special tokens need "
            f"{256 + num_special}; ask for at least that many"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise InputError(f"vocab_size is {vocab_size}; ask for at most {MAX_VOCAB_SIZE:,}")
    start = time.perf_counter()
    with open_texts(input_path, "train on", on_cluster=client is not None) as texts:
        workers, range_size = share(texts.num_bytes, num_workers)
        with progress_bar(progress, "count", texts.num_bytes, "B") as update:
            if client is None:
                counted = count_pieces(texts.paths, pretokenizer, workers, update, range_size)
            else:
                counted = count_pieces_on(client, texts.paths, texts.num_bytes, pretokenizer, update)
    num_special_seen = int(counted.counts[:num_special].sum())
    pieces = PieceCounts(
        counted.data[counted.lengths[:num_special].sum() :],
        counted.lengths[num_special:],
        counted.counts[num_special:],
    )
    counted_at = time.perf_counter()
    num_merges = vocab_size - 256 - num_special
    with progress_bar(progress, "merge", num_merges, " merges") as update:
        merges, num_tokens = learn_merges(pieces, num_merges, update)
    tokens = [token.encode() for token in pretokenizer.special_tokens] + [bytes([i]) for i in range(256)]
    tokens += [left + right for left, right in merges]
    return TrainResult(
        vocab=dict(enumerate(tokens)),
        merges=merges,
        special_tokens=pretokenizer.special_tokens,
        pattern=pretokenizer.pattern,
        num_bytes=int((counted.lengths * counted.counts).sum()),
        num_tokens=num_tokens + num_special_seen,
        num_distinct_pieces=len(pieces.counts),
        seconds={"count": counted_at - start, "merge": time.perf_counter() - counted_at},
        peak_memory=peak_memory(),
    )
