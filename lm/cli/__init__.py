"""The command `lm`. Each class in this folder is a subcommand: its fields are the flags, `run` does the work.

This file imports almost nothing, so that `main` handles Ctrl-C from the first moment. A command imports what it needs
when it runs, so that help and errors appear at once.
"""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for a mistake of the user, 130 for Ctrl-C.

    Args:
        arguments: The words of the command line. Default: those of this process, which then belongs to the command.
    """
    try:
        from lm.terminal import open_standard_files, run_program

        if arguments is None:
            open_standard_files()
        return run_program("lm", lambda: _run(arguments))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        from lm import __version__

        print(f"twinlm {__version__}")
        return
    if words[:1] in (["--help"], ["-h"]):
        from lm.cli.commands import overview

        print(overview())
        return
    if arguments is None:
        from lm.machine import keep_freed_memory

        keep_freed_memory()
    from lm.cli.commands import parse

    command = parse(words)
    if not getattr(command, "compile_cache", True):
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # also for the commands that this one starts
    from lm.accounting.limits import explained

    with explained():
        command.run()
