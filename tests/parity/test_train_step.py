"""Tests of what surrounds the model in a process: compilation, memory, ids, threads, defaults."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_impl.fast import few_lengths, few_rows
from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.documents import document_starts
from lm.data.windows import get_batch
from tests.source import ROOT
from tokenizer import InputError

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
MODEL = ModelConfig(vocab_size=13, context_length=6, d_model=8, num_layers=1, num_heads=2, d_ff=12)
CONFIG = TrainConfig(MODEL, batch_size=4)
TOKENS = np.random.default_rng(0).integers(0, 13, 300).astype(np.uint16)


def batch(step: int = 0) -> Batch:
    """Return the batch of a step."""
    return get_batch(TOKENS, 0, step, 4, 6)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Count the programs that XLA compiles inside this context."""
    names: list[str] = []
    listening = True

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if listening and event.endswith("backend_compile_duration"):
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    listening = False  # JAX offers no way to take one listener back.


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_second_step_compiles_nothing(dtype: Any) -> None:
    """Neither a new batch, with documents of other lengths, nor a new learning rate may compile the step again."""
    config = TrainConfig(MODEL, batch_size=4, compute_dtype=dtype, documents="packed", end_token=3)

    def batch(step: int) -> Batch:
        windows = get_batch(TOKENS, 0, step, 4, 6)
        return dataclasses.replace(windows, starts=document_starts(windows.inputs, config))

    backend = load("jax", config)
    step, state = backend.make_train_step(config), backend.init_state(config, 0)
    with compilations() as first:
        state, metrics = step(state, batch(0), 1e-3)
        float(metrics["loss"])
    with compilations() as later:
        for t in range(1, 4):
            state, metrics = step(state, batch(t), 1e-3 / t)
            float(metrics["loss"])
    assert first
    assert not later


def test_a_second_token_compiles_nothing() -> None:
    """Its layers have rings of different lengths."""
    model = dataclasses.replace(MODEL, num_layers=2, sliding_window=3, layer_types=("sliding", "full"))
    config = TrainConfig(model)
    backend = load("jax", config)
    state, decode = backend.init_state(config, 0), backend.make_decode_step(config)
    _, cache = backend.make_prefill(config)(state, np.zeros((2, 3), int), np.array([3, 3]))
    _, cache = decode(state, cache, np.array([1, 2]), np.array([3, 3]))
    with compilations() as later:
        _, cache = decode(state, cache, np.array([2, 1]), np.array([4, 4]))
    assert not later


def test_sixty_lengths_compile_at_most_eight_programs() -> None:
    config = TrainConfig(dataclasses.replace(MODEL, context_length=700))
    backend = load("jax", config)
    state, logits = backend.init_state(config, 0), backend.make_logits(config)
    with compilations() as compiled:
        for T in range(1, 700, 12):
            assert logits(state, np.zeros((1, T), int)).shape == (1, T, 13)
    assert 0 < len(compiled) <= 8


def test_shapes_are_few_and_fit() -> None:
    for longest in (1, 6, 15, 16, 17, 100, 128, 2048, 2049, 5000, 131_072):
        lengths = {T: few_lengths(T, longest) for T in {*range(1, min(longest, 3000) + 1), longest}}
        assert all(T <= length <= longest for T, length in lengths.items())
        assert len(set(lengths.values())) <= 8
    rows = {B: few_rows(B) for B in range(1, 300)}
    assert all(B <= size <= 2 * B for B, size in rows.items())
    assert len({rows[B] for B in range(1, 65)}) == 7


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "none"])
def test_what_pads_changes_no_bit(position: Any) -> None:
    """Later tokens and other rows may be anything."""
    model = dataclasses.replace(MODEL, context_length=16, position=position)
    config, ids = TrainConfig(model), np.random.default_rng(1).integers(0, 13, (2, 4, 16))
    backend = load("jax", config)
    state, logits = backend.init_state(config, 0), backend.make_logits(config)
    ids[1, :3, :5] = ids[0, :3, :5]
    few = logits(state, ids[0, :3, :5])
    for same in (logits(state, ids[1]), logits(state, ids[1, :3, :9])):
        np.testing.assert_array_equal(same[:3, :5], few)


def test_counts_of_prompts_share_programs() -> None:
    backend = load("jax", CONFIG)
    state, prefill = backend.init_state(CONFIG, 0), backend.make_prefill(CONFIG)
    decode = backend.make_decode_step(CONFIG)

    def run(B: int) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = TOKENS[: 6 * B].reshape(B, 6).astype(int), 1 + np.arange(B) % 5
        first, cache = prefill(state, ids, lengths)
        second, _ = decode(state, cache, ids[:, 0], lengths)
        assert len(first) == len(second) == B
        return first, second

    of_eight = run(8)
    with compilations() as later:
        for B in (5, 6, 7):
            for some, all_rows in zip(run(B), of_eight, strict=True):
                np.testing.assert_array_equal(some, all_rows[:B])
    assert not later


