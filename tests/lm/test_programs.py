"""Compiled programs on disk: they are kept by default, give equal bits, and never end a command."""

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from jax_impl.fast import programs as kept_programs
from lm import machine, programs
from tests.source import ROOT


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return a cache directory for this test. Restore JAX's settings afterwards."""
    settings = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", *kept_programs.PROGRAMS_KEPT)
    before = {name: getattr(jax.config, name) for name in settings}
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def kept() -> Path | None:
    """Keep programs, and return their folder."""
    kept_programs.keep_programs()
    folder = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    return None if folder is None else Path(folder)


def test_a_folder_for_each_processor_and_number_of_threads(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPROC", "3")
    folder = kept()
    assert folder is not None
    assert folder.parent == fresh
    assert folder.name.endswith("-3")
    assert folder.stat().st_mode & 0o077 == 0 or os.name == "nt"
    assert kept() == folder
    monkeypatch.setattr("lm.machine.platform.machine", lambda: "another")
    assert not folder.name.startswith(machine.processor_id())


def test_by_default_in_the_users_cache_directory(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: fresh / name)
    programs.program_folder.cache_clear()
    for name in kept_programs.PROGRAMS_KEPT:
        monkeypatch.delenv(name.upper(), raising=False)
    folder = kept()
    programs.program_folder.cache_clear()
    assert folder is not None
    assert folder.parent == fresh / "twinlm" / "jax"
    for name, value in kept_programs.PROGRAMS_KEPT.items():
        assert getattr(jax.config, name) == value


@pytest.mark.parametrize("fault", ["a file", "not writable"])
def test_a_folder_that_cannot_be_used_is_told_and_left(
    fresh: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if fault == "a file":
        fresh.write_text("")
    else:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(programs, "FileLock", refuse)
    assert kept() is None
    assert kept() is None
    told = capsys.readouterr().err
    assert told.startswith(f"lm: warning: {fresh}")
    assert "give --no-compile-cache" in told
    assert len(told.splitlines()) == 1  # for both
    assert float(jax.jit(lambda x: x * 3)(2.0)) == 6.0


def test_half_a_program_is_removed(tmp_path: Path) -> None:
    whole, damaged = zlib.compress(b"program"), zlib.compress(b"another")[:-2]
    for name, program, used in (("a", whole, True), ("b", damaged, True), ("c", whole, False)):
        (tmp_path / f"{name}-cache").write_bytes(program)
        if used:
            (tmp_path / f"{name}-atime").write_bytes(bytes(8))
    programs.tidy(tmp_path)
    assert {path.name for path in tmp_path.glob("*-*")} == {"a-cache", "a-atime"}


def generate(made_pipeline: Path, cache: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process with this user's cache directory."""
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    places = dict.fromkeys(("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"), str(cache))
    command = [sys.executable, "-m", "lm", "generate", "--checkpoint", str(made_pipeline / "jax")]
    return subprocess.run(
        [*command, "--max-new-tokens", "5", "--prompt", "Once", "--json", *flags],
        env=environment | places | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_kept_program_gives_the_same_bits(made_pipeline: Path, tmp_path: Path) -> None:
    """Equal bits show in the printed log-probabilities, which have all digits."""
    without = generate(made_pipeline, tmp_path / "none", "--no-compile-cache")
    assert not list((tmp_path / "none").rglob("*-cache"))
    first = generate(made_pipeline, tmp_path)
    programs_of = {path: path.read_bytes() for path in tmp_path.rglob("*-cache")}
    assert len(programs_of) > 2
    large = max(programs_of, key=lambda path: len(programs_of[path]))
    large.write_bytes(programs_of[large][:-100])
    second = generate(made_pipeline, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*-cache")}.keys() == programs_of.keys()
    assert programs._is_whole(large.read_bytes())  # made again
    assert without.stdout == first.stdout == second.stdout
    assert without.stderr == first.stderr == second.stderr == ""


def test_what_is_measured_is_kept_for_the_next_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Forms of products round differently, so the next command repeats the choice. A broken file changes nothing."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    at_exit: list[tuple[Any, ...]] = []
    monkeypatch.setattr("lm.programs.atexit.register", lambda *call: at_exit.append(call))
    told: dict[str, str] = {}
    measured = {"many rows": "by_convolution"}
    backend = SimpleNamespace(
        versions=lambda: {"torch": "2"}, repeat=told.update, choices=lambda only_measured: measured
    )

    def process() -> None:
        told.clear()
        programs.keep_choices.__wrapped__(backend)
        function, *arguments = at_exit.pop()
        function(*arguments)

    process()
    assert told == {}
    measured = {
        "many rows": "rows_first",
        "few rows": "in_blocks",
    }  # by a process that began at the same time
    process()
    assert told == {"many rows": "by_convolution"}
    process()
    assert told == {"many rows": "by_convolution", "few rows": "in_blocks"}
    (file,) = (tmp_path / "twinlm" / "choices").iterdir()
    for broken in ("", "[]", '{"many rows": [1]}', "\0"):
        file.write_text(broken, newline="")
        told.clear()
        programs.keep_choices.__wrapped__(backend)
        assert told == {}
    file.unlink()
    file.mkdir()  # nothing can be written in its place
    process()
    assert told == {}
