"""Compare the ids of random texts with tiktoken's: `python -m tests.tokenizer.differential`.

Vocabularies of 300 to 50,000 tokens for each known pattern, and GPT-2's if LM_TEST_DATA names a folder with it. Each
text is encoded alone, in a batch, and within one long text. All characters are old ones, since programs differ in how
new the Unicode is that they know.
"""

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tiktoken

from bench.web import write_web
from tests.tokenizer.texts import CORNER_CASES
from tokenizer import END_OF_TEXT, Tokenizer, train_bpe
from tokenizer.pretokenize import PATTERNS

SIZES = (300, 1000, 10_000, 50_000)
_BLOCKS = (
    *((0x20, 0x7E), (0x09, 0x0D), (0xA0, 0x17F), (0x391, 0x3A1), (0x3B1, 0x3C9), (0x410, 0x44F)),
    *((0x5D0, 0x5EA), (0x621, 0x63A), (0x660, 0x669), (0x905, 0x939), (0xE01, 0xE3A), (0x300, 0x36F)),
    *((0x2000, 0x2027), (0x2150, 0x215F), (0x3041, 0x3096), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3)),
    *((0xFF10, 0xFF5A), (0x10400, 0x1044F), (0x1D400, 0x1D454), (0x1F300, 0x1F5FF)),
)
_PARTS = (
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "'ll",
    "'RE",
    "'",
    "’",
    END_OF_TEXT,
    "<|",
    "1",
    "2026",
    "aaa",
)


def texts(corpus: str, number: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of up to 200 characters: parts of the corpus, random characters, and mixtures of both."""
    rng = random.Random(seed)

    def some_corpus() -> str:
        start = rng.randrange(len(corpus))
        return corpus[start : start + rng.randrange(80)]

    def some_characters() -> str:
        first, last = rng.choice(_BLOCKS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(8)))

    sources = (
        some_corpus,
        some_characters,
        lambda: rng.choice(_PARTS),
        lambda: rng.choice(CORNER_CASES)[:20],
    )
    for _ in range(number):
        weights = rng.choice(((1, 0, 0, 0), (0, 3, 2, 1), (2, 3, 3, 1)))
        yield "".join(source() for source in rng.choices(sources, weights, k=rng.randrange(1, 12)))[:200]


def different(tokenizer: Tokenizer, some: list[str]) -> list[str]:
    """Return the texts whose ids are not tiktoken's, by any of our ways."""
    special = tokenizer.special_tokens
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special.values()}
    pattern = PATTERNS[str(tokenizer.pretokenizer.pattern)]
    theirs = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    found = []
    for text, in_batch in zip(some, tokenizer.encode_batch(some), strict=True):
        ids = theirs.encode(text, allowed_special="all")
        if not ids == in_batch == tokenizer.encode(text):
            found.append(text)
    joined = "".join(some)
    if tokenizer.encode(joined) != theirs.encode(joined, allowed_special="all"):
        found.append(joined)
    return found


def trained(corpus: Path, size: int, pattern: str) -> Tokenizer:
    """Return a tokenizer with a vocabulary of its own."""
    vocab, merges = train_bpe(corpus, size, [END_OF_TEXT], pattern=pattern)
    return Tokenizer(vocab, merges, [END_OF_TEXT], pattern)


def main(number: int) -> int:
    """Compare this many texts for each vocabulary. Return 1 if any ids differ."""
    total = differences = 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        write_web(corpus, 8_000_000)
        some = list(texts(corpus.read_text("utf-8")[:1_000_000], number))
        makers = [partial(trained, corpus, size, pattern) for pattern in PATTERNS for size in SIZES]
        for make in [*makers, *_gpt2()]:
            tokenizer = make()
            found = different(tokenizer, some)
            name = f"{tokenizer.pretokenizer.pattern}, {len(tokenizer.vocab):,} tokens"
            print(f"{name}: {len(found)} of {number:,} texts differ", flush=True)
            total, differences = total + number, differences + len(found)
    print(f"{differences} of {total:,} texts differ")
    return int(differences > 0)


def _gpt2() -> list[partial[Tokenizer]]:
    folder = Path(os.environ.get("LM_TEST_DATA", "")) / "gpt2"
    if not (folder / "vocab.json").exists():
        return []
    return [partial(Tokenizer.from_files, folder / "vocab.json", folder / "merges.txt", [END_OF_TEXT])]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