def leaves(backend: Any, state: Any) -> list[np.ndarray]:
    """Return copies of all weights."""
    return [array.copy() for _, array in backend.read_weights(state)]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_state_does_not_share_memory_with_what_it_was_loaded_from(name: BackendName) -> None:
    backend = load(name, CONFIG)
    weights = {key: array.copy() for key, array in backend.read_weights(backend.init_state(CONFIG, 0))}
    moments = {key: array.copy() for key, array in backend.read_optimizer(backend.init_state(CONFIG, 0))}
    state = backend.load_state(CONFIG, weights.items(), moments.items())
    before = leaves(backend, state)
    for array in [*weights.values(), *moments.values()]:
        array.fill(7)
    for a, b in zip(leaves(backend, state), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(not array.any() for _, array in backend.read_optimizer(state))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_step_that_has_returned_no_longer_reads_its_batch(name: BackendName) -> None:
    """JAX may return before it has computed: a batch that the caller overwrites must not change that step."""
    backend = load(name, CONFIG)
    results = []
    for overwrite in (False, True):
        step, state = backend.make_train_step(CONFIG), backend.init_state(CONFIG, 0)
        given = Batch(batch().inputs.copy(), batch().targets.copy())
        state, _ = step(state, given, 1e-2)
        if overwrite:
            given.inputs.fill(0)
            given.targets.fill(0)
        results.append(leaves(backend, state))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [-1, 13, 2**31 + 1, 2**32, -(2**33)])
@pytest.mark.parametrize("name", BACKENDS)
def test_ids_out_of_range_are_refused_by_every_step(name: BackendName, bad: int) -> None:
    """2^32 would be id 0 after JAX's cast to int32, 13 the last row after XLA's clamp, and -1 torch's last."""
    backend = load(name, CONFIG)
    state, good = backend.init_state(CONFIG, 0), np.zeros((1, 2, 6), np.int64)
    wrong = good.copy()
    wrong[0, 1, 3] = bad
    for given in (Batch(wrong, good), Batch(good, wrong)):
        for make in (backend.make_train_step, backend.make_eval_step):
            with pytest.raises(InputError, match="outside 0"):
                make(CONFIG)(state, given, *([1e-3] if make == backend.make_train_step else []))
    with pytest.raises(InputError, match="outside 0"):
        backend.make_prefill(CONFIG)(state, wrong[0], np.array([6, 6]))
    _, cache = backend.make_prefill(CONFIG)(state, good[0], np.array([3, 3]))
    with pytest.raises(InputError, match="outside 0"):
        backend.make_decode_step(CONFIG)(state, cache, np.array([0, bad]), np.array([3, 3]))


def test_float32_means_float32() -> None:
    """On accelerators XLA may multiply float32 in three bfloat16 passes, or in TF32, unless it is told not to."""
    for name in BACKENDS:
        load(name, CONFIG)
    assert jax.config.values["jax_default_matmul_precision"] == "highest"
    assert torch.get_float32_matmul_precision() == "highest"
    text = str(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))))
    assert "HIGHEST" in text


def test_steps_on_a_cpu_wait_for_each_other() -> None:
    """Otherwise JAX allocates a step's temporary memory before the last step's is freed, and needs twice as much."""
    load("jax", CONFIG)
    assert jax.config.values["jax_cpu_enable_async_dispatch"] is False


def test_float64_without_x64_is_refused() -> None:
    config = TrainConfig(MODEL, batch_size=4, compute_dtype="float64")
    backend = load("jax", config)
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(InputError, match="x64"):
            backend.init_state(config, 0)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_the_tests_run_jax_at_its_strictest() -> None:
    assert jnp.zeros(1, float).dtype == np.float64
    with pytest.raises(ValueError, match="promotion"):
        jnp.zeros(1, np.int32) + jnp.zeros(1, np.int64)
    with pytest.raises(ValueError, match="rank"):
        jnp.zeros((2, 1)) + jnp.zeros(1)


STEP = """
import sys
import {first}, {second}
import numpy as np
from lm.backend import load
from lm.config import ModelConfig, TrainConfig
from lm.data.windows import get_batch
config = TrainConfig(ModelConfig(13, 6, 8, 1, 2, 12), batch_size=4)
for name in ("torch", "jax"):
    backend = load(name, config)
    state = backend.init_state(config, 0)
    step = backend.make_train_step(config)
    for t in range(3):
        state, _ = step(state, get_batch(np.arange(300) % 13, 0, t, 4, 6), 1e-2)
    sys.stdout.buffer.write(b"".join(a.tobytes() for _, a in backend.read_weights(state)))
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""


def test_import_order_and_threads_change_no_bit() -> None:
    """Both frameworks run in one process, with either imported first, and with one thread or two each.

    No step loads torch's compiler, which would take seconds of every start.
    """
    processes = []
    for first, second, threads in (("torch", "jax", "1"), ("jax", "torch", "2")):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "NPROC": threads}
        program = STEP.format(first=first, second=second)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE
            )
        )
    (one, _), (two, _) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(one) > 1000
    assert one == two


def test_nothing_forks_a_process_that_holds_a_framework() -> None:
    """A forked child inherits locks of threads that it does not have, and may wait for ever."""
    for package in ("tokenizer", "lm", "torch_impl", "jax_impl"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "os.fork" not in text, file
            assert 'get_context("fork")' not in text, file
