"""Tokenizers: how far they compress, how fast they are, what they hold."""

import statistics
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from lm.experiment.runs import Runs
from lm.experiment.stages import split
from lm.experiment.text import duration, listed
from lm.files import published
from lm.tables import markdown_table
from tokenizer import END_OF_TEXT, Tokenizer
from tokenizer.inspect import printable
from tokenizer.train_bpe import TrainResult, train

VOCAB_SIZE = 10_000
"""The course's for TinyStories; a text that has fewer pairs to merge makes fewer."""
PILE_BYTES = 825e9
_FEWEST = 257
_LONGEST = 5
_TIMES = 3
_SHOWN = 30


def run(runs: Runs) -> dict[str, Any]:
    """Train a tokenizer on each corpus, and encode what was held out of each with each."""
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
    """A real English text that every Python brings along, split: what its help() says of the language."""
    paths = folder / "train.txt", folder / "val.txt"
    if not paths[1].exists():
        with published(folder / "all.txt") as temporary:
            temporary.write_text("\n".join(topics.values()), encoding="utf-8", newline="")
        split(folder / "all.txt", *paths)
    return paths


def _tokenizer(result: TrainResult, vocab_size: int) -> Tokenizer:
    """The tokenizer of the first so many tokens, which is that of a training that stopped there."""
    vocab = {i: token for i, token in result.vocab.items() if i < vocab_size}
    return Tokenizer(vocab, result.merges[: vocab_size - _FEWEST], [END_OF_TEXT])


def _compression(tokenizer: Tokenizer, text: str) -> float:
    return len(text.encode()) / len(tokenizer.encode_to_numpy(text))


def _throughput(name: str, path: Path, result: TrainResult) -> dict[str, Any]:
    """Bytes a second of one process, from a tokenizer that has seen nothing yet."""
    text = path.read_bytes().decode()
    seconds = []
    for _ in range(_TIMES):
        tokenizer = _tokenizer(result, len(result.vocab))
        start = time.perf_counter()
        tokenizer.encode_to_numpy(text)
        seconds.append(time.perf_counter() - start)
    size = len(text.encode())
    return {"tokenizer": name, "bytes": size, "bytes_per_second": size / statistics.median(seconds)}


def findings(facts: dict[str, Any]) -> dict[str, str]:
    """Compression, the other corpus, speed, longest tokens and dtype, each in sentences."""
    ratios, trained = facts["bytes_per_token"], facts["trained"]
    names = list(trained)
    vocabularies = [f"{trained[name]['vocab_size']:,}" for name in names]
    own = [f"{ratios[name][name]:.2f} bytes per token on {name}" for name in names]
    said = {
        "compression": (
            f"On held-out text of its own kind, each tokenizer compresses to {listed(own)} (vocabularies of "
            f"{listed(vocabularies)} tokens)."
        )
    }
    crossed = []
    for name in names:
        for corpus in names:
            if corpus != name:
                theirs, best = ratios[name][corpus], ratios[corpus][corpus]
                more = best / theirs - 1
                crossed.append(
                    f"{corpus} by the tokenizer of {name}: {theirs:.2f} bytes per token, "
                    + (f"{more:.0%} more tokens" if more > 0 else f"{-more:.0%} fewer tokens")
                    + " than by its own"
                )
    worse = all(ratios[a][b] < ratios[b][b] for a in names for b in names if a != b)
    said["other corpus"] = f"On the other's text: {'; '.join(crossed)}. " + (
        "**A tokenizer compresses best what it was trained on**: words that its corpus lacks fall apart into short "
        "tokens."
        if worse
        else "**Here a tokenizer of another corpus is not always worse**: the corpora share their words, or the "
        "vocabulary of one is too small."
    )
    throughput = facts["throughput"]
    rate = throughput["bytes_per_second"]
    said["throughput"] = (
        f"One process encodes {throughput['bytes'] / 1e6:,.1f} MB of {throughput['tokenizer']} at "
        f"**{rate / 1e6:,.1f} MB a second**, so the Pile's 825 GB would take {duration(PILE_BYTES / rate)} at "
        "that rate; text with more distinct words is slower."
    )
    for name in names:
        longest = ", ".join(map(_quoted, trained[name]["longest"]))
        words = sum(token.strip().isalpha() for token in trained[name]["longest"])
        size, asked = trained[name]["vocab_size"], trained[name]["asked"]
        said[f"longest, {name}"] = (
            f"The longest tokens of {name} are {longest}; {words} of these {_LONGEST} are words"
            + (". " if words == _LONGEST else ", and the rest runs of signs or several words. ")
            + f"Training took {trained[name]['seconds']:.2f} s"
            + (f"; the text has no more than {size:,} of {asked:,} tokens to give." if size < asked else ".")
        )
    largest = max(facts["vocab_sizes"].values())
    small = set(facts["dtypes"].values()) == {"uint16"}
    said["dtype"] = (
        f"The largest vocabulary here has {largest:,} tokens, and uint16 holds ids up to 65,535: **uint16 "
        "is enough**, at 2 bytes a token in place of 4 or 8."
        if small
        else f"The largest vocabulary here has {largest:,} tokens, more than the 65,536 ids of uint16: **uint32 is "
        "needed**."
    )
    return said


def _quoted(token: str) -> str:
    """A token as code, cut where it is long."""
    shown = token if len(token) <= _SHOWN else f"{token[:_SHOWN]}…"
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}" + ("" if shown == token else f" ({len(token)} characters)")


def tables(facts: dict[str, Any]) -> list[str]:
    """Bytes per token of each tokenizer on each corpus, and where the texts come from."""
    corpora = facts["corpora"]
    rows = [
        [
            "the model's own" if name == "model" else f"of {name}",
            f"{facts['vocab_sizes'][name]:,}",
            *(f"{ratios[corpus]:.3f}" for corpus in corpora),
        ]
        for name, ratios in facts["bytes_per_token"].items()
    ]
    sizes = [
        f"{name}: {c['train_bytes']:,} bytes to train on and {c['held_out_bytes']:,} held out"
        for name, c in corpora.items()
    ]
    return [
        markdown_table(
            ["tokenizer", "vocabulary", *(f"bytes per token on {corpus}" for corpus in corpora)], rows
        ),
        f"*reference* is what Python {facts['python']} says of its language in help(), the text in "
        f"`pydoc_data.topics`. {'; '.join(sizes)}.",
    ]


def plot(facts: dict[str, Any], path: Path) -> None:
    """Bytes per token over the vocabulary's size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for (name, points), line in zip(facts["by_size"].items(), ("-", "--", "--", "-"), strict=True):
        axes.plot(*zip(*points, strict=True), line, marker="o", markersize=3, label=f"tokenizer of {name}")
    axes.set_xscale("log")
    axes.set_xlabel("vocabulary")
    axes.set_ylabel("bytes per token, held-out text")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")
