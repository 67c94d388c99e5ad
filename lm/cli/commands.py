"""The commands of `lm`, and the reading of a command line into the class of a command, whose fields are its flags."""

import dataclasses
import inspect
import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro import MISSING_NONPROP
from tyro.conf import OmitSubcommandPrefixes, subcommand

from lm.cli.accounting import Accounting, accounting_defaults
from lm.cli.check import Check
from lm.cli.compare import Report, Runs, Track
from lm.cli.corpus import Data, Stories
from lm.cli.exchange import Export, Import
from lm.cli.experiment import Experiment, experiment_defaults
from lm.cli.flags import gather_lists, list_flags, remove_marks
from lm.cli.generate import Generate
from lm.cli.pairs import Pairs
from lm.cli.prove import Demo, Parity
from lm.cli.score import Score
from lm.cli.tokenizer import TokenizerCommand
from lm.cli.train import Train, train_defaults
from lm.cli.trained import Eval
from tokenizer.errors import InputError

GROUPS: dict[str, dict[str, type]] = {
    "Start": {"demo": Demo, "train": Train, "generate": Generate},
    "Data": {"stories": Stories, "pairs": Pairs, "data": Data, "tokenizer": TokenizerCommand},
    "Look and compare": {"eval": Eval, "score": Score, "runs": Runs, "report": Report, "track": Track},
    "Course": {"experiment": Experiment, "accounting": Accounting},
    "Exchange": {"export": Export, "import": Import},
    "Proof": {"parity": Parity, "check": Check},
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
# Commands whose defaults come from a file that the command line names.
_DEFAULTS: dict[str, Callable[[Sequence[str]], Any]] = {
    "train": train_defaults,
    "accounting": accounting_defaults,
    "experiment": experiment_defaults,
}


def overview() -> str:
    """Return what `lm --help` prints: the commands by group, each with the first line of its docstring."""
    lines = [
        "usage: lm COMMAND [FLAGS]",
        "",
        "One Transformer language model, written twice: in PyTorch and in JAX.",
        "lm COMMAND --help lists the flags of a command, lm --version tells the version.",
    ]
    for group, commands in GROUPS.items():
        lines += ["", group]
        for name, command in commands.items():
            about, *_ = (inspect.getdoc(command) or "").split("\n")
            lines.append(f"  {name:10}  {about}")
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> Any:
    """Turn the command line into an instance of one of the classes above.

    Raises:
        InputError: a flag is wrong. The message is one line; tyro would draw a box.
    """
    defaults = {name: _DEFAULTS[name](arguments) for name in arguments[:1] if name in _DEFAULTS}
    options = [
        Annotated[command, subcommand(name, prefix_name=False, default=defaults.get(name, MISSING_NONPROP))]
        for name, command in COMMANDS.items()
    ]
    commands: Any = Union[tuple(options)]  # noqa: UP007
    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            command = tyro.cli(
                commands,
                prog="lm",
                args=gather_lists(arguments, set(list_flags(commands, arguments))),
                config=(OmitSubcommandPrefixes,),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            raise
        raise InputError(f"{_one_line(stderr.getvalue())}; see lm --help") from None
    command = remove_marks(command)
    _refuse_zero_bytes(command)
    return command


def _refuse_zero_bytes(command: Any) -> None:
    """Refuse paths with a zero byte. A program that calls `main` can pass one, but no system accepts it."""
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            _refuse_zero_bytes(value)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and "\0" in str(path):
                raise InputError(f"{field.name} is {str(path)!r}: a path cannot have a zero byte; remove it")


def _one_line(box: str) -> str:
    """Return the text of an error box of tyro, without its frame, its headline and its quotations of the help."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:-1]]
    said = []
    for section in "\n".join(lines).split("─\n"):
        first, *others = section.strip("─\n").split("\n")
        if first.startswith("Missing from"):
            said.append(first + " " + ", ".join(line.split()[0] for line in others if line.startswith("--")))
        elif not first.startswith(("For full helptext", "Argument helptext")):
            said.append(" ".join([first, *others]))
    line = re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", "; ".join(said))
    line = re.sub(r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is not a whole number", line)
    return re.sub(r"could not convert string to float: ('.*?')", r"\1 is not a number", line)
