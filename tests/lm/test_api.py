"""A trained model from Python: `lm.load`, the methods of a model, and the notebook that shows them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.backend import BackendName, load
from lm.budgets import BUDGETS, relative_error
from lm.config import ModelConfig, TrainConfig
from lm.run import checkpoint
from tests.lm.conftest import lm
from tests.lm.run.test_train import BACKENDS
from tests.source import ROOT
from tests.test_imports import loaded_after
from tokenizer import InputError

CONFIG = TrainConfig(ModelConfig(32, 8, 16, 2, 2))
IDS = np.arange(16, dtype=np.int32).reshape(2, 8)


def test_both_backends_give_the_logits_of_every_position() -> None:
    per_backend: list[np.ndarray] = []
    for name in BACKENDS:
        backend = load(name, CONFIG)
        state = backend.init_state(CONFIG, 0)
        logits = backend.make_logits(CONFIG)(state, IDS)
        assert logits.shape == (2, 8, 32)
        assert logits.dtype == np.float32
        prefill = backend.make_prefill(CONFIG)
        for T in (3, 8):
            last, _ = prefill(state, IDS, np.array([T, T]))
            assert relative_error(logits[:, T - 1], last) < BUDGETS["float32"].model_forward
        per_backend.append(logits)
    assert relative_error(per_backend[0], per_backend[1]) < BUDGETS["float32"].model_forward


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_logits_of_an_unknown_token_are_refused(backend_name: BackendName) -> None:
    backend = load(backend_name, CONFIG)
    with pytest.raises(InputError, match=r"token id 32 is outside 0 .. 31"):
        backend.make_logits(CONFIG)(backend.init_state(CONFIG, 0), np.array([[32]]))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_loaded_model(
    made_pipeline: Path, capsys: pytest.CaptureFixture[str], backend_name: BackendName
) -> None:
    model = twinlm.load(made_pipeline / "torch", backend_name)
    text = "Once upon a time"
    ids = model.tokenizer.encode(text)
    logits = model.logits(text)
    assert logits.shape == (len(ids), 300)
    np.testing.assert_array_equal(model.logits(ids), logits)
    np.testing.assert_array_equal(model.logits(np.array([ids, ids], np.uint16))[1].shape, logits.shape)
    score = model.score(text)
    assert score.token_ids == ids
    command = ("generate", "--checkpoint", made_pipeline / "torch", "--prompt", text, "--seed", 3)
    assert lm(*command, "--max-new-tokens", 20, "--backend", backend_name) == 0
    assert capsys.readouterr().out == f"{text}{model.generate(text, max_new_tokens=20, seed=3)}\n"
    several = model.complete([text, ""], samples=2, max_new_tokens=5, seed=3)
    assert [c.prompt for c in several] == [text, text, "", ""]
    assert several[0].text == model.generate(text, max_new_tokens=5, seed=3)
    assert several[3].text == model.complete([""], samples=2, max_new_tokens=5, seed=3)[1].text


def test_which_checkpoint_and_which_backend(pipeline: Path) -> None:
    assert "torch_impl" in str(twinlm.load(pipeline / "torch").backend)
    assert "jax_impl" in str(twinlm.load(str(pipeline / "jax")).backend)
    older = pipeline / "torch" / "checkpoints" / "step-00000003"
    assert twinlm.load(older).path == older
    assert twinlm.load(pipeline / "torch").path.name == "step-00000006"
    state = older / "state.json"
    facts = json.loads(state.read_text())
    best = min((c for c in checkpoint.find_all(pipeline / "torch")), key=lambda c: facts_of(c)["val_loss"])
    assert twinlm.load(pipeline / "torch", best=True).path == best
    assert facts["val_loss"] is not None


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / "state.json").read_text())
    return facts


def test_what_the_api_refuses(made_pipeline: Path) -> None:
    load: Any = twinlm.load  # without types, which refuse most of these before they run
    model: Any = load(made_pipeline / "torch")
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: load("none"), "none: holds no checkpoint"),
        (
            lambda: load(made_pipeline / "torch", "tensorflow"),
            "backend is 'tensorflow': give jax or torch",
        ),
        (lambda: load(made_pipeline / "torch", device="abacus"), "device 'abacus'"),
        (lambda: model.logits([]), "the ids are"),
        (lambda: model.logits(""), "the ids are"),
        (lambda: model.logits([0.5]), "the ids are float64"),
        (
            lambda: model.logits([0] * 17),
            r"\(17,\): give whole numbers, for each text 1 to the model's context_length 16",
        ),
        (lambda: model.logits([300]), r"token id 300 is outside 0 .. 299"),
        (lambda: model.logits([-1]), r"token id -1 is outside 0 .. 299"),
        (lambda: model.logits([2**40]), r"token id 1099511627776 is outside"),
        (lambda: model.logits([[1, 2], [3]]), "the ids are not an array .*inhomogeneous"),
        (lambda: model.logits([True]), "the ids are bool"),
        (lambda: model.logits(None), "the ids are object"),
        (lambda: model.logits(np.array([2**63 + 5], np.uint64)), r"token id 9223372036854775813 is outside"),
        (lambda: model.logits(np.zeros((2, 0), int)), r"the ids are int64 \(2, 0\)"),
        (lambda: model.complete("abc"), r"the prompts are 'abc': give a list of texts"),
        (lambda: model.complete([[1, 0.5]]), r"the prompts are \[\[1, 0.5\]\]: give a list of texts, or of"),
        (lambda: model.complete([[1, 300]]), r"token id 300 is outside 0 .. 299"),
        (lambda: model.complete(None), r"the prompts are None: give a list of texts"),
        (lambda: model.generate(5), r"the prompts are \[5\]: give a list of texts"),
        (lambda: model.score([1, True]), r"the text is \[1, True\]: give a string, or a list of token ids"),
        (lambda: model.score([1, -2]), r"token id -2 is outside 0 .. 299"),
        (lambda: model.generate("a", temperature=-1.0), "temperature is -1"),
        (lambda: model.generate("a", samples=2), "samples is 2, but generate returns one text; use complete"),
    )
    for what, message in cases:
        with pytest.raises(InputError, match=message):
            what()


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_nothing_asked_is_nothing_answered(made_pipeline: Path, backend_name: BackendName) -> None:
    model = twinlm.load(made_pipeline / "torch", backend_name)
    assert model.complete([]) == []
    logits = model.logits(np.zeros((0, 3), int))
    assert logits.shape == (0, 3, 300)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_logits_of_an_encoder(backend_name: BackendName) -> None:
    config = TrainConfig(ModelConfig(32, 8, 16, 1, 2, architecture="encoder"))
    backend = load(backend_name, config)
    state = backend.init_state(config, 0)
    model = twinlm.Model(config, backend, state, Path())
    whole = backend.make_logits(config)(state, IDS, np.array([8, 8]))
    assert relative_error(model.logits(IDS), whole) < BUDGETS["float32"].model_forward


def test_import_lm_is_light() -> None:
    heavy = {"numpy", "torch", "jax", "safetensors", "torch_impl", "jax_impl", "tyro"}
    assert not loaded_after("import lm; lm.__version__") & heavy
    with pytest.raises(AttributeError, match="module 'lm' has no attribute 'lode'"):
        twinlm.lode  # noqa: B018


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # As committed, it has been run from top to bottom, and shows what came of it.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
