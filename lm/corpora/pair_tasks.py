"""Built-in tasks of pairs: continue a story, and reverse a word. They need no download."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Literal

from lm.accounting.limits import refuse_more_than_disk
from lm.corpora.stories import iter_stories
from lm.files import published, reserved
from lm.rng import integers, philox
from tokenizer.errors import InputError

Task = Literal["stories", "reverse"]
MAX_WORD = 1 << 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# A sentence ends before white space, and the rest begins with that white space.
_SENTENCE = re.compile(r'.*?[.!?]["”]?(?=\s)', re.DOTALL)


def story_pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Yield the endless stories of a seed as (first sentence, rest)."""
    for story, _ in iter_stories(seed):
        first = _SENTENCE.match(story)
        assert first, story
        yield first[0], story[first.end() :]


def reversed_words(seed: int, shortest: int, longest: int) -> Iterator[tuple[str, str]]:
    """Yield an endless stream of (word, the word reversed).

    Letters are random, and all lengths from `shortest` to `longest` are equally likely. Word i is a pure function of
    (seed, i, shortest, longest).
    """
    block_size = 1024
    for block in count():
        bits = philox(seed, "words", block).random_raw((1 + longest) * block_size).reshape(block_size, -1)
        lengths = shortest + integers(bits[:, 0], longest - shortest + 1)
        letters = integers(bits[:, 1:], len(LETTERS))
        for length, row in zip(lengths.tolist(), letters.tolist(), strict=True):
            word = "".join(LETTERS[i] for i in row[:length])
            yield word, word[::-1]


def is_held_out(prefix: str, target: str) -> bool:
    """Whether a pair is for evaluation only. The pair's hash decides, so that one pair in ten is, with every seed."""
    digest = hashlib.sha256(json.dumps([prefix, target]).encode()).digest()
    return int.from_bytes(digest[:8], "little") % 10 == 0


def write_pairs(
    path: Path, task: Task, num_pairs: int, seed: int, held_out: bool, word_lengths: tuple[int, int]
) -> None:
    """Write `num_pairs` pairs as JSON lines.

    Args:
        held_out: Whether to write only pairs that are held out, or only pairs that are not.
        word_lengths: Shortest and longest word of the task reverse.

    Raises:
        InputError: a number is out of range, or the file exists.
    """
    shortest, longest = word_lengths
    if num_pairs < 1:
        raise InputError(f"count is {num_pairs}: give 1 or more")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}: give a number from 0 to 2^64 - 1")
    if not 1 <= shortest <= longest:
        raise InputError(
            f"the word lengths are {shortest} {longest}: give two numbers of at least 1, the smaller first"
        )
    if longest > MAX_WORD:
        raise InputError(f"the longest word has {longest} letters; give at most {MAX_WORD:,}")
    shortest_line = len('{"prefix": "", "target": ""}\n') + (2 * shortest if task == "reverse" else 0)
    refuse_more_than_disk(num_pairs * shortest_line, path, f"a file of {num_pairs:,} pairs", "--count")
    pairs = story_pairs(seed) if task == "stories" else reversed_words(seed, shortest, longest)
    wanted = (pair for pair in pairs if is_held_out(*pair) == held_out)
    with (
        reserved(path),
        published(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for prefix, target in islice(wanted, num_pairs):
            file.write(json.dumps({"prefix": prefix, "target": target}, ensure_ascii=False) + "\n")
