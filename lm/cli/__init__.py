"""The command `lm`. Each class in this folder is a subcommand: its fields are the flags, `run` does the work.

Heavy imports wait until a command runs, so that help and errors come at once.
"""

import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Annotated, Any

import tyro
from tyro import MISSING_NONPROP
from tyro.conf import OmitSubcommandPrefixes, subcommand

from lm.allocator import keep_freed_memory
from lm.cli.accounting import Accounting, accounting_defaults
from lm.cli.compare import Report, Runs, Track
from lm.cli.corpus import Data, Stories
from lm.cli.exchange import Export, Import
from lm.cli.experiment import Experiment, experiment_defaults
from lm.cli.generate import Generate
from lm.cli.pairs import Pairs
from lm.cli.prove import Demo, Parity
from lm.cli.score import Score
from lm.cli.tokenizer import TokenizerCommand
from lm.cli.train import Train, train_defaults
from lm.cli.trained import Eval
from tokenizer.errors import InputError


def parse(arguments: Sequence[str]) -> Any:
    """Turn the command line into one of the classes above.

    Raises:
        InputError: a flag is wrong; in one line, where tyro draws a box.
    """
    command = arguments[:1]
    train = train_defaults(arguments) if command == ["train"] else MISSING_NONPROP
    accounting = accounting_defaults(arguments) if command == ["accounting"] else MISSING_NONPROP
    experiment = experiment_defaults(arguments) if command == ["experiment"] else MISSING_NONPROP
    commands = (
        Annotated[Stories, subcommand("stories", prefix_name=False)]
        | Annotated[Pairs, subcommand("pairs", prefix_name=False)]
        | Annotated[TokenizerCommand, subcommand("tokenizer", prefix_name=False)]
        | Annotated[Train, subcommand("train", prefix_name=False, default=train)]
        | Annotated[Eval, subcommand("eval", prefix_name=False)]
        | Annotated[Generate, subcommand("generate", prefix_name=False)]
        | Annotated[Accounting, subcommand("accounting", prefix_name=False, default=accounting)]
        | Annotated[Experiment, subcommand("experiment", prefix_name=False, default=experiment)]
        | Annotated[Score, subcommand("score", prefix_name=False)]
        | Annotated[Export, subcommand("export", prefix_name=False)]
        | Annotated[Import, subcommand("import", prefix_name=False)]
        | Annotated[Runs, subcommand("runs", prefix_name=False)]
        | Annotated[Report, subcommand("report", prefix_name=False)]
        | Annotated[Track, subcommand("track", prefix_name=False)]
        | Annotated[Data, subcommand("data", prefix_name=False)]
        | Annotated[Parity, subcommand("parity", prefix_name=False)]
        | Annotated[Demo, subcommand("demo", prefix_name=False)]
    )
    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            return tyro.cli(
                commands,  # type: ignore[arg-type]
                prog="lm",
                description="One Transformer language model, written twice: in PyTorch and in JAX.",
                args=arguments,
                config=(OmitSubcommandPrefixes,),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            raise
        raise InputError(f"{_one_line(stderr.getvalue())}; see lm --help") from None


def _one_line(box: str) -> str:
    """What a box of tyro's says, without its frame, headline and quotations from the help."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:-1]]
    said = []
    for section in "\n".join(lines).split("─\n"):
        first, *others = section.strip("─\n").split("\n")
        if first.startswith("Missing from"):
            said.append(first + " " + ", ".join(line.split()[0] for line in others if line.startswith("--")))
        elif not first.startswith(("For full helptext", "Argument helptext")):
            said.append(" ".join([first, *others]))
    return re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", "; ".join(said))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for what the user got wrong, 130 for Ctrl-C."""
    if arguments is None:  # not where a program of its own calls us
        keep_freed_memory()
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()
    except InputError as error:
        message = str(error)
    except BrokenPipeError:
        # The reader of our output has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        message = f"{name}{error.strerror or error}"
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    print(f"lm: {' '.join(message.split())}", file=sys.stderr)
    return 2
