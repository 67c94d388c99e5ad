"""No false alarm: right implementations of many hands pass in every precision. And what is told about them."""

from pathlib import Path

import pytest

from lm.budgets import Dtype
from parity.check.answer import Verdict
from parity.check.choose import choose, select
from parity.check.process import Function, Parameter
from parity.check.run import run_check
from parity.check.table import SUBJECTS
from tests.source import ROOT
from tokenizer.errors import InputError

FILES = Path(__file__).parent / "files"


def written(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.status != "not written"]


NOT_CONNECTED = "not connected, so without gradient: every input"


def notes(verdicts: list[Verdict]) -> list[str]:
    return [note for verdict in verdicts for note in verdict.notes]


@pytest.fixture(autouse=True)
def plain_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the child JAX as users have it, not as strict as these tests do."""
    for name in ("JAX_ENABLE_X64", "JAX_NUMPY_RANK_PROMOTION", "JAX_NUMPY_DTYPE_PROMOTION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("file", "backend"), [("adapters", "torch"), ("adapters", "jax"), ("adapters_2024", "torch")]
)
def test_our_adapters_pass(monkeypatch: pytest.MonkeyPatch, file: str, backend: str) -> None:
    monkeypatch.setenv("LM_BACKEND", backend)
    monkeypatch.chdir(ROOT)
    layers = () if backend == "torch" else ("run_rmsnorm", "run_rope")
    verdicts = run_check(f"tests/{file}.py", layers)
    assert {v.function: v.status for v in verdicts if v.status != "pass"} == {}
    # JAX computes on what torch has passed, so torch sees no gradient.
    numeric_notes = [note for note in notes(verdicts) if not note.startswith("an empty file")]
    assert set(numeric_notes) == ({NOT_CONNECTED} if backend == "jax" else set())


def test_our_family_passes_beyond_the_course() -> None:
    verdicts = run_check(str(FILES / "our_family.py"))
    assert {v.function: v.status for v in verdicts if v.status != "pass"} == {}
    assert all("gradient" in verdict.errors for verdict in verdicts)
    assert notes(verdicts) == []
    assert {verdict.subject for verdict in verdicts} >= {"transformer_encoder", "prefix_decoder"}


def test_a_course_repository_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES / "course")
    verdicts = run_check("tests/adapters.py")
    assert {v.function: v.status for v in written(verdicts) if v.status != "pass"} == {}
    assert len(written(verdicts)) >= 14
    by_function = {verdict.function: verdict for verdict in verdicts}
    assert "it refuses float64 and bfloat16" in by_function["run_linear"].notes
    assert "it computes in float32 if it is given float64" in by_function["run_rmsnorm"].notes
    # Weights that were copied into modules have gradients all the same.
    assert not any("not connected" in note for note in notes(verdicts))
    assert by_function["run_linear"].errors["gradient"] > 0


def test_the_layers_of_libraries_pass_in_every_precision() -> None:
    verdicts = run_check(str(FILES / "library_layers.py"))
    assert {v.function: v.status for v in verdicts if v.status != "pass"} == {}
    assert all("gradient" in verdict.errors for verdict in verdicts)
    # Llama's norm alone converts to float32; all else takes float64 and bfloat16, and is right in them.
    assert set(notes(verdicts)) == {"it computes in float32 if it is given float64"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_port_to_jax_passes(dtype: Dtype) -> None:
    layers = ("softmax", "rope", "multihead")
    verdicts = run_check(str(FILES / "jax_port.py"), layers if dtype == "float32" else layers[:1], dtype)
    assert {v.function: v.status for v in verdicts if v.status != "pass"} == {}
    assert all("gradient" in verdict.errors for verdict in verdicts)


def test_numpy_passes_without_gradients() -> None:
    verdicts = run_check(str(FILES / "numpy_port.py"))
    assert {v.function: v.status for v in verdicts} == dict.fromkeys(
        ["softmax", "cross_entropy", "rmsnorm"], "pass"
    )
    assert all(v.errors.keys() == {"forward"} for v in verdicts)
    assert "NumPy: no gradients" in notes(verdicts)


def function(*names: str, annotation: str = "", is_own: bool = True) -> Function:
    return Function(is_own, tuple(Parameter(n, "POSITIONAL_OR_KEYWORD", False, annotation) for n in names))


BLOCK = ("d_model", "num_heads", "d_ff", "weights", "in_features")


@pytest.mark.parametrize(
    ("functions", "year"),
    [
        ({"run_rmsnorm": function("d_model", "eps", "weights", "in_features")}, 2025),
        (
            {
                "run_rmsnorm": function(
                    "d_model", "eps", "weights", "in_features", annotation="dict[str, Tensor]"
                )
            },
            2024,
        ),
        (
            {
                "run_rmsnorm": function("d_model", "eps", "weights", "in_features"),
                "run_gelu": function("in_features"),
            },
            2024,
        ),
        ({"run_transformer_block": function(*BLOCK[:3], "max_seq_len", "theta", *BLOCK[3:])}, 2025),
        ({"run_transformer_block": function(*BLOCK[:3], "attn_pdrop", "residual_pdrop", *BLOCK[3:])}, 2024),
        ({"run_scaled_dot_product_attention": function("Q", "K", "V", "mask")}, 2025),
        ({"run_scaled_dot_product_attention": function("K", "Q", "V", "mask", "pdrop")}, 2024),
        ({"run_multihead_self_attention": function("d_model", "num_heads", "attn_pdrop", "w", "x")}, 2024),
        ({"run_multihead_self_attention": function("d", "h", "q", "k", "v", "o", "x")}, 2025),
    ],
)
def test_the_years_of_the_course_are_told_apart(functions: dict[str, Function], year: int) -> None:
    assert choose(functions, SUBJECTS)[-1].calls[0].year == year


def test_an_adapter_file_is_checked_by_its_adapters_alone() -> None:
    functions = {
        "run_softmax": function("in_features", "dim"),
        "softmax": function("x", "axis"),
        "linear": function("x", "weight"),
        "layernorm": function("x", "weight", "bias", "eps"),
    }
    chosen = [choice.calls[0].function for choice in choose(functions, SUBJECTS)]
    assert chosen == ["run_softmax", "layernorm"]


def test_a_function_that_another_package_defines_is_not_checked() -> None:
    assert choose({"softmax": function("input", "dim", is_own=False)}, SUBJECTS) == []


def test_layers_are_selected_by_parts_of_their_names() -> None:
    choices = choose(
        {"rope": function("x", "positions", "theta"), "softmax": function("x", "axis")}, SUBJECTS
    )
    assert [c.subject.name for c in select(choices, ["rop"])] == ["rope"]
    with pytest.raises(InputError, match="layer attention: the file has softmax, rope"):
        select(choices, ["attention"])


def test_what_a_function_refuses_on_purpose_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "careful.py"
    file.write_text(
        "import numpy as np\n"
        "def swiglu(x, w1, w2, w3):\n"
        "    assert len(w1) % 64 == 0, 'd_ff must be a multiple of 64'\n"
        "    gate = x @ w1.T\n"
        "    return (gate / (1 + np.exp(-gate)) * (x @ w3.T)) @ w2.T\n"
        "def scaled_dot_product_attention(Q, K, V, mask):\n"
        "    scores = np.where(mask, Q @ np.swapaxes(K, -1, -2) / Q.shape[-1] ** 0.5, -1e30)\n"
        "    shares = np.exp(scores - scores.max(-1, keepdims=True)) * (mask.ndim > 1)\n"
        "    return shares / shares.sum(-1, keepdims=True) @ V\n"
    )
    swiglu, attention = run_check(str(file))
    assert (swiglu.status, attention.status) == ("pass", "pass")
    assert any("because it refuses another: AssertionError" in note for note in swiglu.notes)
    assert any(note.startswith("no mask: AttributeError") for note in attention.notes)
