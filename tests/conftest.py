"""Settings that all tests share."""

import atexit
import gc
import inspect
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from beartype import beartype
from hypothesis import HealthCheck, Phase, settings

# Small arrays gain nothing from a second thread, and threads that wait by spinning cost the tests beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of tests that give their processes several threads
os.environ.setdefault("NPROC", "1")  # what XLA reads
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # of the few tests that take more

# The same small models are trained again and again: what one test has compiled serves the others.
_CACHE = tempfile.TemporaryDirectory(prefix="twinlm-jax-", ignore_cleanup_errors=True)
atexit.register(_CACHE.cleanup)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ["XDG_CACHE_HOME"] = _CACHE.name  # nothing is kept for the user
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Nearly all the time of the tests of JAX goes into compiling programs that run once. Without LLVM's optimizations and
# without kernels that fuse loops, XLA compiles a model in a sixth of the time. `usual_xla` gives a test XLA's defaults;
# all tests have them after: XLA_FLAGS= python -m pytest
USUAL_FUSION: dict[str, int | bool] = {}
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later versions know no other kernels
    USUAL_FUSION["xla_cpu_use_fusion_emitters"] = True
USUAL_XLA = USUAL_FUSION | {"xla_backend_optimization_level": 3, "xla_cpu_parallel_codegen_split_count": 32}
"""XLA's defaults, as compiler options."""
_QUICK_XLA = dict.fromkeys(USUAL_FUSION, False) | {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
}
os.environ.setdefault(
    "XLA_FLAGS", " ".join(f"--{name}={str(value).lower()}" for name, value in _QUICK_XLA.items())
)

# JAX at its strictest: nothing broadcasts or changes its type unasked. By environment, so that whoever imports
# JAX first, this process or one that a test starts, finds it so.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

# `fast` gives the same examples on every run, so that a test that passed yesterday passes today; `thorough`
# draws new ones and fifty times as many: LM_HYPOTHESIS=thorough python -m pytest
settings.register_profile(
    "fast", max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "thorough", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# A seeded fault is caught by any failing example; the smallest is not looked for.
settings.register_profile(
    "faults",
    settings.get_profile("fast"),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("LM_HYPOTHESIS", "fast"))

# A shell ignores Ctrl-C for what it starts in the background. The processes of these tests must not inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The frameworks' modules are a million objects, and programs being traced are thousands of short-lived ones. With
# Python's thresholds, looking for cycles among them takes a tenth of the tests' time.
gc.set_threshold(50_000, 20, 10)


def pytest_collection_finish() -> None:
    """Keep what has been imported out of every search for cycles."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file() -> Iterator[None]:
    """Forget the compiled programs of a file of tests.

    JAX keeps every program: 1.4 MB and nine mappings of memory each. After 2,000 small ones the next takes four times
    as long to lower, and nearly twice as long to compile.
    """
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


_CHECKED: dict[object, Callable[..., Any]] = {}


def checked(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function without a body, with beartype's checks of its arguments and of its result.

    jaxtyping asks for the checks of a nested function each time that the function is defined, which took a tenth
    of the tests' time. It passes a function with the annotations and no body: equal ones have equal checks.
    """
    annotations = tuple(signature.__annotations__.items())
    key = signature.__module__, signature.__qualname__, signature.__code__, annotations
    if key not in _CHECKED:
        _CHECKED[key] = beartype(signature)
    return _CHECKED[key]


# These tests call all functions with shapes, and check the shapes of every call. The other tests make the same calls
# in whole runs, thousands of times over, where the checks take a tenth to a third of the time.
CHECKED_SHAPES = (
    *("tests/parity", "tests/test_adapters", "tests/test_checked"),
    *("tests/lm/data", "tests/lm/text", "tests/lm/test_init", "tests/lm/test_rng", "tests/lm/test_sequences"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes if the test, and what it sets up, is one of functions."""
    jaxtyping.config.update("jaxtyping_disable", not item.nodeid.startswith(CHECKED_SHAPES))


# Modules that import what only Unix has, and what tests name that other systems lack.
collect_ignore = ["lm/run/test_alone.py", "lm/test_allocator.py"] if sys.platform == "win32" else []
_LACKING = {
    "linux": None,
    "win32": r"SIG[A-Z]{3,}|mkfifo|symlink_to|chmod|/proc/|/dev/|torture|\"mount\"",
}.get(sys.platform, r"/proc/")


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Leave out the tests of what the system at hand does not have; Linux has all of it."""
    if _LACKING is None:
        return
    for item in items:
        if isinstance(item, pytest.Function) and re.search(_LACKING, inspect.getsource(item.function)):
            item.add_marker(pytest.mark.skip(reason=f"{sys.platform} lacks what this test is about"))


@pytest.fixture
def usual_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have XLA compile the backend's steps as it does for users."""
    monkeypatch.setattr("jax_impl.sharding.same_bits", lambda config: USUAL_XLA)


@pytest.fixture
def usual_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have XLA fuse and place the buffers of the backend's steps as it does for users; LLVM changes neither."""
    monkeypatch.setattr("jax_impl.sharding.same_bits", lambda config: USUAL_FUSION)


@pytest.fixture
def unchecked_shapes() -> None:
    """Check no shapes in a test of hundreds of steps: the checks take as long as a tiny model's step."""
    jaxtyping.config.update("jaxtyping_disable", True)  # until the next test is set up


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real texts and GPT-2's files; without it the few tests that need it step aside."""
    folder = os.environ.get("LM_TEST_DATA")
    if not folder:
        pytest.skip(
            "set LM_TEST_DATA to a folder with gpt2/{vocab.json,merges.txt}, corpora/tinyshakespeare.txt"
        )
    return Path(folder).resolve()
