"""Check and measure everything on a GPU within a few minutes: `python -m bench gpu --minutes 8 --out FOLDER`.

The program has parts, the most important first. Each is a process of its own with a time limit, so a part that crashes
or hangs is recorded, and the next one starts. FOLDER/results.json is written after every part, and FOLDER/report.md is
made from it. A second run with the same folder takes the parts that are missing, then those that crashed or took too
long. docs/gpu.md says what each part answers.
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from tokenizer.errors import InputError

NEEDED = ("numpy", "torch", "jax", "jaxlib", "jaxtyping", "regex", "filelock", "safetensors", "tqdm")
"""Packages without which the program cannot run."""


def main(arguments: list[str]) -> None:
    """Run the parts, or with --part one of them. Exit with 1 if a part failed, crashed or took too long."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(
            f"not installed: {', '.join(missing)}; nothing was measured: pip install {' '.join(missing)}"
        )
    from bench import options
    from bench.gpu import parts, report, runner

    parser = options.new_parser("gpu", str(__doc__), rounds=3)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts together (default: 8)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the results; one with results is continued"
    )
    parser.add_argument(
        "--device", default="cuda", help="cuda, or cpu to try the program itself (default: cuda)"
    )
    parser.add_argument("--tiny", action="store_true", help="take tiny models, to try the program itself")
    parser.add_argument("--list", action="store_true", help="list the parts, and run none")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = options.parse(parser, arguments)
    settings = parts.Settings(given.device, given.tiny, given.threads, given.rounds, given.seconds)
    found = {part.name: part for part in parts.make_parts(settings)}
    if given.list:
        print("\n".join(f"{part.seconds:4} s  {name}" for name, part in found.items()))
        return
    options.set_threads(given.threads)
    if given.part:
        answer = parts.run(found[given.part])
        given.answer.write_text(json.dumps(answer), encoding="utf-8", newline="")
        return
    results = runner.run(found, settings, 60 * given.minutes, given.out)
    text = report.text(results)
    print(text)
    (given.out / "report.md").write_text(text + "\n", encoding="utf-8", newline="")
    if any(result["status"] in runner.BAD for result in results["parts"].values()):
        sys.exit(1)
