"""A full disk: every command that writes reports it in one line and leaves nothing that looks complete."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lm.conftest import lm, refused, snapshot
from tests.lm.data.test_pairs import PAIRS, write

if sys.platform != "win32":
    import resource

    @contextlib.contextmanager
    def no_file_longer_than(size: int) -> Iterator[None]:
        """Make the system refuse writes beyond a size, like a full disk."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    Capture = pytest.CaptureFixture[str]
    NAMED = ("--tokenizer", "tokenizer")
    WRITERS: dict[str, list[object]] = {
        "stories": ["stories", "--out", "new", "--bytes", 3000],
        "pairs": ["pairs", "reverse", "--out", "new", "--count", 1000],
        "tokenizer train": ["tokenizer", "train", "--input", "val.txt", "--out", "new", "--vocab-size", 290],
        "encode": ["tokenizer", "encode", *NAMED, "--input", "val.txt", "--out", "new"],
        "encode pairs": ["tokenizer", "encode", *NAMED, "--input", "pairs.jsonl", "--out", "new"],
        "encode a word": ["tokenizer", "encode", *NAMED, "--input", "word.txt", "--out", "new"],
        "tokenizer export": ["tokenizer", "export", *NAMED, "--out", "new"],
        "tokenizer import": ["tokenizer", "import", "--input", "tokenizer", "--out", "new"],
        "export": ["export", "--format", "hf", "torch", "new"],
        "import": ["import", "--format", "hf", "hf", "new"],
        "report": ["report", "torch", "jax", "--out", "new"],
    }

    @pytest.fixture(scope="module")
    def disk(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a copy of the pipeline's folder, with a model in another program's format, pairs and a short text."""
        folder = shutil.copytree(made_pipeline, tmp_path_factory.mktemp("disk") / "disk")
        write(folder / "pairs.jsonl", PAIRS * 40)
        (folder / "word.txt").write_text("word")
        assert lm("export", "--format", "hf", folder / "torch", folder / "hf") == 0
        return folder

    @pytest.mark.parametrize("command", WRITERS)
    def test_a_full_disk_is_one_line_and_leaves_nothing(
        disk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.chdir(disk)
        before = snapshot(disk), {*disk.rglob("*")}
        for size in (0, 160 if command == "encode a word" else 1000):
            with no_file_longer_than(size):
                line = refused(capsys, *WRITERS[command])
            assert "File too large" in line
            assert "new" in line
            assert (snapshot(disk), {*disk.rglob("*")}) == before
        assert lm(*WRITERS[command]) == 0
        for path in {*disk.rglob("*")} - before[1]:
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def test_a_sidecar_that_does_not_fit_takes_its_file_with_it(
        disk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(disk)
        assert lm(*WRITERS["encode a word"]) == 0
        sizes = {name: Path(name).stat().st_size for name in ("new", "new.json")}
        assert sizes["new"] < sizes["new.json"]
        assert json.loads(Path("new.json").read_text())["tokens"] > 0
        for name in sizes:
            Path(name).unlink()
        with no_file_longer_than(sizes["new.json"] - 1):
            refused(capsys, *WRITERS["encode a word"])
        assert not any(Path(name).exists() for name in sizes)
