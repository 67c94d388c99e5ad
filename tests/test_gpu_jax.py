"""What XLA is given for a GPU: JAX's steps are lowered for CUDA, and a training step reads nothing on the host."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from jax import export

from jax_impl import backend
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from parity.family import Options

MODEL = ModelConfig(20, 12, d_model=8, num_layers=2, num_heads=2, d_ff=16)
CONFIG = TrainConfig(MODEL, batch_size=2)
OPTIONS: list[Options] = [
    {},
    {"compute_dtype": "bfloat16", "grad_accumulation": 2},
    {"optimizer": OptimizerConfig(kind="muon", muon_dtype="bfloat16", average_decay=0.9)},
    {"model": replace(MODEL, context_length=600, remat="block", residual_dropout=0.1, tie_embeddings=True)},
    {"fast": False, "optimizer": OptimizerConfig(adamw="torch")},
]


def label(options: Options) -> str:
    return " ".join(options) or "default"


def batch(config: TrainConfig, step: int = 0) -> Batch:
    A, T = config.grad_accumulation, config.model.context_length
    ids = np.random.default_rng(step).integers(0, 20, (A, config.batch_size // A, T + 1)).astype(np.int32)
    return Batch(ids[..., :-1].copy(), ids[..., 1:].copy())


def lowered_for_cuda(step: Callable[..., Any], *arguments: Any) -> str:
    """Return the program that a step's jitted function gives XLA for CUDA, without JAX's 64-bit mode."""
    found = inspect.getclosurevars(inspect.unwrap(step))
    jitted = found.nonlocals["jitted"]
    return str(export.export(jitted, platforms=("cuda",))(*arguments).mlir_module())


@pytest.fixture
def usual_types() -> Any:
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_the_steps_are_lowered_for_cuda_without_float64(usual_types: None, options: Options) -> None:
    # The device is this CPU; what is lowered is for CUDA.
    config = replace(CONFIG, **options)
    state, given = backend.init_state(config, 0), batch(config)
    arrays = backend.micro_batches(given, config)
    one = np.float32(1)
    programs = [lowered_for_cuda(backend.make_train_step(config), state, arrays, one, one)]
    micro = jax.tree.map(lambda x: x[0], arrays)
    programs.append(lowered_for_cuda(backend.make_eval_step(config), state.params, *micro))
    for program in programs:
        assert "dot_general" in program
        assert "f64" not in program
        assert ("bf16" in program) == (
            config.compute_dtype == "bfloat16" or (config.optimizer.kind == "muon" and program is programs[0])
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_decode_step_is_lowered_for_cuda_without_float64(
    usual_types: None, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    config = replace(CONFIG, compute_dtype=dtype)
    state, decode = backend.init_state(config, 0), backend.make_decode_step(config)
    ids, lengths = np.zeros((2, 3), np.int32), np.array([3, 3], np.int32)
    _, cache = backend.make_prefill(config)(state, ids, lengths)
    programs: list[str] = []
    found = inspect.getclosurevars(inspect.unwrap(decode)).nonlocals
    jitted = found["jitted"]

    def keep(*arguments: Any) -> Any:
        programs.append(str(export.export(jitted, platforms=("cuda",))(*arguments).mlir_module()))
        return jitted(*arguments)

    cell = next(c for c in inspect.unwrap(decode).__closure__ or () if c.cell_contents is jitted)
    monkeypatch.setattr(cell, "cell_contents", keep)
    decode(state, cache, ids[:, 0], lengths)
    (program,) = programs
    assert "dot_general" in program
    assert "f64" not in program
    assert ("bf16" in program) == (dtype == "bfloat16")


@contextmanager
def reads() -> Iterator[list[str]]:
    """Record the arrays whose numbers the host reads inside this context."""
    found: list[str] = []
    array: Any = type(jax.numpy.zeros(1))
    value = array._value

    def read(self: Any) -> Any:
        found.append(str(self.aval))
        return value.fget(self)

    with mock.patch.object(array, "_value", property(read)):
        yield found


@pytest.mark.parametrize("options", OPTIONS[:3], ids=label)
def test_a_training_step_reads_nothing_and_gives_its_state_away(options: Options) -> None:
    config = replace(CONFIG, **options)
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    state, _ = step(state, batch(config), 1e-3)
    before = jax.tree.leaves(state.params)
    # On a CPU, JAX reads an array in place and no guard notices: count the reads.
    with reads() as found:
        state, metrics = step(state, batch(config, 1), 1e-3)
        assert found == []
        float(metrics["loss"])
    assert found
    assert all(leaf.is_deleted() for leaf in before)
