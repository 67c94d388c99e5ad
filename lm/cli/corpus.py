"""Commands that get a text: `lm stories`, `lm data get`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.terminal import show


@dataclass(frozen=True)
class Stories:
    """Write children's stories from a grammar: a corpus without a download, whose exact entropy is known."""

    out: Path
    """Text file to write; FILE.json beside it records its size and information in nats."""
    bytes: int = 10_000_000
    """Size of the text; the last story is written to its end."""
    seed: int = 0
    """Seed of the stories. Give training and validation text different ones."""

    def run(self) -> None:
        from lm.corpora.stories import write_stories

        info = write_stories(self.out, self.bytes, self.seed, progress=sys.stderr.isatty())
        show(
            f"{self.out}: {info.documents:,} stories, {info.bytes:,} bytes, "
            f"{info.nats / info.bytes:.4f} nats per byte"
        )


@dataclass(frozen=True)
class Data:
    """Download the texts that the course trains on; a broken download goes on where it was."""

    action: Positional[Literal["get"]]
    """What to do."""
    dataset: Positional[Literal["tinystories", "owt"]]
    """TinyStories (2.2 GB), or the course's sample of OpenWebText (12 GB unpacked)."""
    out: Path = Path("data")
    """Folder to write to."""
    mirror: str | None = None
    """Address to use in place of https://huggingface.co/datasets."""

    def run(self) -> None:
        from lm.corpora.download import get_dataset

        get_dataset(self.dataset, self.out, self.mirror)
