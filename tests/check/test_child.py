"""The process of the file under check: what fails there is told, and the rest of the file is checked."""

import io
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from lm.budgets import Dtype
from parity.check.answer import Verdict
from parity.check.child import wire
from parity.check.process import Child, Limits
from parity.check.run import NAMES, run_check
from parity.check.table import SUBJECTS
from parity.check.text import lines
from tokenizer.errors import InputError

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def odd() -> dict[str, Verdict]:
    verdicts = run_check(str(FILES / "odd.py"), limits=Limits(seconds=3, memory=150 << 20))
    return {verdict.function: verdict for verdict in verdicts}


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("softmax", "ended with exit code 3: last words"),
        ("silu", "no result after 3 s"),
        ("gelu", "used more than 0.146 GiB"),
        ("gelu_tanh", "SystemExit: leaving (tests/check/files/odd.py"),
        ("cross_entropy", "returned a str, not one array"),
        ("linear", "returns the shape (1, 2, 3, 5), not (2, 3, 5)"),
        ("embedding", "returned a tuple of 2"),
        ("rmsnorm", "changes x in place"),
        ("layernorm", "48 of 48 numbers are NaN"),
        ("swiglu", "two calls with equal inputs differ"),
        ("rope", "ValueError: this one always fails"),
        ("scaled_dot_product_attention", "is a return missing?"),
        ("multihead_self_attention", "lm check calls multihead_self_attention(x, q_proj"),
        ("transformer_block", "RecursionError"),
    ],
)
def test_each_failure_is_told(odd: dict[str, Verdict], function: str, told: str) -> None:
    assert odd[function].status == "off"
    assert told in " ".join(" ".join(lines(odd[function])).split())


def test_a_function_that_is_not_written_is_not_off(odd: dict[str, Verdict]) -> None:
    assert odd["feed_forward"].status == "not written"


def test_after_all_failures_a_right_function_passes(odd: dict[str, Verdict]) -> None:
    assert odd["cosine_schedule"].status == "pass"


def test_a_child_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    file = tmp_path / "hangs.py"
    file.write_text("import time\ndef softmax(x, axis):\n    time.sleep(1000)\ndef silu(x):\n    return x\n")
    softmax, silu = SUBJECTS[:2]
    with Child(str(file), NAMES, limits=Limits(seconds=0.2)) as child:
        assert child.functions.keys() == {"softmax", "silu"}
        first = child.process_id
        hanging = child.call(softmax.calls[1], softmax.given(softmax.cases[0]), {"x": "float64"})
        assert hanging.failure
        assert hanging.failure.kind == "time"
        assert not psutil.pid_exists(first or 0)
        given = silu.given(silu.cases[0])
        np.testing.assert_array_equal(
            child.call(silu.calls[1], given, {"x": "float64"}).output, given.arrays["x"]
        )
        second = child.process_id
    assert not psutil.pid_exists(second or 0)
    assert child.process_id is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_like_this.x as y\ndef f(): pass", "no function that lm check knows"),
        ("import numpy.no_such_part", "ModuleNotFoundError: No module named 'numpy.no_such_part'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def softmax(:", "SyntaxError"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("import os\nos._exit(1)", "exit code 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "wrong-name.py"
    file.write_text(text)
    with pytest.raises(InputError, match=told.split(":")[0]) as error:
        run_check(str(file))
    assert told in str(error.value)


def test_a_missing_python_is_refused() -> None:
    with pytest.raises(InputError, match="name a Python with --python"):
        run_check(str(FILES / "numpy_port.py"), python="no/such/python")


def test_a_python_without_numpy_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(InputError, match="this Python has no NumPy; install it"):
        run_check(str(FILES / "numpy_port.py"), python=str(bare))


def test_messages_keep_arrays_and_headers() -> None:
    stream = io.BytesIO()
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(True), "c": np.zeros((0, 2), np.int64)}
    wire.write(stream, {"x": ["é", 1.5, None]}, arrays)
    stream.seek(0)
    message = wire.read(stream)
    assert message is not None
    header, found = message
    assert header == {"x": ["é", 1.5, None]}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert wire.read(stream) is None


def test_a_module_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").mkdir()
    (tmp_path / "port" / "__init__.py").write_text("from .parts import softmax\n")
    (tmp_path / "port" / "parts.py").write_text((FILES / "numpy_port.py").read_text())
    monkeypatch.chdir(tmp_path)
    dtype: Dtype = "float64"
    assert [(v.function, v.status) for v in run_check("port", dtype=dtype)] == [("softmax", "pass")]
