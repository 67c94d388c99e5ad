"""The built-in corpus: endless children's stories from a probabilistic grammar and a seed.

The stories look like TinyStories and need no download. Unlike in a real corpus, the probability of every story is
known exactly, so each file comes with its information in nats. Divided by the number of tokens, this is the *entropy
floor*: in expectation, no model has a lower loss.

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

END = f"\n{END_OF_TEXT}\n"  # follows every story in a file; it is certain, so it has 0 nats
WORDS_PER_STORY = 96  # random words reserved for a story; the tests prove that no story draws more
BLOCK = 512  # number of stories for which random words are drawn at once, and that are written at once
STREAM = int.from_bytes(b"stories", "little")  # separates these draws from other uses of a seed


@dataclass(frozen=True)
class StoriesInfo:
    """The sidecar of a file of stories. `nats` is the information of the whole text."""

    seed: int
    documents: int
    bytes: int
    nats: float
    sha256: str
    kind: str = "twinlm stories"


def iter_stories(seed: int) -> Iterator[tuple[str, float]]:
    """Yield the endless stories of a seed as (text without the separator, its information in nats).

    Story i is a pure function of (seed, i): it reads the words 96 i, 96 i + 1, ... of Philox's raw 64-bit stream
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which NumPy keeps unchanged.
    """
    stream = np.random.Philox(key=np.array([seed, STREAM], dtype=np.uint64))
    while True:
        words = stream.random_raw(WORDS_PER_STORY * BLOCK).tolist()
        for start in range(0, len(words), WORDS_PER_STORY):
            yield tell(GRAMMAR, "story", iter(words[start : start + WORDS_PER_STORY]))


def parse_story(text: str) -> list[Derivation]:
    """Return every derivation of a text (without the separator): exactly one if it is a story, and none otherwise."""
    return parse(GRAMMAR, "story", text)


def write_stories(path: str | Path, num_bytes: int, seed: int, *, progress: bool = False) -> StoriesInfo:
    """Write whole stories, each followed by `<|endoftext|>`, until the file has at least `num_bytes` bytes.

    A shorter file is a prefix of a longer one with the same seed. The file appears when it is complete, together with
    its `StoriesInfo` in `<path>.json`. Memory does not grow with the size.

    Raises:
        InputError: the size is below 1, the seed does not fit in 64 bits, the folder does not exist, or the file does.
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
