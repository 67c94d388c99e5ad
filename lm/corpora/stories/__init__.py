"""The built-in corpus: children's stories from a probabilistic grammar, as many as you like, from a seed.

The stories look like TinyStories and need no download. What no real corpus has: the probability of every
story is known exactly, so the file comes with its information in nats, and that over the number of tokens is
the *entropy floor*, the loss that in expectation no model can beat.

    >>> text, nats = next(iter_stories(seed=0))
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lm.accounting.limits import refuse_more_than_disk
from lm.corpora.stories.grammar import Derivation, parse, tell
from lm.corpora.stories.plots import GRAMMAR
from lm.data.sidecar import sidecar_path
from lm.files import json_text, reserved
from tokenizer import END_OF_TEXT
from tokenizer.errors import InputError
from tokenizer.files.publish import published_together

__all__ = ["END", "Derivation", "StoriesInfo", "iter_stories", "parse_story", "write_stories"]

END = f"\n{END_OF_TEXT}\n"  # what follows every story in a file; certain, so 0 nats
WORDS_PER_STORY = 96  # random words set aside for a story; the tests prove that none draws more
BLOCK = 512  # stories to a block of random words, and to a write
STREAM = int.from_bytes(b"stories", "little")  # keeps these draws apart from other uses of the same seed


@dataclass(frozen=True)
class StoriesInfo:
    """What the sidecar of a file of stories says. `nats` is the information of the whole text, the floor."""

    seed: int
    documents: int
    bytes: int
    nats: float
    sha256: str
    kind: str = "twinlm stories"


def iter_stories(seed: int) -> Iterator[tuple[str, float]]:
    """The endless stories of a seed: (text without the separator, its information in nats).

    Story i is a pure function of (seed, i): it reads the words 96 i, 96 i + 1, ... of Philox's raw 64-bit
    stream (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which NumPy never changes.
    """
    stream = np.random.Philox(key=np.array([seed, STREAM], dtype=np.uint64))
    while True:
        words = stream.random_raw(WORDS_PER_STORY * BLOCK).tolist()
        for at in range(0, len(words), WORDS_PER_STORY):
            yield tell(GRAMMAR, "story", iter(words[at : at + WORDS_PER_STORY]))


def parse_story(text: str) -> list[Derivation]:
    """Every derivation of a story (without the separator): exactly one if it is a story, else none."""
    return parse(GRAMMAR, "story", text)


def write_stories(path: str | Path, num_bytes: int, seed: int, *, progress: bool = False) -> StoriesInfo:
    """Write whole stories, each followed by `<|endoftext|>`, until there are at least `num_bytes` bytes.

    A shorter file is a prefix of a longer one of the same seed. The file appears when it is complete, with
    its `StoriesInfo` beside it as `<path>.json`. Memory does not grow with the size.

    Raises:
        InputError: a size below 1, a seed that does not fit in 64 bits, a folder that does not exist, or a
            file that does.
    """
    path = Path(path)
    sidecar = sidecar_path(path)
    if num_bytes < 1:
        raise InputError(f"cannot write {num_bytes} bytes of stories: ask for 1 byte or more")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is out of range: choose one from 0 to 2**64 - 1")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: create it or choose another output file")
    refuse_more_than_disk(num_bytes, path, f"a text of {num_bytes:,} bytes", "--bytes")
    with reserved(path), reserved(sidecar):
        return _write_stories(path, sidecar, num_bytes, seed, progress)


def _write_stories(path: Path, sidecar: Path, num_bytes: int, seed: int, progress: bool) -> StoriesInfo:
    stories = iter_stories(seed)
    digest = hashlib.sha256()
    documents, size, nats = 0, 0, 0.0
    with (
        published_together(path, sidecar) as (partial, partial_sidecar),
        open(partial, "wb") as out,
        tqdm(total=num_bytes, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while size < num_bytes:
            block = bytearray()
            for text, text_nats in islice(stories, BLOCK):
                block += (text + END).encode()
                documents += 1
                nats += text_nats
                if size + len(block) >= num_bytes:
                    break
            out.write(block)
            digest.update(block)
            size += len(block)
            bar.update(len(block))
        info = StoriesInfo(seed, documents, size, nats, digest.hexdigest())
        partial_sidecar.write_text(json_text(asdict(info)), encoding="utf-8", newline="")
    return info
