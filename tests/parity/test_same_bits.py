"""A repeated command gives the same bits, on several threads too, and so does a resumed run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch

from jax_impl.sharding import same_bits
from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from parity.family import Options
from tests.parity.support import THOROUGH
from tests.parity.test_family import each_value
from tests.source import ROOT
from torch_impl.backend import sum_losses

# With fewer elements torch's kernels stay on one thread, whatever it is allowed.
MODEL = ModelConfig(vocab_size=512, context_length=64, d_model=64, num_layers=1, num_heads=4)


PAIRS: Options = {"architecture": "encoder_decoder", "prefix_length": 64}
CONFIGS = [
    TrainConfig(MODEL, batch_size=32, grad_accumulation=2),
    *(TrainConfig(replace(MODEL, **options), batch_size=16) for options in each_value()),
    TrainConfig(replace(MODEL, architecture="encoder"), batch_size=16),
    TrainConfig(replace(MODEL, **PAIRS, remat="block"), batch_size=16, compute_dtype="bfloat16"),
    TrainConfig(MODEL, batch_size=16, compute_dtype="float64"),
]


def label(config: TrainConfig) -> str:
    """Return what differs from the default."""
    given = (
        vars(replace(config.model, architecture="decoder", prefix_length=None)).items() - vars(MODEL).items()
    )
    return " ".join(
        [f"{name}={value}" for name, value in sorted(given)]
        + [config.model.architecture, config.compute_dtype]
    )


def batches(config: TrainConfig, count: int) -> list[Batch]:
    """Draw tokens as in a text: few ids are frequent, so that many gradients are added in their rows."""
    m, rng = config.model, np.random.default_rng(0)
    shape = config.grad_accumulation, config.batch_size // config.grad_accumulation, m.context_length
    made = []
    for _ in range(count):
        ids = np.minimum(3 * rng.pareto(1.0, (*shape, 2)), m.vocab_size - 1).astype(np.int32)
        tokens = None if m.architecture == "decoder" else rng.integers(1, 64, shape[:2]).astype(np.int32)
        prefix = ids[..., 1] if m.architecture == "encoder_decoder" else None
        made.append(Batch(ids[..., 0], ids[..., 1], None, tokens, prefix))
    return made


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Give torch two threads: with one, as in other tests, the bits are the same anyway."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def leaves(backend: Any, state: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return copies of weights and moments."""
    weights, moments = (
        {name: leaf.copy() for name, leaf in read(state)}
        for read in (backend.read_weights, backend.read_optimizer)
    )
    return weights, moments


def bits(arrays: tuple[dict[str, np.ndarray], ...]) -> dict[str, bytes]:
    """Return the bytes of the leaves by name."""
    return {name: array.tobytes() for some in arrays for name, array in some.items()}


def trained(backend: Any, step: Any, config: TrainConfig, resumes: bool) -> dict[str, bytes]:
    """Return the leaves after two steps, with or without a checkpoint from which the second step resumes."""
    state = backend.init_state(config, 0)
    for i, batch in enumerate(batches(config, 2)):
        if resumes and i == 1:
            weights, moments = leaves(backend, state)
            state = backend.load_state(config, weights.items(), moments.items())
        state, _ = step(state, batch, 1e-3)
    return bits(leaves(backend, state))


def differing(name: BackendName, config: TrainConfig) -> list[str]:
    """Return the leaves that differ if a run is repeated, and if it is stopped and resumed."""
    backend = load(name, config)
    step = backend.make_train_step(config)
    whole, *again = (trained(backend, step, config, resumes) for resumes in (False, False, True))
    return [key for key in whole if any(other[key] != whole[key] for other in again)]


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_the_same_steps_end_in_the_same_bits(config: TrainConfig, two_threads: None) -> None:
    assert differing("torch", config) == []


IN_JAX = """
from tests.parity.test_same_bits import CONFIGS, differing
for i in {numbers!r}:
    print(differing("jax", CONFIGS[i]))
"""


def test_jax_steps_end_in_the_same_bits() -> None:
    """In a process of its own XLA has its defaults: as many threads as processors, and all optimizations."""
    numbers = range(len(CONFIGS)) if THOROUGH else [2, -2]
    program = IN_JAX.format(numbers=list(numbers))
    ours = ("OMP_NUM_THREADS", "NPROC", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]"] * len(numbers)


def test_xla_accepts_the_options_for_a_gpu() -> None:
    options = same_bits(TrainConfig(MODEL, device="cuda:1"))
    assert options
    assert jax.jit(lambda x: x + x, compiler_options=options)(1.0) == 2.0
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + x, compiler_options={f"{name}_": True for name in options})(1.0)


def torch_settings() -> tuple[int, bool]:
    settings: Any = torch.utils.deterministic
    return torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory


def test_a_step_takes_deterministic_algorithms_and_leaves_torch_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process may belong to another program, which uses algorithms that are not deterministic."""
    inside = []

    def watched(*args: Any) -> torch.Tensor:
        inside.append(torch_settings())
        return sum_losses(*args)

    monkeypatch.setattr("torch_impl.backend.sum_losses", watched)
    config = TrainConfig(replace(MODEL, d_model=8), batch_size=2)
    found = torch_settings()
    backend = load("torch", config)
    trained(backend, backend.make_train_step(config), config, resumes=False)
    assert set(inside) == {(2, False)}
    assert found == torch_settings() == (0, True)
