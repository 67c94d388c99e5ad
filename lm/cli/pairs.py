"""The command `lm pairs`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.terminal import show


@dataclass(frozen=True)
class Pairs:
    """Write pairs, a prefix and what follows from it, to train an encoder-decoder on: JSON lines, no download."""

    task: Positional[Literal["stories", "reverse"]]
    """The first sentence of a story and its rest, or a random word and itself reversed."""
    out: Path
    """File to write, for lm tokenizer encode."""
    count: int = 100_000
    """Number of pairs."""
    seed: int = 0
    """Seed of the pairs."""
    held_out: bool = False
    """Write pairs of the tenth that is never written without this flag, whatever the seed: to evaluate on."""
    word_lengths: tuple[int, int] = (3, 10)
    """Shortest and longest word to reverse."""

    def run(self) -> None:
        from lm.corpora.pair_tasks import write_pairs

        write_pairs(self.out, self.task, self.count, self.seed, self.held_out, self.word_lengths)
        show(f"{self.out}: {self.count:,} pairs")
