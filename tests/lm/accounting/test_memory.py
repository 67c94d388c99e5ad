"""The memory of a training step, against what the frameworks allocate."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.fast.attention
import torch_impl.fast.attention
from bench.program import compile_step
from lm.accounting import activations
from lm.accounting.activations import ACCOUNTS, Account
from lm.accounting.memory import memory
from lm.accounting.presets import PRESETS
from lm.backend import load
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.flops import parameters
from lm.init import optimizer_shapes
from tests.lm.accounting.cases import FAMILY, random_batch


def torch_peak(config: TrainConfig, folder: Path) -> int:
    """Return the peak bytes of torch's allocator, from the start of a state to the end of a step."""
    import torch

    backend = load("torch", config)
    start = backend.init_state(config, 0)
    weights = {name: w.copy() for name, w in backend.read_weights(start)}
    zeros = {
        n: np.zeros(s, config.param_dtype)
        for n, s in optimizer_shapes(config.model, config.optimizer).items()
    }
    step, batch = backend.make_train_step(config), random_batch(config)
    with warnings.catch_warnings():
        # The profiler warns of clocks and of memory allocated before.
        warnings.simplefilter("ignore")
        with torch.profiler.profile(profile_memory=True) as profiler:
            state = backend.load_state(config, iter(weights.items()), iter(zeros.items()))
            step(state, batch, 1e-3)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    events = sorted((e for e in trace if e["name"] == "[memory]"), key=lambda e: e["ts"])
    return int(np.cumsum([e["args"]["Bytes"] for e in events]).max())


def jax_peak(config: TrainConfig) -> int:
    """Return the bytes that XLA plans for the compiled step: arguments, which the results overwrite, and buffers."""
    backend = load("jax", config)
    step, state, b = backend.make_train_step(config), backend.init_state(config, 0), random_batch(config)
    plan = compile_step(step, state, b).memory_analysis()
    sizes = plan.argument_size_in_bytes, plan.temp_size_in_bytes, plan.output_size_in_bytes
    return int(sum(sizes) - plan.alias_size_in_bytes)


MEMORY_CASES = {
    "weights": TrainConfig(ModelConfig(500, 16, 128, 2, 4), batch_size=1),
    "logits": TrainConfig(ModelConfig(4000, 64, 64, 2, 4), batch_size=8),
    "attention": TrainConfig(ModelConfig(64, 192, 64, 2, 4), batch_size=4),
    "attention in blocks": TrainConfig(ModelConfig(64, 1024, 64, 2, 4), batch_size=4),
    "accumulation": TrainConfig(ModelConfig(300, 64, 64, 2, 4), batch_size=16, grad_accumulation=2),
    **{
        name: TrainConfig(ModelConfig(200, 64, 64, layers, 4, **FAMILY[name]), batch_size=8)
        for name, layers in {"gpt2": 2, "ablated": 2, "grouped": 2, "gemma": 2, "olmo": 3}.items()
    },
    "encoder": TrainConfig(ModelConfig(200, 64, 64, 2, 4, architecture="encoder"), batch_size=8),
    "encoder_decoder": TrainConfig(
        ModelConfig(200, 64, 64, 2, 4, ffn="gelu", architecture="encoder_decoder", prefix_length=96),
        batch_size=8,
    ),
    "Muon and averages": TrainConfig(
        ModelConfig(100, 16, 128, 2, 4), OptimizerConfig(kind="muon", average_decay=0.9), batch_size=1
    ),
    "Muon in bfloat16": TrainConfig(
        ModelConfig(100, 16, 128, 2, 4), OptimizerConfig(kind="muon", muon_dtype="bfloat16"), batch_size=1
    ),
    "bfloat16": TrainConfig(ModelConfig(300, 64, 64, 4, 4), batch_size=8, compute_dtype="bfloat16"),
}


@pytest.mark.parametrize("account_name", ["torch", "jax"])
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_memory_is_what_a_step_takes(
    account_name: Account, case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Within 15%. The cases peak at different moments of the step.

    XLA plans nearly the same buffers with the tests' quick settings, in half the time: one case has its defaults.
    """
    if case == "gemma":
        request.getfixturevalue("usual_fusion")
    config = MEMORY_CASES[case]
    measured = torch_peak(config, tmp_path) if account_name == "torch" else jax_peak(config)
    estimate = memory(config, account_name).peak(config.batch_size // config.grad_accumulation)
    assert estimate == pytest.approx(measured, rel=0.15)


@given(
    available=st.integers(1, 10**12),
    account_name=st.sampled_from(ACCOUNTS),
    model=st.sampled_from(["gpt2-small", "gpt2-xl", "owt"]),
)
def test_the_largest_batch_fits_and_one_more_does_not(
    available: int, account_name: Account, model: str
) -> None:
    account = memory(PRESETS[model], account_name)
    sequences = account.largest_batch(available)
    assert account.peak(sequences + 1) > available
    assert sequences == 0 or account.peak(sequences) <= available


def test_the_courses_formula_of_memory() -> None:
    """layers (16 T D + 2 H T^2) + T D + 2 T V activations per sequence, if d_ff is 4 d_model."""
    m = PRESETS["gpt2-xl"].model
    T, D, H, V = m.context_length, m.d_model, m.num_heads, m.vocab_size
    line = memory(PRESETS["gpt2-xl"], "course").line
    assert line.per_sequence == 4 * (m.num_layers * (16 * T * D + 2 * H * T * T) + T * D + 2 * T * V)
    assert line.fixed == 16 * sum(parameters(m).values())


def test_remat_keeps_the_inputs_of_blocks() -> None:
    plain = TrainConfig(ModelConfig(100, 64, 32, 8, 2))
    config = replace(plain, model=replace(plain.model, remat="block"))
    for name in ("torch", "jax"):
        kept = memory(config, name).activations
        assert kept["block inputs"] == 8 * 64 * 32 * 4
        assert memory(config, name).peak(16) < memory(plain, name).peak(16) / 3


def test_the_block_sizes_of_attention_are_those_of_the_backends() -> None:
    """lm imports no backend, so it has numbers of its own."""
    torch, jax = torch_impl.fast.attention, jax_impl.fast.attention
    assert (activations.TORCH_QUERIES, activations.TORCH_KEYS) == (torch.QUERIES, torch.KEYS)
    assert activations.TORCH_SCORES == torch_impl.fast.blocks.ROWS_BLOCK
    assert (activations.JAX_QUERIES, activations.JAX_KEYS) == (jax.QUERIES, jax.KEYS)
