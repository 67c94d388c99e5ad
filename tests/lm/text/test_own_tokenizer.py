"""A model works only with the tokenizer that it was trained with."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import lm as twinlm
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.interop.models import MODEL, make_run
from tests.lm.text.models import BYTES
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


COMMANDS: dict[str, Any] = {
    "generate": lambda path, out: ["generate", "--checkpoint", path, "--prompt", "a", "--max-new-tokens", 2],
    "score": lambda path, out: ["score", "--checkpoint", path, "a text"],
    "export": lambda path, out: ["export", "--format", "hf", path, out],
}


def damage(folder: Path, how: str) -> None:
    """Damage a tokenizer's files, or replace them by another tokenizer."""
    merges = folder / "merges.txt"
    head, *lines = merges.read_text().splitlines()
    if how == "empty":
        merges.write_text("")
    elif how == "exchanged":
        merges.write_text("\n".join([head, lines[1], lines[0], *lines[2:]]) + "\n")
    else:
        Tokenizer(BYTES, [], ["<|endoftext|>"]).save(folder)


@pytest.mark.parametrize("how", ["empty", "exchanged", "another"])
def test_another_tokenizer_is_refused(pipeline: Path, capsys: Capture, how: str) -> None:
    run, ours = pipeline / "torch", pipeline / "tokenizer"
    damage(run / "tokenizer", how)
    before = snapshot(run)
    # Damaged files are named. An intact tokenizer is compared with the checkpoint's.
    what = {
        "empty": "vocab.json has .* line of merges.txt makes",
        "exchanged": "merges.txt makes .* lines were exchanged",
        "another": f"is not the tokenizer that {run}/checkpoints/step-00000006 was trained with",
    }
    message = f"{run}/tokenizer: {what[how]}"
    for name, command in COMMANDS.items():
        assert re.search(message, refused(capsys, *command(run, pipeline / "hf")))
        assert lm(*command(run, pipeline / "hf"), "--tokenizer", ours) == 0, name
        assert re.search(
            message, refused(capsys, *command(run, pipeline / "no"), "--tokenizer", run / "tokenizer")
        )
    model = twinlm.load(run)
    for use in (lambda: model.tokenizer, lambda: model.generate("a"), lambda: model.score("ab")):
        with pytest.raises(InputError, match=message):
            use()
    with pytest.raises(InputError, match=message):
        twinlm.load(run, tokenizer=run / "tokenizer")
    assert twinlm.load(run, tokenizer=str(ours)).tokenizer.encode("a") == Tokenizer.load(ours).encode("a")
    assert snapshot(run) == before
    # Resuming the run restores its tokenizer.
    assert lm(*train_command(pipeline, "torch", run, "--resume", "--steps", 7)) == 0
    assert twinlm.load(run).tokenizer.sha256 == Tokenizer.load(ours).sha256


def test_a_checkpoint_without_its_run_needs_a_tokenizer(pipeline: Path, capsys: Capture) -> None:
    alone = shutil.copytree(pipeline / "torch" / "checkpoints" / "step-00000006", pipeline / "a" / "b" / "x")
    Tokenizer(BYTES, [], ["<|endoftext|>"]).save(pipeline / "a" / "tokenizer")
    for command in COMMANDS.values():
        assert "a/tokenizer: is not the tokenizer" in refused(capsys, *command(alone, pipeline / "hf"))
    shutil.rmtree(pipeline / "a" / "tokenizer")
    for name in ("generate", "score"):
        line = refused(capsys, *COMMANDS[name](alone, None))
        assert (
            "the tokenizer is missing; give the folder of the model's tokenizer: --tokenizer FOLDER" in line
        )
    assert (
        lm("generate", "--checkpoint", alone, "--tokenizer", pipeline / "tokenizer", "--max-new-tokens", 1)
        == 0
    )
    # The checkpoint itself records its ends.
    assert lm(*COMMANDS["export"](alone, pipeline / "hf")) == 0
    end = Tokenizer.load(pipeline / "tokenizer").special_tokens["<|endoftext|>"]
    assert json.loads((pipeline / "hf" / "config.json").read_text())["eos_token_id"] == end


def test_a_run_without_a_tokenizer_ignores_a_tokenizer_folder_beside_it(
    tmp_path: Path, capsys: Capture
) -> None:
    run = make_run(tmp_path / "run", MODEL, None)
    Tokenizer(BYTES, [], ["<|endoftext|>"]).save(run / "tokenizer")
    assert "the tokenizer is missing" in refused(capsys, *COMMANDS["score"](run, None))
    assert lm(*COMMANDS["score"](run, None), "--tokenizer", run / "tokenizer") == 0
