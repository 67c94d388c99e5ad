"""Command-line options that several benchmarks share."""

import argparse
import os
from pathlib import Path

from lm.config import check_threads
from lm.files import refuse_existing
from tokenizer.errors import InputError
from tokenizer.machine import num_processors


def new_parser(name: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options --rounds and --threads.

    Args:
        name: The benchmark's name on the command line.
        description: The docstring of its module. Its first line is the help text.
        rounds: The default of --rounds.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}", description=description.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of measuring (default: {rounds})")
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=num_processors(),
        help="threads of each contender (default: one for each processor)",
    )
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    parser.add_argument(
        "--json", type=Path, help="write all samples, the hardware, versions and flags to this file"
    )


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments, and refuse output files that exist before anything is measured."""
    options = parser.parse_args(arguments)
    for name in ("json", "plot", "markdown"):
        if path := getattr(options, name, None):
            refuse_existing(path)
    return options


def set_threads(threads: int) -> None:
    """Tell torch and XLA of processes that start later how many threads they may use."""
    os.environ.update(OMP_NUM_THREADS=str(threads), NPROC=str(threads))


def thread_count(text: str) -> int:
    """Read a number of threads from a command line.

    Raises:
        argparse.ArgumentTypeError: It is not a number of threads.
    """
    try:
        return check_threads(int(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
