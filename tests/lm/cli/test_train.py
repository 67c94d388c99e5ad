"""`lm train`: flags, data and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from lm.files import file_sha256, json_text
from lm.run import checkpoint
from tests.lm.conftest import lm, refused, snapshot, train_command
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


def test_a_flag_overrides_the_config(pipeline: Path) -> None:
    command = train_command(pipeline, "torch", pipeline / "new", "--steps", 2, "--model.d-model", 32)
    assert lm(*command, "--model.num-heads", 4, "--optimizer.learning-rate", 0.02) == 0
    state = json.loads((checkpoint.latest(pipeline / "new") / "state.json").read_text())
    config = state["config"]
    assert (config["steps"], config["optimizer"]["learning_rate"]) == (2, 0.02)
    # Sizes that the file leaves open follow the flags.
    assert (config["model"]["d_model"], config["model"]["d_ff"]) == (32, 64)
    assert config["model"]["num_kv_heads"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.d-model", 18, "--model.num-heads", 4], "d_model 18 is not divisible by num_heads 4"),
        (["--model.d-model", 6], "odd, but RoPE rotates pairs"),
        (["--model.vocab-size", 290], r"train.npy: token id \d+ is outside 0 .. 289"),
        (["--model.context-length", 100_000], "tokens are fewer than one window"),
        (["--steps", 0], "steps is 0"),
        (["--steps", "many"], "'many' is not a whole number"),
        (["--batch-size", 3, "--grad-accumulation", 2], "not divisible by grad_accumulation"),
        (["--device", "abacus"], "device 'abacus' is not supported: give cpu, cuda, or cuda:N"),
        (["--threads", 0], "threads is 0"),
        (["--optimizer.beta2", 1], "beta2 is 1"),
        (["--optimizer.schedule", "wild"], "schedule"),
        (["--optimizer.decay", "some"], "decay"),
        *(
            ([f"--{name}", 0], f"{name.replace('-', '_')} is 0")
            for name in ("keep-last", "patience", "eval-windows")
        ),
        (["--init-from", "none"], "none: holds no checkpoint"),
        (["--compute-dtype", "int8"], "compute-dtype"),
        (["--train", "none.npy"], "none.npy: No such file"),
        (["--val", "empty.npy"], "empty.npy: not a"),
        (["--config", "unknown.toml"], "unknown.toml: unknown key 'stepz'"),
        (["--config", "broken.toml"], "broken.toml: not a TOML file"),
        (["--config", "none.toml"], "none.toml: .*No such file"),
        (["--out", "jax"], "jax exists already: choose another"),
        (["--out", "tiny.toml"], "tiny.toml exists already: choose another"),
        (["--out", "new", "--resume"], "new: holds no checkpoint"),
        (
            ["--out", "torch", "--resume", "--model.d-model", 32],
            r"run.json: model.d_model is 16 in this run and 32",
        ),
    ],
)
def test_what_lm_train_refuses(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, flags: list[object], message: str
) -> None:
    monkeypatch.chdir(pipeline)
    Path("empty.npy").touch()
    Path("unknown.toml").write_text("stepz = 1\n[model]\n")
    Path("broken.toml").write_text("steps = \n")
    before = snapshot(pipeline)
    assert re.search(message, refused(capsys, *train_command(pipeline, "torch", pipeline / "new", *flags)))
    assert snapshot(pipeline) == before


def test_a_run_is_not_resumed_with_other_data(pipeline: Path, capsys: Capture) -> None:
    command = train_command(
        pipeline, "torch", pipeline / "torch", "--resume", "--train", pipeline / "val.npy"
    )
    assert "train_sha256 differs" in refused(capsys, *command)


def test_token_files_of_another_tokenizer_are_refused(pipeline: Path, capsys: Capture) -> None:
    sidecar = pipeline / "val.npy.json"
    sidecar.write_text(json_text({**json.loads(sidecar.read_text()), "tokenizer_sha256": "0" * 64}))
    message = "val.npy: was encoded with another tokenizer than"
    assert message in refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    command = ("eval", "--checkpoint", pipeline / "torch", "--tokens", pipeline / "val.npy")
    assert message in refused(capsys, *command)


def test_weights_of_several_files_stay_in_a_resumed_run(pipeline: Path, capsys: Capture) -> None:
    files = ("--train", pipeline / "t*.npy", pipeline / "val.npy", "--weights")
    command = train_command(pipeline, "torch", pipeline / "new", *files)
    assert lm(*command, 3, 1) == 0
    assert json.loads((pipeline / "new" / "run.json").read_text())["weights"] == [3.0, 1.0]
    assert "train_sha256 differs" in refused(capsys, *command, 1, 1, "--resume")
    assert "give one number above 0 for each of the 2" in refused(capsys, *command, 1, "--resume")


def test_a_changed_tokenizer_is_refused(pipeline: Path, capsys: Capture) -> None:
    old = Tokenizer.load(pipeline / "tokenizer")
    merges = [old.merges[1], old.merges[0], *old.merges[2:]]
    Tokenizer(old.vocab, merges, old.special_tokens).save(pipeline / "tokenizer")
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    assert "is not the tokenizer that" in line
    assert "encode the text again" in line


def test_a_checkpoint_with_other_shapes_is_refused(pipeline: Path, capsys: Capture) -> None:
    other = train_command(pipeline, "torch", pipeline / "other", "--steps", 1, "--model.d-model", 32)
    assert lm(*other) == 0
    ours, theirs = checkpoint.latest(pipeline / "torch"), checkpoint.latest(pipeline / "other")
    (ours / "model.safetensors").write_bytes((theirs / "model.safetensors").read_bytes())
    command = ("eval", "--checkpoint", ours, "--tokens", pipeline / "val.npy")
    assert "model.safetensors: differs from the manifest" in refused(capsys, *command)
    files = {p.name: p for p in ours.iterdir() if p.name != "manifest.json"}
    names = json.loads((ours / "manifest.json").read_text())
    manifest = {n: {"size": files[n].stat().st_size, "sha256": file_sha256(files[n])} for n in names}
    (ours / "manifest.json").write_text(json_text(manifest))
    line = refused(capsys, *command)
    assert "'token_embeddings.weight' is float32 (300, 32), and this model has float32 (300, 16)" in line


def test_a_full_disk_is_reported_in_one_line(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(pipeline / "new"))

    monkeypatch.setattr("lm.run.checkpoint.save_file", full)
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    assert line.startswith(f"lm: {pipeline / 'new'}: step 3 cannot be saved (No space left on device)")
    assert not list((pipeline / "new" / "checkpoints").iterdir())
