"""Models whose weights or logits are not finite."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.run import checkpoint
from tests.lm.conftest import lm, refused
from tests.lm.interop.models import MODEL, make_run, random_weights
from tests.lm.run.test_train import BACKENDS
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def broken(made_pipeline: Path, tmp_path: Path) -> Path:
    """A run with a NaN among its weights."""
    weights = random_weights(MODEL)
    weights["ln_final.weight"][3] = np.nan
    return make_run(tmp_path / "run", MODEL, Tokenizer.load(made_pipeline / "tokenizer"), weights)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error")
def test_logits_that_are_not_finite_are_refused(
    made_pipeline: Path, broken: Path, capsys: Capture, backend: str
) -> None:
    tokens = made_pipeline / "val.npy"
    start = "the model's logits are not finite, so"
    no_probability = f"{start} the text has no probability; take an earlier checkpoint"
    no_token = f"{start} no token can be drawn; take an earlier checkpoint"
    no_loss = (
        f"{checkpoint.latest(broken)}: the loss on {tokens} is nan, because the model's logits are not finite; "
        "use an earlier checkpoint"
    )
    commands: list[tuple[tuple[object, ...], str]] = [
        (("score", "a text"), no_probability),
        (("score", "a text", "--json"), no_probability),
        (("generate", "--prompt", "a"), no_token),
        (("generate", "--prompt", "a", "b", "--json"), no_token),
        (("eval", "--tokens", tokens), no_loss),
    ]
    for (name, *flags), message in commands:
        line = refused(capsys, name, "--checkpoint", broken, "--backend", backend, *flags)
        assert line == f"lm: {message}"


def test_weights_that_are_not_finite_are_neither_exported_nor_imported(
    broken: Path, tmp_path: Path, capsys: Capture
) -> None:
    from safetensors.numpy import load_file, save_file

    line = refused(capsys, "export", "--format", "hf", broken, tmp_path / "hf")
    assert "'ln_final.weight' holds numbers that are not finite" in line
    assert not (tmp_path / "hf").exists()
    whole = make_run(tmp_path / "whole", MODEL, None)
    assert lm("export", "--format", "hf", whole, tmp_path / "hf") == 0
    file = tmp_path / "hf" / "model.safetensors"
    intact = load_file(file)
    theirs = {"layers.1.attn.q_proj.weight": "model.layers.1.self_attn.q_proj.weight"}
    for ours in ("lm_head.weight", "layers.1.attn.q_proj.weight"):
        name = theirs.get(ours, ours)
        for bad in (np.nan, np.inf):
            tensor = intact[name].copy()
            tensor[1, 2] = bad
            save_file(intact | {name: tensor}, file)
            line = refused(capsys, "import", "--format", "hf", tmp_path / "hf", tmp_path / "in")
            assert f"{tmp_path / 'hf'}: '{ours}' holds numbers that are not finite" in line
            assert not (tmp_path / "in").exists()


def test_an_infinite_perplexity_is_shown_and_its_json_is_valid(
    made_pipeline: Path, tmp_path: Path, capsys: Capture
) -> None:
    weights = random_weights(MODEL)
    weights["lm_head.weight"] *= 1e5
    run = make_run(tmp_path / "run", MODEL, Tokenizer.load(made_pipeline / "tokenizer"), weights)
    assert lm("score", "--checkpoint", run, "a text of some length", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["perplexity"] is None
    assert facts["nats"] > 1e4
    assert lm("eval", "--checkpoint", run, "--tokens", made_pipeline / "val.npy") == 0
    assert "perplexity     inf" in capsys.readouterr().out
