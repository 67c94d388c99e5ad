"""The command `lm pairs`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.terminal import show


@dataclass(frozen=True)
class Pairs:
    """Write pairs of prefix and target, for an encoder-decoder.

    The file has one pair as JSON in each line. Nothing is downloaded.
    """

    task: Positional[Literal["stories", "reverse"]]
    """Pairs to write: stories (first sentence and rest of a story) or reverse (a random word and its reverse)."""
    out: Path
    """File to write, for lm tokenizer encode."""
    count: int = 100_000
    """Number of pairs."""
    seed: int = 0
    """Seed of the pairs."""
    held_out: bool = False
    """Write pairs for evaluation, from the tenth of all pairs that no seed writes without this flag."""
    word_lengths: tuple[int, int] = (3, 10)
    """Lengths of the shortest and the longest word to reverse."""

    def run(self) -> None:
        from lm.corpora.pair_tasks import write_pairs

        write_pairs(self.out, self.task, self.count, self.seed, self.held_out, self.word_lengths)
        show(f"{self.out}: {self.count:,} pairs")
