"""`make mutants`: change one place of the code at a time, and see whether a test that should notice does."""

import argparse
import json
import random
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path

from tests.faults.run import copied_tree, run_tests
from tests.mutants.mutant import Mutant, mutants
from tests.mutants.reach import Reach, candidates
from tests.source import ROOT

JOBS = 2
MOST_FILES = 4
"""Test files that may notice a mutant."""
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


def of_file(file: str) -> tuple[list[Mutant], int]:
    """Return the mutants of a file of the project, and the number of places that would only change a message."""
    return mutants(file, (ROOT / file).read_bytes())


def _files(words: list[str]) -> list[str]:
    """Return the files, and those in the folders, that the words name."""
    paths = {path for word in words for path in [ROOT / word, *(ROOT / word).rglob("*.py")] if path.is_file()}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def judge(mutant: Mutant, reach: Reach, seconds: float) -> dict[str, str]:
    """Return whether the tests notice a mutant.

    First come all tests of the likeliest file, until one fails. If none does, the tests of the likely files that
    execute the mutant come, the fastest first.

    Returns:
        outcome: "killed", "timeout" or "survived".
        by: The test that noticed, or how many did not.
    """
    files = candidates(mutant.file, mutant.names)[:MOST_FILES]
    try:
        if killer := _first_failing(mutant, files[:1], seconds):
            return {"outcome": "killed", "by": killer}
    except TimeoutError:  # the file may only be long
        pass
    chosen = _fastest(mutant, files, reach, seconds)
    try:
        killer = _first_failing(mutant, chosen, 3 * seconds) if chosen else None
    except TimeoutError:
        return {"outcome": "timeout", "by": chosen[0]}
    return {
        "outcome": "killed" if killer else "survived",
        "by": killer or f"{len(chosen)} tests of {', '.join(files)}",
    }


def _first_failing(mutant: Mutant, tests: list[str], seconds: float) -> str | None:
    """Return the first of the tests that fails with a mutant and passes without it, or what ended pytest."""
    with copied_tree() as tree:
        path = tree / mutant.file
        path.write_bytes(mutant.source(path.read_bytes()))
        done = run_tests(tree, "-x", "--tb=no", *tests, seconds=seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    if failed:
        return failed[1] if _passes(failed[1]) else None
    return f"pytest ended with {done.returncode}" if done.returncode and _passes(tests[0]) else None


@cache
def _passes(test: str) -> bool:
    """Return whether a test, or a whole file, passes without a mutant."""
    with copied_tree() as tree:
        return run_tests(tree, "--tb=no", test).returncode == 0


def _fastest(mutant: Mutant, files: list[str], reach: Reach, seconds: float) -> list[str]:
    """Return the fastest tests of files that execute a mutant, as many as the time allows.

    Other processes are not measured. If no test executes the mutant in its own process, return the fastest of all.
    """
    reaching = {test: time for file in files for test, time in reach.tests(file, mutant).items()}
    found = reaching or {test: time for file in files for test, time in reach.all_tests(file).items()}
    tests: list[str] = []
    total = 0.0
    for test, time in sorted(found.items(), key=lambda item: item[1]):
        total += time
        if tests and total > seconds:
            break
        tests.append(test)
    return tests


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
