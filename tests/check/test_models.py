"""`lm check --logits`: a whole model beside ours."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lm.config import ModelConfig
from lm.interop.export_model import export_model
from parity.check.models import ModelVerdict, compare, lines, read_model, run_logits
from tests.lm.conftest import lm
from tests.lm.interop.models import make_run

FILE = Path(__file__).parent / "files" / "whole_model.py"
BAD = FILE.with_name("no_model.py")
MODEL = ModelConfig(vocab_size=29, context_length=8, d_model=16, num_layers=3, num_heads=4, d_ff=20)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights, as `lm train` leaves it."""
    folder = tmp_path_factory.mktemp("models") / "run"
    make_run(folder, MODEL, None)
    return folder


@pytest.fixture(scope="module")
def llama(run: Path) -> Path:
    """Export the run's model as transformers saves it, and return the folder."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    export_model(checkpoint, None, run / "hf")
    return run / "hf"


def check(run: Path, function: str) -> ModelVerdict:
    return run_logits(f"{FILE}:{function}", run)


def test_a_right_model_passes_in_both_precisions(llama: Path) -> None:
    verdict = check(llama, "right")
    assert not verdict.is_off
    assert [p.dtype for p in verdict.precisions] == ["float32", "bfloat16"]
    single, half = verdict.precisions
    assert single.error < 1e-6 < half.error
    assert single.top1 == single.top5 == 1.0
    assert 0 <= single.kl < 1e-9 < half.kl < 1e-2
    assert len(single.drift) == MODEL.num_layers + 1
    assert single.first_off is half.first_off is None
    assert lines(verdict)[-1].startswith("right: pass")


def test_a_known_mistake_is_named(run: Path) -> None:
    verdict = check(run, "halves")
    assert verdict.is_off
    # Mistakes that permute queries and keys together are one in a whole model.
    assert {mistake.replaces for mistake in verdict.mistakes} == {"rope"}
    assert any("halves rotated" in mistake.name for mistake in verdict.mistakes)


def test_a_saved_llama_and_its_run_are_one_model(run: Path, llama: Path) -> None:
    ours, theirs = read_model(run), read_model(llama)
    assert ours.weights.keys() == theirs.weights.keys()
    for name, weight in ours.weights.items():
        np.testing.assert_array_equal(weight, theirs.weights[name])


def test_the_next_tokens_are_compared_by_probability_and_rank() -> None:
    exact = np.log(np.array([[[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]]]))
    found = compare([exact[..., [1, 0, 2, 3, 4, 5]]], [exact], MODEL, "float32")
    assert found.kl == pytest.approx(0.5 * math.log(0.5 / 0.3) + 0.3 * math.log(0.3 / 0.5))
    assert (found.top1, found.top5) == (0.0, 1.0)
    shifted = compare([exact[..., ::-1] + 7], [exact], MODEL, "float32")
    assert shifted.top5 == pytest.approx(0.8)


def test_the_first_wrong_layer_is_found_and_the_command_writes_a_picture_and_json(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    png, facts = tmp_path / "drift.png", tmp_path / "model.json"
    with pytest.raises(SystemExit) as exit:
        lm("check", "--logits", f"{FILE}:second_layer_wrong", run, "--png", png, "--json", facts)
    assert exit.value.code == 1
    printed = capsys.readouterr().out
    assert "second_layer_wrong: OFF" in printed
    assert "the first hidden states over the threshold in float32: layer 2" in printed.splitlines()
    assert png.read_bytes().startswith(b"\x89PNG")
    found = json.loads(facts.read_text())
    assert found["status"] == "off"
    assert found["mistakes"] == []
    assert [p["first_off"] for p in found["precisions"]] == ["layer 2", "layer 2"]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (f"{BAD}", "give FILE:FUNCTION"),
        (f"{BAD}:nothing", "has no function nothing"),
        (f"{BAD}:ids_alone", "returns 112 numbers"),
        (f"{BAD}:transposed", "logits of shape (8, 2, 29) for token ids (2, 8)"),
    ],
)
def test_bad_input_is_exit_code_2(run: Path, target: str, told: str, capsys: Capture) -> None:
    assert lm("check", "--logits", target, run) == 2
    assert told in capsys.readouterr().err


def test_nothing_to_check_is_exit_code_2(capsys: Capture) -> None:
    assert lm("check") == 2
    assert "nothing to check" in capsys.readouterr().err
    assert lm("check", "--logits", f"{FILE}:right") == 2
    assert "--logits needs the folder" in capsys.readouterr().err
