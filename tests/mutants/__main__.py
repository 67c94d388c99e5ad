"""`make mutants`: change one place of the code at a time, and see whether a test that should notice does."""

import argparse
import json
import random
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from itertools import accumulate, zip_longest
from pathlib import Path

from tests.faults.run import copied_tree, run_tests
from tests.mutants.mutant import Mutant, mutants
from tests.mutants.reach import JOBS, Reach, candidates
from tests.source import ROOT

FIRST = 15
"""Tests that are tried before the others, each from another file."""
FOLDER = ROOT / ".mutants"
SHARES = {"torch_impl": 25, "jax_impl": 25, "lm/budgets.py": 4, "lm": 26, "tokenizer": 20}
"""What each package gives to a sample of 100. The table of tolerances is a part of its own."""


def main(arguments: list[str]) -> int:
    """Try the mutants that have no result yet, two at a time, then print the scores."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "files", nargs="*", help="files or folders to change (default: a sample of all packages)"
    )
    parser.add_argument("--sample", type=int, default=200, help="number of mutants (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument("--all", action="store_true", help="try every mutant")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="processor time of the tests that may notice a mutant (default: 60)",
    )
    options = parser.parse_args(arguments)
    chosen = sample(options.files, None if options.all or options.files else options.sample, options.seed)
    FOLDER.mkdir(exist_ok=True)
    results, reach = FOLDER / "results.jsonl", Reach(FOLDER / "reach")
    known = _known(results, reach.state)
    with ThreadPoolExecutor(JOBS) as pool, results.open("a", encoding="utf-8") as file:
        tasks = {
            pool.submit(judge, mutant, reach, options.seconds): mutant
            for mutant in chosen
            if mutant.key not in known
        }
        for task in as_completed(tasks):
            mutant, result = tasks[task], task.result()
            record = {"key": mutant.key, "state": reach.state} | result
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(f"{result['outcome']:8}  {mutant.key}  {result['by']}", flush=True)
    _print_scores(chosen, _known(results, reach.state))
    return 0


def sample(words: list[str], size: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of files and folders, or `size` of all packages, shared out by SHARES.

    A larger sample contains the smaller ones.
    """
    if size is None:
        return [mutant for file in _files(words or list(SHARES)) for mutant in of_file(file)[0]]
    chosen = []
    for package, share in SHARES.items():
        files = [file for file in _files([package]) if file not in SHARES or file == package]
        found = [mutant for file in files for mutant in of_file(file)[0]]
        random.Random(f"{seed} {package}").shuffle(found)
        chosen += found[: round(size * share / sum(SHARES.values()))]
    random.Random(seed).shuffle(chosen)  # so that what is done when the run is stopped is spread, too
    return chosen


@cache
def of_file(file: str) -> tuple[list[Mutant], int]:
    """Return the mutants of a file of the project, and the number of places that would only change a message."""
    return mutants(file, (ROOT / file).read_bytes())


def _files(words: list[str]) -> list[str]:
    """Return the files, and those in the folders, that the words name."""
    paths = {path for word in words for path in [ROOT / word, *(ROOT / word).rglob("*.py")] if path.is_file()}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def judge(mutant: Mutant, reach: Reach, seconds: float) -> dict[str, str]:
    """Return whether the tests notice a mutant.

    First come a few tests that execute the mutant, each from another file. Then come more of these tests, and then
    the file that should notice the mutant, because not all processes are measured.

    Returns:
        outcome: "killed", "timeout" or "survived".
        by: The test that noticed, or how many did not.
    """
    likely = candidates(mutant.file, mutant.names)
    reaching = _in_turns(reach.tests(mutant), likely)
    rounds = [reaching[:FIRST], _within(reaching[FIRST:], seconds)]
    tried = {test for tests in rounds for test, _ in tests}
    rest = [item for item in reach.all_tests(likely[0]).items() if item[0] not in tried] if likely else []
    rounds.append(_within(sorted(rest, key=lambda item: item[1]), seconds / 2))
    for tests in filter(None, rounds):
        names, time = [test for test, _ in tests], sum(time for _, time in tests)
        try:
            if killer := _first_failing(mutant, names, 3 * time + seconds):
                return {"outcome": "killed", "by": killer}
        except TimeoutError:
            return {"outcome": "timeout", "by": names[0]}
    files = sorted({test.split("::")[0] for tests in rounds for test, _ in tests})
    return {"outcome": "survived", "by": f"{sum(map(len, rounds))} tests of {', '.join(files)}"}


def _in_turns(tests: dict[str, dict[str, float]], likely: list[str]) -> list[tuple[str, float]]:
    """Return the fastest test of each file, then the second of each, and so on; the likeliest files come first."""
    rank = {file: place for place, file in enumerate(likely)}
    files = sorted(tests, key=lambda file: (rank.get(file, len(rank)), min(tests[file].values())))
    turns = zip_longest(*(tests[file].items() for file in files))
    return [item for turn in turns for item in turn if item is not None]


def _within(tests: list[tuple[str, float]], seconds: float) -> list[tuple[str, float]]:
    """Return as many of the tests as the time allows, the first in any case."""
    totals = accumulate(time for _, time in tests)
    return [
        item
        for place, (item, total) in enumerate(zip(tests, totals, strict=True))
        if not place or total <= seconds
    ]


def _first_failing(mutant: Mutant, tests: list[str], seconds: float) -> str | None:
    """Return the first of the tests that fails with a mutant, or what ended pytest."""
    with copied_tree() as tree:
        path = tree / mutant.file
        path.write_bytes(mutant.source(path.read_bytes()))
        done = run_tests(tree, "-x", "--tb=no", *tests, seconds=seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    return failed[1] if failed else f"pytest ended with {done.returncode}" if done.returncode else None


def _known(results: Path, state: str) -> dict[str, dict[str, str]]:
    """Return the results that still hold.

    A key names the content of the mutant's file. A survivor's result holds until the code or the tests change.
    """
    if not results.exists():
        return {}
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {r["key"]: r for r in records if r["outcome"] == "killed" or r["state"] == state}


def _print_scores(chosen: list[Mutant], known: dict[str, dict[str, str]]) -> None:
    """Print a row for each package."""
    print("package     mutants  killed  timeout  survived  killed of all")
    for package in [*SHARES, ""]:
        counts = Counter(known[mutant.key]["outcome"] for mutant in chosen if mutant.file.startswith(package))
        numbers = [counts[outcome] for outcome in ("killed", "timeout", "survived")]
        if total := sum(numbers):
            print(
                f"{package or 'all':12}{total:7}{''.join(f'{n:9}' for n in numbers)}{numbers[0] / total:12.0%}"
            )
    messages = sum(of_file(file)[1] for file in _files(list(SHARES)))
    print(f"Not tried: {messages} places in messages.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
