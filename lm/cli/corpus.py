"""The commands that write or download a text: `lm stories`, `lm data get`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.terminal import show


@dataclass(frozen=True)
class Stories:
    """Write children's stories from a grammar: a text of known entropy.

    Nothing is downloaded.
    """

    out: Path
    """Text file to write; FILE.json beside it records its size and information in nats."""
    bytes: int = 10_000_000
    """Size of the text. The last story is complete, so the text is a little longer."""
    seed: int = 0
    """Seed of the stories. Give the training and the validation text different seeds."""

    def run(self) -> None:
        from lm.corpora.stories import write_stories

        info = write_stories(self.out, self.bytes, self.seed, progress=sys.stderr.isatty())
        show(
            f"{self.out}: {info.documents:,} stories, {info.bytes:,} bytes, "
            f"{info.nats / info.bytes:.4f} nats per byte"
        )


@dataclass(frozen=True)
class Data:
    """Download the texts that the course trains on.

    The same command continues a download that was interrupted.
    """

    action: Positional[Literal["get"]]
    """Action: get downloads."""
    dataset: Positional[Literal["tinystories", "owt"]]
    """Text to download: TinyStories (2.2 GB), or the course's sample of OpenWebText (12 GB unpacked)."""
    out: Path = Path("data")
    """Folder to write to."""
    mirror: str | None = None
    """Address to download from. If not given: https://huggingface.co/datasets."""

    def run(self) -> None:
        from lm.corpora.download import get_dataset

        get_dataset(self.dataset, self.out, self.mirror)
