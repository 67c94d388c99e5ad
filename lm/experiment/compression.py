"""Tokenizers: how far they compress, how fast they encode, and their longest tokens."""

import statistics
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from lm.experiment.plot import open_plot
from lm.experiment.runs import Runs
from lm.experiment.stages import split
from lm.files import published
from lm.tables import markdown_table
from tokenizer import END_OF_TEXT, Tokenizer
from tokenizer.inspect import printable
from tokenizer.train_bpe import TrainResult, train

VOCAB_SIZE = 10_000
"""The course's size for TinyStories. A text with fewer pairs to merge gives fewer tokens."""
PILE_BYTES = 825e9
_FEWEST = 257
_LONGEST = 5
_TIMES = 3
_SHOWN = 30


def run(runs: Runs) -> dict[str, Any]:
    """Train a tokenizer on each corpus, and encode the held-out text of each corpus with each tokenizer."""
    folder = runs.inputs.val.parent
    stories = "stories" if runs.plan.corpus is None else "your corpus"
    corpora = {
        stories: (folder / "train.txt", folder / "val.txt"),
        "reference": _reference(folder / "reference"),
    }
    held_out = {name: val.read_bytes().decode() for name, (_, val) in corpora.items()}
    sizes = {name: len(text.encode()) for name, text in held_out.items()}
    trained = {name: train(path, VOCAB_SIZE, (END_OF_TEXT,)) for name, (path, _) in corpora.items()}
    tokenizers = {name: _tokenizer(result, len(result.vocab)) for name, result in trained.items()}
    tokenizers["model"] = Tokenizer.load(folder / "tokenizer")
    steps = [n for n in (_FEWEST, 300, 400, 512, 700, 1000, 1500, 2000, 3000, 5000, 7000) if n < VOCAB_SIZE]
    return {
        "corpora": {
            name: {"train_bytes": path.stat().st_size, "held_out_bytes": sizes[name]}
            for name, (path, _) in corpora.items()
        },
        "python": ".".join(map(str, sys.version_info[:2])),
        "trained": {
            name: {
                "asked": VOCAB_SIZE,
                "vocab_size": len(result.vocab),
                "seconds": sum(result.seconds.values()),
                "longest": [
                    printable(token)
                    for token in sorted((a + b for a, b in result.merges), key=len, reverse=True)[:_LONGEST]
                ],
            }
            for name, result in trained.items()
        },
        "vocab_sizes": {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()},
        "dtypes": {name: str(tokenizer.dtype) for name, tokenizer in tokenizers.items()},
        "bytes_per_token": {
            name: {corpus: _compression(tokenizer, text) for corpus, text in held_out.items()}
            for name, tokenizer in tokenizers.items()
        },
        "by_size": {
            f"{name} on {corpus}": [
                [size, _compression(_tokenizer(result, size), text)]
                for size in (*(n for n in steps if n < len(result.vocab)), len(result.vocab))
            ]
            for name, result in trained.items()
            for corpus, text in held_out.items()
        },
        "throughput": _throughput(stories, corpora[stories][0], trained[stories]),
    }


def _reference(folder: Path) -> tuple[Path, Path]:
    """Split an English text that every Python contains: what help() says about the language."""
    paths = folder / "train.txt", folder / "val.txt"
    if not paths[1].exists():
        with published(folder / "all.txt") as temporary:
            temporary.write_text("\n".join(topics.values()), encoding="utf-8", newline="")
        split(folder / "all.txt", *paths)
    return paths


def _tokenizer(result: TrainResult, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of the first `vocab_size` tokens: training that stops there gives the same one."""
    vocab = {i: token for i, token in result.vocab.items() if i < vocab_size}
    return Tokenizer(vocab, result.merges[: vocab_size - _FEWEST], [END_OF_TEXT])


def _compression(tokenizer: Tokenizer, text: str) -> float:
    return len(text.encode()) / len(tokenizer.encode_to_numpy(text))


def _throughput(name: str, path: Path, result: TrainResult) -> dict[str, Any]:
    """Measure the bytes a second of one process, each time with a tokenizer whose caches are empty."""
    text = path.read_bytes().decode()
    seconds = []
    for _ in range(_TIMES):
        tokenizer = _tokenizer(result, len(result.vocab))
        start = time.perf_counter()
        tokenizer.encode_to_numpy(text)
        seconds.append(time.perf_counter() - start)
    size = len(text.encode())
    return {"tokenizer": name, "bytes": size, "bytes_per_second": size / statistics.median(seconds)}


def _quoted(token: str) -> str:
    """Return a token as Markdown code, shortened if it is long."""
    shown = token if len(token) <= _SHOWN else f"{token[:_SHOWN]}…"
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}" + ("" if len(token) <= _SHOWN else f" ({len(token)} characters)")


def tables(facts: dict[str, Any]) -> list[str]:
    """Return how each tokenizer compresses and was trained, its longest tokens, the corpora, and the throughput."""
    corpora, trained, throughput = facts["corpora"], facts["trained"], facts["throughput"]
    compressed = [
        [
            "the model's own" if name == "model" else f"of {name}",
            f"{facts['vocab_sizes'][name]:,}",
            facts["dtypes"][name],
            *(f"{ratios[corpus]:.3f}" for corpus in corpora),
            *(f"{facts['bytes_per_token'].get(c, ratios)[c] / ratios[c] - 1:+.1%}" for c in corpora),
        ]
        for name, ratios in facts["bytes_per_token"].items()
    ]
    training = [
        [f"of {name}", f"{t['asked']:,}", f"{t['vocab_size']:,}", f"{t['seconds']:.2f}"]
        for name, t in trained.items()
    ]
    longest = [f"- of {name}: {', '.join(map(_quoted, t['longest']))}" for name, t in trained.items()]
    sizes = [[name, f"{c['train_bytes']:,}", f"{c['held_out_bytes']:,}"] for name, c in corpora.items()]
    rate = throughput["bytes_per_second"]
    speed = [[throughput["tokenizer"], f"{rate / 1e6:,.1f}", f"{PILE_BYTES / rate / 3600:,.1f}"]]
    head = [f"bytes per token on {corpus}" for corpus in corpora]
    head += [f"tokens for {corpus}, against its own tokenizer" for corpus in corpora]
    return [
        markdown_table(["tokenizer", "vocabulary", "ids", *head], compressed),
        markdown_table(["tokenizer", "tokens asked for", "tokens", "seconds to train"], training),
        "The longest tokens:\n\n" + "\n".join(longest),
        markdown_table(["corpus", "bytes to train on", "bytes held out"], sizes),
        markdown_table(["one process on", "MB a second", "hours for the Pile's 825 GB"], speed),
    ]


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw the bytes per token over the size of the vocabulary."""
    with open_plot(path) as axes:
        for (name, points), line in zip(facts["by_size"].items(), ("-", "--", "--", "-"), strict=True):
            axes.plot(
                *zip(*points, strict=True), line, marker="o", markersize=3, label=f"tokenizer of {name}"
            )
        axes.set_xscale("log")
        axes.set_xlabel("vocabulary")
        axes.set_ylabel("bytes per token, held-out text")
