"""Time the tokenizer beside tiktoken and tokenizers: `python -m bench tokenizer`.

Every measurement runs in a process of its own, so that none finds the caches of another. The contenders take turns, so
that all of them suffer if the machine becomes slower. Rows use one thread, if their name does not say otherwise. The
first call (cold) and an equal second one (warm) are timed. A contender whose output differs from ours is marked.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.report import save
from lm.files import refuse_existing
from lm.tables import markdown_table
from tokenizer import END_OF_TEXT

# Each row of the table, and the functions of `bench.tokenizer_runs` that measure it: ours first, then the others.
ROWS = {
    "train": ("train_twinlm", "train_tokenizers", "train_gigatoken"),
    "train 130 kB, vocabulary 500": ("train_small_twinlm", "train_small_tokenizers", "train_small_gigatoken"),
    "encode 30 MB": (
        *("encode_twinlm", "encode_tiktoken_ordinary", "encode_tiktoken_numpy"),
        *("encode_fastokens", "encode_gigatoken"),
    ),
    "encode the file, two processes": ("encode_file_2", "encode_file_1"),
    "encode 10,000 texts": (
        *("batch_twinlm", "batch_tiktoken", "batch_tokenizers", "batch_fastokens", "batch_gigatoken"),
    ),
    "encode 10,000 texts, all threads": (
        *("batch_twinlm", "threads_tiktoken", "threads_tokenizers", "threads_fastokens", "threads_gigatoken"),
    ),
    "encode 100 characters": (
        *("prompt_twinlm", "prompt_tiktoken", "prompt_tokenizers", "prompt_fastokens", "prompt_gigatoken"),
    ),
    "decode a million ids": (
        *("decode_twinlm", "decode_tiktoken", "decode_tokenizers", "decode_fastokens", "decode_gigatoken"),
    ),
}
RIVALS = ("tiktoken", "tokenizers", "fastokens", "gigatoken")
LEFT_OUT = {
    "tokenizers, one text of 30 MB": "its time grows faster than the text",
    "quicktok": "version 0.2.0 merges across words, since it cuts no pre-tokens, and loads only what it has trained",
}
PACKAGES = ("numpy", "regex", *RIVALS)
HEAD = ("", "", "cold", "ours is", "warm", "ours is", "memory", "")
BUILT_IN = {"story": (200, 10_000), "web": (90, 32_000)}  # megabytes, vocabulary size


def main(arguments: list[str]) -> None:
    """Measure and print a table. With --json, write the samples."""
    parser = argparse.ArgumentParser(prog="python -m bench tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--corpus", default="story", help="a text file, or a built-in corpus: story (default), web"
    )
    parser.add_argument(
        "--megabytes", type=int, help="size of a built-in corpus (default: 200 for story, 90 for web)"
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        help="number of tokens (default: 10,000 for story, 32,000 for other corpora)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", help="measure only rows that contain this text")
    parser.add_argument("--json", type=Path, help="write every sample, the hardware and the versions here")
    options = parser.parse_args(arguments)
    if options.json:
        refuse_existing(options.json)
    megabytes, vocab_size = BUILT_IN.get(options.corpus, (0, 32_000))
    vocab_size = options.vocab_size or vocab_size

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = Path(options.corpus)
        if options.corpus in BUILT_IN:
            corpus = folder / "corpus.txt"
            _write_built_in(options.corpus, corpus, 1_000_000 * (options.megabytes or megabytes))
        corpus = corpus.resolve()
        job = _prepare(corpus, vocab_size, folder)
        rows = {name: runs for name, runs in ROWS.items() if not options.rows or options.rows in name}
        missing = [name for name in RIVALS if find_spec(name) is None]
        samples = {
            name: _measure(
                name, tuple(run for run in runs if not run.endswith(tuple(missing))), job, options.rounds
            )
            for name, runs in rows.items()
        }
        size = corpus.stat().st_size

    print(f"{options.corpus}: {size / 1e6:.0f} MB, vocabulary {vocab_size}, medians of {options.rounds}\n")
    print(markdown_table(HEAD, [line for row, by_run in samples.items() for line in _lines(row, by_run)]))
    for name, reason in LEFT_OUT.items() | {name: f"pip install {name}" for name in missing}.items():
        print(f"\nNot measured: {name}: {reason}")
    if options.json:
        about = {
            "corpus": options.corpus,
            "bytes": size,
            "vocab_size": vocab_size,
            "machine": describe(PACKAGES),
        }
        save(about | {"samples": samples}, options.json)


def _lines(row: str, by_run: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return the lines of a row of the table: a line for each contender, ours first."""
    ours = next(iter(by_run.values()))
    lines = []
    for run, results in by_run.items():
        cells = []
        for key in ("seconds", "warm_seconds"):
            if results[0][key] is None:
                cells += ["-", "-"]
                continue
            pairs = zip(results, ours, strict=True)
            ratio = statistics.median(theirs[key] / mine[key] for theirs, mine in pairs)
            seconds = statistics.median(result[key] for result in results)
            cells += [_time(seconds), "" if results is ours else f"{ratio:.2f}x"]
        memory = max(result["peak_memory_mb"] for result in results)
        same = results[0]["output"] == ours[0]["output"]
        lines.append(
            [row if results is ours else "", run, *cells, f"{memory} MB", "" if same else "other output"]
        )
    return lines


def _write_built_in(name: str, path: Path, num_bytes: int) -> None:
    if name == "story":
        from lm.corpora.stories import write_stories

        write_stories(path, num_bytes, seed=0)
    else:
        from bench.web import write_web

        write_web(path, num_bytes)


def _prepare(corpus: Path, vocab_size: int, folder: Path) -> dict[str, Any]:
    """Write parts of the corpus, and a tokenizer trained on it. Return their paths."""
    from tokenizer import Tokenizer, train_bpe

    with open(corpus, "rb") as file:
        text = file.read(30_000_000).decode(errors="ignore")  # a character may be cut at the end
    job: dict[str, Any] = {"corpus": str(corpus), "vocab_size": vocab_size, "tokenizer": str(folder)}
    for name, part in (("part", text), ("small", text[:130_000])):
        job[name] = str(folder / f"{name}.txt")
        Path(job[name]).write_bytes(part.encode())
    tokenizer = Tokenizer(*train_bpe(corpus, vocab_size, [END_OF_TEXT]), [END_OF_TEXT])
    tokenizer.save(folder)
    tokenizer.save_tokenizers_json(folder / "tokenizer.json")
    return job


def _measure(
    row: str, runs: tuple[str, ...], job: dict[str, Any], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {run: [] for run in runs}
    # Installed packages have their bytecode, so our processes may keep theirs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    if "all threads" not in row:
        environment["RAYON_NUM_THREADS"] = "1"
    for number in range(rounds):
        for run, results in samples.items():
            print(f"\r{row}: round {number + 1} of {rounds}, {run:30}", end="", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "bench.tokenizer_runs", run, json.dumps(job)]
            root = Path(__file__).parents[1]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=root, env=environment)
            results.append(json.loads(done.stdout.splitlines()[-1]))  # gigatoken prints, too
    print("\r" + " " * 100 + "\r", end="", file=sys.stderr)
    return samples


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"
