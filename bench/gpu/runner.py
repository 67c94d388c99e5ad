"""Running the parts, each in a process of its own with a time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.gpu.parts import Part, Settings
from bench.machine import describe, flags
from lm.files import read_object, write_json
from tokenizer.errors import InputError

UNFINISHED = ("crashed", "out of time")
BAD = ("failed", *UNFINISHED)
PACKAGES = ("numpy", "torch", "triton", "jax", "jaxlib", "jax-cuda13-plugin")

Results = dict[str, Any]
Command = Callable[[Part, Path, float], list[str]]


def run(
    parts: Mapping[str, Part], settings: Settings, seconds: float, out: Path, command: Command | None = None
) -> Results:
    """Run the parts that `out` has no results of, within this time, and return all results.

    Args:
        command: The process of a part, which gets a file for its answer and its time limit. By default this program.

    Raises:
        InputError: `out` has results of another device, size or version.
    """
    end = time.monotonic() + seconds
    file = out / "results.json"
    results = open_results(file, settings)
    done: dict[str, Any] = results["parts"]
    waiting = [name for name in parts if name not in done]
    waiting += [name for name in parts if done.get(name, {}).get("status") in UNFINISHED]
    for name in waiting:
        limit = min(parts[name].seconds, end - time.monotonic())
        if limit <= 0:
            break
        print(f"{name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
        done[name] = run_part(parts[name], limit, command or command_of_parts(settings))
        print(
            f"{name}: {done[name]['status']} after {done[name]['seconds']:.1f} s", file=sys.stderr, flush=True
        )
        write_json(file, results)
    results["left_out"] = [name for name in parts if name not in done]
    write_json(file, results)
    return results


def open_results(file: Path, settings: Settings) -> Results:
    """Return the results in a file, or new ones.

    Raises:
        InputError: They were measured on another device, with another size or with other versions.
    """
    about = {"device": settings.device, "tiny": settings.tiny, "threads": settings.threads}
    about |= {"machine": describe(PACKAGES), "flags": flags()}
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        return {**about, "time": time.strftime("%Y-%m-%d %H:%M"), "parts": {}}
    results = read_object(file, "give another --out")
    for name in ("device", "tiny", "threads", "machine"):
        if results[name] != about[name]:
            raise InputError(
                f"{file}: was measured with another {name} ({results[name]}), not {about[name]}: give another --out"
            )
    return results


def command_of_parts(settings: Settings) -> Command:
    """Return the function that makes the command of a part."""

    def command(part: Part, answer: Path, limit: float) -> list[str]:
        words = ["--part", part.name, "--answer", str(answer), "--seconds", str(limit)]
        words += ["--out", str(answer.parent), "--device", settings.device]
        words += ["--threads", str(settings.threads), "--rounds", str(settings.rounds)]
        return [sys.executable, "-m", "bench", "gpu", *words, *(["--tiny"] if settings.tiny else [])]

    return command


def run_part(part: Part, limit: float, command: Command) -> dict[str, Any]:
    """Run a part in a process group, and kill the group at the limit. Return its answer, or how it failed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(part, answer, limit), stdout=output, stderr=output, start_new_session=True
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_group(process)
        seconds = round(time.monotonic() - start, 2)
        if code == 0 and answer.exists():
            return {**read_object(answer, "run the part again"), "seconds": seconds}
        said = log.read_bytes().decode(errors="replace").strip().splitlines()[-12:]
        status = "out of time" if code is None else "crashed"
        return {"status": status, "seconds": seconds, "exit_code": code, "said": said}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
