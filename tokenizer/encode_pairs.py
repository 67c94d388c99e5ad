"""Encode a JSON-lines file of pairs, a prefix and the target that follows from it, into token ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tokenizer.encode_corpus import npy_header
from tokenizer.errors import InputError
from tokenizer.files.pairs import read_pairs
from tokenizer.files.publish import published_together, refuse_existing, reserved
from tokenizer.files.sources import Paths, open_texts
from tokenizer.progress import progress_bar
from tokenizer.tokenizer import Tokenizer

OFFSETS = ".offsets"
AT_ONCE = 4096  # pairs to a write


@dataclass(frozen=True)
class EncodePairsResult:
    """What `encode_pairs` wrote."""

    num_pairs: int
    num_tokens: int
    longest_prefix: int  # tokens
    longest_target: int  # tokens, including the end token


def offsets_path(tokens_path: Path) -> Path:
    """Return the path of the file that holds the offsets of a file of pairs: beside it."""
    return Path(f"{tokens_path}{OFFSETS}")


def encode_pairs(
    input_paths: Paths, tokenizer: Tokenizer, output_path: str | Path, end: str, *, progress: bool = False
) -> EncodePairsResult:
    """Encode files of lines such as {"prefix": "abc", "target": "cba"}; other keys are ignored.

    The output is a .npy file of ids, each pair as: prefix, end, target, end. So it is also a token file. Beside it,
    in `offsets_path`, a .npy file of 2 N + 1 int64 says where the parts are: the prefix of pair i starts at
    offset 2i, the end token before its target at offset 2i + 1. Both files appear in full or not at all. Memory
    does not grow with the file.

    Args:
        input_paths: the pairs, one to a line: a file or several, globs, addresses that fsspec knows.
        tokenizer: the tokenizer that encodes them.
        output_path: the .npy file to write.
        end: the special token before and after a target.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a line is not a pair, the tokenizer lacks the end token, or the output exists.
    """
    output_path = Path(output_path)
    refuse_existing(output_path)
    if end not in tokenizer.special_tokens:
        raise InputError(
            f"the tokenizer has no special token {end}, which ends a target; train one with --special-tokens '{end}'"
        )
    end_id = tokenizer.special_tokens[end]
    dtype = tokenizer.dtype.newbyteorder("<")
    num_pairs = num_tokens = longest_prefix = longest_target = 0
    with (
        open_texts(input_paths, "encode", output_path.parent) as texts,
        reserved(output_path),
        published_together(output_path, offsets_path(output_path)) as (temporary, temporary_offsets),
        open(temporary, "wb") as tokens_file,
        open(temporary_offsets, "wb") as offsets_file,
        progress_bar(progress, "encode", texts.num_bytes, "B") as update,
    ):
        tokens_file.write(npy_header(0, dtype))
        offsets_file.write(npy_header(0, np.dtype("<i8")))
        pairs = chain.from_iterable(_encode(path, tokenizer) for path in texts.paths)
        while some := list(islice(pairs, AT_ONCE)):
            ids: list[int] = []
            starts: list[int] = []
            for prefix, target, line_bytes in some:
                starts += num_tokens + len(ids), num_tokens + len(ids) + len(prefix)
                ids += [*prefix, end_id, *target, end_id]
                longest_prefix = max(longest_prefix, len(prefix))
                longest_target = max(longest_target, len(target) + 1)
                update(line_bytes)
            tokens_file.write(np.array(ids, dtype).data)
            offsets_file.write(np.array(starts, "<i8").data)
            num_pairs += len(some)
            num_tokens += len(ids)
        offsets_file.write(np.array([num_tokens], "<i8").data)
        for file, length, of_type in (
            (tokens_file, num_tokens, dtype),
            (offsets_file, 2 * num_pairs + 1, np.dtype("<i8")),
        ):
            file.seek(0)
            file.write(npy_header(length, of_type))
    return EncodePairsResult(num_pairs, num_tokens, longest_prefix, longest_target)


def _encode(path: str, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int], int]]:
    """Yield the ids of the prefix and of the target of each line, and the line's bytes."""
    for prefix, target, num_bytes in read_pairs(path):
        yield tokenizer.encode(prefix), tokenizer.encode(target), num_bytes
