"""Run the project in a Python without the modules and functions that only Unix has: `python -m tests.elsewhere FOLDER`.

It imports every module and runs the commands, all in one process, whose Python has lost them.
"""

import asyncio  # noqa: F401 - while the functions are there: it has another form for Windows
import os
import pkgutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    "fork",
    "forkpty",
    "getuid",
    "mkfifo",
    "posix_fadvise",
    "pread",
    "sched_getaffinity",
    "sysconf",
    "wait4",
)
SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1")
PACKAGES = ("tokenizer", "lm", "torch_impl", "jax_impl", "parity", "bench", "tests.adapters")
CONFIG = """
steps = 2
batch_size = 8
eval_interval = 2
save_interval = 2
[model]
vocab_size = 300
context_length = 8
d_model = 8
num_layers = 1
num_heads = 2
"""


def lose_unix() -> None:
    """Take away what Windows does not have, as far as the standard library itself works without."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in FUNCTIONS:
        delattr(os, name)
    os.environ.setdefault("USERNAME", "somebody")  # Windows sets it; torch asks for the user's name
    kill = signal.SIGKILL
    for name in SIGNALS:
        delattr(signal, name)
    subprocess.Popen.kill = lambda self: self.send_signal(kill)  # type: ignore[method-assign]


def import_all() -> None:
    """Import every module of the packages."""
    for package in PACKAGES:
        module = import_module(package)
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{package}."):
            if not found.name.endswith("__main__"):
                import_module(found.name)


def run_commands(folder: Path) -> None:
    """Each command once, on the smallest of everything."""
    from lm.cli import main

    def lm(line: str) -> None:
        assert main(line.split()) == 0, line

    os.chdir(folder)
    Path("tiny.toml").write_bytes(CONFIG.encode())
    lm("stories --out text.txt --bytes 500")
    lm("tokenizer train --input text.txt --vocab-size 300 --out words")
    lm("tokenizer encode --tokenizer words --input text.txt --out ids.npy")
    for backend in "torch", "jax":
        train = f"train --backend {backend} --config tiny.toml --train ids.npy --val ids.npy --out {backend}"
        lm(train)
        lm(f"{train} --steps 3 --resume")
        lm(f"generate --checkpoint {backend} --prompt Once --max-new-tokens 3")
    lm("eval --checkpoint torch --tokens ids.npy")
    lm("score --checkpoint torch Once")
    lm("runs .")
    lm("report torch jax")
    lm("export torch llama --format hf")

    from parity.run import run_parity

    assert all(error.passed for error in run_parity("float32", 1, layers=["rmsnorm"]))


if __name__ == "__main__":
    lose_unix()
    import_all()
    run_commands(Path(sys.argv[1]))
