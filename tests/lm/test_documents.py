"""Packed documents by the command: runs learn, resume, and are evaluated and scored packed."""

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import lm as twinlm
from lm.backend import BackendName
from lm.budgets import BUDGETS
from lm.run.facts import read_facts
from tests.lm.conftest import lm, refused, train_command
from tests.lm.run.test_train import BACKENDS, leaves, numbers

PACKED = ("--documents", "packed")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of short documents, and of runs on them: packed in each backend, and joined."""
    folder = shutil.copytree(made_pipeline, tmp_path_factory.mktemp("documents") / "pipeline")
    for name in ("train", "val"):
        text, tokens = folder / f"{name}.txt", folder / f"{name}.npy"
        text.write_text(text.read_text().replace(". ", ".<|endoftext|>").replace(", ", ",<|endoftext|>"))
        tokens.unlink()
        files = ("--input", text, "--out", tokens)
        assert lm("tokenizer", "encode", "--tokenizer", folder / "tokenizer", *files) == 0
    for backend in BACKENDS:
        assert lm(*train_command(folder, backend, folder / f"packed.{backend}", *PACKED)) == 0
    assert lm(*train_command(folder, "torch", folder / "joined")) == 0
    return folder


def test_both_backends_learn_the_same(folder: Path) -> None:
    torch, jax, joined = (numbers(folder / name) for name in ("packed.torch", "packed.jax", "joined"))
    for a, b, c in zip(torch, jax, joined, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
        assert a != pytest.approx(c, rel=1e-5)
    facts = read_facts(folder / "packed.torch")
    assert facts is not None
    end_token = twinlm.load(folder / "joined").tokenizer.special_tokens["<|endoftext|>"]
    assert (facts["config"]["documents"], facts["config"]["end_token"]) == ("packed", end_token)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_run_resumes_packed(
    folder: Path, tmp_path: Path, capsys: Capture, backend: BackendName
) -> None:
    whole = folder / f"packed.{backend}"
    stopped = shutil.copytree(whole, tmp_path / "stopped")
    shutil.rmtree(stopped / "checkpoints" / "step-00000006")
    resume = train_command(folder, backend, stopped, "--resume")
    assert "documents is 'packed' in this run and 'joined' in this command" in refused(capsys, *resume)
    assert lm(*resume, *PACKED) == 0
    assert leaves(stopped) == leaves(whole)
    assert numbers(stopped) == numbers(whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_model_is_evaluated_and_scored_packed(
    folder: Path, capsys: Capture, backend: BackendName
) -> None:
    run = folder / f"packed.{backend}"
    (*_, last) = [m["val_loss"] for m in numbers(run) if "val_loss" in m]
    assert lm("eval", "--checkpoint", run, "--tokens", folder / "val.npy") == 0
    assert f"loss           {last:.4f} nats" in capsys.readouterr().out
    score = twinlm.load(run).score
    alone = score("a dog")
    after = score("one<|endoftext|>a dog")
    assert len(after.nats) <= 16  # one window
    budget = BUDGETS["float32"].model_forward
    assert after.nats[-len(alone.nats) :] == pytest.approx(alone.nats, rel=budget)
    joined = twinlm.load(folder / "joined").score
    assert joined("one<|endoftext|>a dog").nats[-1] != pytest.approx(joined("a dog").nats[-1], rel=budget)


@pytest.mark.parametrize("run", ["packed.torch", "packed.jax", "joined"])
def test_evaluation_on_documents_gives_each_document_the_nats_that_it_has_alone(
    folder: Path, tmp_path: Path, capsys: Capture, run: str
) -> None:
    model = twinlm.load(folder / run)
    end = model.tokenizer.special_tokens["<|endoftext|>"]
    text = [i for i in np.load(folder / "val.npy")[:400].tolist() if i != end]
    # Two documents do not fit in a window of 16, so even a joined model sees only one.
    documents = [text[start : start + size] for start, size in enumerate((9, 15, 12, 10, 15, 11))]
    ids = [end, *chain(*([*document, end] for document in documents))]
    np.save(tmp_path / "ids.npy", np.array(ids, np.uint16))
    nats = sum(model.score([*document, end]).total_nats for document in documents)
    command = "eval", "--checkpoint", folder / run, "--tokens", tmp_path / "ids.npy", "--eval-by"
    for flags in ((), ("--batch-size", 2)):
        assert lm(*command, "documents", *flags) == 0
        printed = float(capsys.readouterr().out.split()[1])
        assert printed == pytest.approx(nats / (len(ids) - 1), abs=1e-4)
    assert lm(*command, "windows") == 0
    assert float(capsys.readouterr().out.split()[1]) != pytest.approx(nats / (len(ids) - 1), abs=1e-4)


def test_a_run_that_is_evaluated_on_documents_trains_as_any_other(folder: Path, tmp_path: Path) -> None:
    run, flags = tmp_path / "run", ("--eval-by", "documents", "--eval-windows", 3)
    assert lm(*train_command(folder, "torch", run, *flags)) == 0
    assert leaves(run) == leaves(folder / "joined")
    assert lm(*train_command(folder, "torch", run, *flags, "--resume", "--steps", 8)) == 0
    # The end token that evaluation looks for begins no document in generation or scoring.
    joined, text = twinlm.load(folder / "joined"), "one<|endoftext|>a dog"
    assert twinlm.load(run / "checkpoints" / "step-00000006").score(text) == joined.score(text)


def test_evaluation_on_documents_needs_an_end_token(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "none.npy", np.full(100, 5, np.uint16))
    command = "eval", "--checkpoint", folder / "joined", "--tokens", tmp_path / "none.npy", "--eval-by"
    said = refused(capsys, *command, "documents")
    assert "none.npy: has no end token" in said
    assert "to evaluate on whole documents; put" in said
