"""The facts beside a token file: found through links, used only for that file, and never mixed up with other JSON."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import load_config
from lm.data.pairs import open_pairs
from lm.data.sidecar import token_facts
from lm.data.sources import open_evaluation, text_facts
from lm.run.facts import read_facts
from lm.run.inputs import file_tokenizer, refuse_other_tokenizer
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.data.test_pairs import END, MODEL, PAIRS, TOKENIZER, write
from tokenizer import InputError, Tokenizer
from tokenizer.encode_pairs import encode_pairs

Capture = pytest.CaptureFixture[str]
OTHERS: list[Any] = [
    {},
    [],
    [1],
    None,
    "text",
    3,
    {"tokens": 5},
    {"bytes": 10, "tokens": "many"},
    {"nats": 1.0},
    {"tokenizer": "gpt2", "vocab_size": 50_257},
    {"tokenizer": {"name": "gpt2"}, "nats": None, "bytes": -1},
]


@pytest.mark.parametrize("content", OTHERS, ids=json.dumps)
def test_a_json_file_of_another_program_is_ignored(made_pipeline: Path, tmp_path: Path, content: Any) -> None:
    path = Path(shutil.copy(made_pipeline / "val.npy", tmp_path))
    (tmp_path / "val.npy.json").write_text(json.dumps(content))
    assert token_facts(path) is None
    assert file_tokenizer(path) is None
    refuse_other_tokenizer(path, "0" * 64, "other")
    config = load_config(made_pipeline / "tiny.toml")
    tokenizer = Tokenizer.load(made_pipeline / "tokenizer")
    assert text_facts(path, open_evaluation(config, path), config, tokenizer) == {}


def test_a_json_file_of_another_program_is_never_overwritten(pipeline: Path, capsys: Capture) -> None:
    for name in ("train", "val"):
        (pipeline / f"{name}.npy.json").write_text('{"tokens": "many", "bytes": []}')
    assert lm(*train_command(pipeline, "torch", pipeline / "new", "--steps", 3)) == 0
    assert not any("bits_per_byte" in m for m in read_metrics(pipeline / "new"))
    # lm tokenizer encode does not overwrite such a file.
    (pipeline / "new.npy.json").write_text('{"tokens": 5}')
    command = ("tokenizer", "encode", "--tokenizer", pipeline / "tokenizer", "--input", pipeline / "val.txt")
    assert "new.npy.json exists" in refused(capsys, *command, "--out", pipeline / "new.npy")
    assert not (pipeline / "new.npy").exists()


STRANGE: tuple[Any, ...] = ("5", [5], {}, -1, True, 10**19, "\0")
DAMAGED: list[dict[str, Any]] = [
    *(
        {name: value}
        for name in ("tokens", "bytes", "nats")
        for value in STRANGE
        if (name, value) != ("nats", 10**19)
    ),
    {"tokens": 0},
    {"bytes": 0},
    {"tokens": 1.5},
    *({name: value} for name in ("tokenizer", "tokenizer_sha256") for value in (None, 5, "", "a\0b", ["a"])),
    {"sha256": 5},
]


@pytest.mark.parametrize("change", DAMAGED, ids=json.dumps)
def test_facts_of_a_wrong_type_are_refused(made_pipeline: Path, tmp_path: Path, change: Any) -> None:
    facts = json.loads((made_pipeline / "val.npy.json").read_text())
    (tmp_path / "val.npy.json").write_text(json.dumps(facts | change))
    with pytest.raises(InputError, match=r"val\.npy\.json: .*make val.npy again, or delete the file$"):
        token_facts(tmp_path / "val.npy")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 6000, b'{"a": NaN}', b'{"a": "\\ud800"}']
)
def test_facts_that_are_not_json_are_refused_before_training(
    pipeline: Path, capsys: Capture, content: bytes
) -> None:
    (pipeline / "val.npy.json").write_bytes(content)
    before = snapshot(pipeline)
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    assert "val.npy.json: not a JSON object" in line
    assert snapshot(pipeline) == before


def test_a_folder_or_a_pipe_is_not_a_sidecar(made_pipeline: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made_pipeline / "val.npy", tmp_path))
    (tmp_path / "val.npy.json").mkdir()
    assert token_facts(path) is None
    (tmp_path / "val.npy.json").rmdir()
    os.mkfifo(tmp_path / "val.npy.json")
    assert token_facts(path) is None


class TestLinks:
    """A project that links to its data in another folder. Both lie below one root, which may move."""

    @pytest.fixture
    def root(self, made_pipeline: Path, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "disk" / "big" / "data").mkdir(parents=True)
        (root / "project").mkdir()
        shutil.copytree(made_pipeline / "tokenizer", root / "project" / "tokenizer")
        (root / "project" / "data").symlink_to(Path("..", "disk", "big", "data"))
        (root / "project" / "linked-tokenizer").symlink_to("tokenizer")
        for name in ("val.txt", "val.txt.json"):
            shutil.copy(made_pipeline / name, root / "project" / "data")
        return root

    @pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
    @pytest.mark.parametrize("named", ["tokenizer", "linked-tokenizer", "data/../../../project/tokenizer"])
    def test_a_token_file_finds_its_tokenizer_by_every_path(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, named: str, absolute: bool
    ) -> None:
        monkeypatch.chdir(root / "project")
        start = root / "project" if absolute else Path()
        flags = ("--input", start / "data" / "val.txt", "--out", start / "data" / "val.npy")
        assert lm("tokenizer", "encode", "--tokenizer", f"{start / 'x'}"[:-1] + named, *flags) == 0
        links = root / "project" / "links"
        links.mkdir()
        (links / "short.npy").symlink_to(Path("..", "data", "val.npy"))
        (links / "twice.npy").symlink_to("short.npy")
        (links / "folder").symlink_to(Path("..", "data"))
        expected = Tokenizer.load(root / "project" / "tokenizer").sha256
        moved = root.with_name("moved") / "deeper"
        for home in (root, moved):
            if home == moved:
                moved.parent.mkdir()
                monkeypatch.chdir("/")
                root.rename(moved)
            for name in (
                "disk/big/data/val.npy",
                "project/data/val.npy",
                "project/links/short.npy",
                "project/links/twice.npy",
                "project/links/folder/val.npy",
            ):
                for path in (home / name, Path(os.path.relpath(home / name))):
                    found = file_tokenizer(path)
                    assert found is not None, path
                    assert found.sha256 == expected
                    facts = token_facts(path)
                    assert facts is not None
                    assert facts.nats is not None

    def test_a_link_to_pairs_finds_their_bounds(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        encode_pairs(write(tmp_path / "pairs.jsonl", PAIRS), TOKENIZER, tmp_path / "data" / "pairs.npy", END)
        (tmp_path / "link.npy").symlink_to(Path("data", "pairs.npy"))
        assert len(open_pairs(tmp_path / "link.npy", MODEL)) == len(PAIRS)

    def test_a_sidecar_beside_the_link_goes_first(self, made_pipeline: Path, tmp_path: Path) -> None:
        (tmp_path / "link.npy").symlink_to(made_pipeline / "val.npy")
        (tmp_path / "link.npy.json").write_text("{}")
        assert token_facts(tmp_path / "link.npy") is None

    def test_a_broken_link_has_no_facts(self, tmp_path: Path) -> None:
        (tmp_path / "circle.npy").symlink_to("circle.npy")
        (tmp_path / "none.npy").symlink_to("nowhere")
        for name in ("circle.npy", "none.npy"):
            assert token_facts(tmp_path / name) is None


def evaluate(capsys: Capture, pipeline: Path, tokens: Path) -> dict[str, float]:
    """Run lm eval and return its numbers by name."""
    capsys.readouterr()
    assert lm("eval", "--checkpoint", pipeline / "torch", "--tokens", tokens) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:15].strip(): float(re.findall(r"[\d.]+", line[15:])[0]) for line in lines}


def test_facts_of_an_overwritten_file_are_not_used(pipeline: Path, capsys: Capture) -> None:
    path, tokenizer = pipeline / "val.npy", Tokenizer.load(pipeline / "tokenizer")
    config, ids = load_config(pipeline / "tiny.toml"), np.load(path)
    whole = text_facts(path, open_evaluation(config, path), config, None)
    assert whole.keys() == {"tokens", "bytes", "nats"}
    assert whole["bytes"] == len(tokenizer.decode(ids).encode())
    for others in (np.concatenate([ids, ids[:7]]), np.roll(ids, 1), ids[: len(ids) // 2]):
        np.save(path, others)
        size = {"tokens": len(others), "bytes": len(tokenizer.decode(others).encode())}
        assert text_facts(path, open_evaluation(config, path), config, tokenizer) == size
    found = evaluate(capsys, pipeline, path)
    assert "entropy floor" not in found
    bits = found["loss"] / math.log(2) * size["tokens"] / size["bytes"]
    assert found["bits per byte"] == pytest.approx(bits, abs=2e-4)
    assert lm(*train_command(pipeline, "torch", pipeline / "new", "--steps", 1)) == 0
    (val,) = [m for m in read_metrics(pipeline / "new") if "val_loss" in m]
    bits = val["val_loss"] / math.log(2) * size["tokens"] / size["bytes"]
    assert val["bits_per_byte"] == pytest.approx(bits, rel=1e-12)
    assert (read_facts(pipeline / "new") or {})["floor"] is None


def test_bytes_that_cannot_be_counted_are_left_out(pipeline: Path) -> None:
    """An overwritten file has no recorded bytes. Another tokenizer, or one that lacks an id, cannot count them."""
    path, config = pipeline / "val.npy", load_config(pipeline / "tiny.toml")
    np.save(path, np.load(path)[:100])
    data = open_evaluation(config, path)
    assert text_facts(path, data, config, None) == {}
    assert text_facts(path, data, config, TOKENIZER) == {}
    ours = Tokenizer.load(pipeline / "tokenizer")
    assert text_facts(path, data, config, ours)["bytes"] == len(ours.decode(np.asarray(data)).encode())
    ids = np.array(data)
    ids[50] = 60_000
    assert text_facts(path, ids, config, ours) == {"tokens": 100}
