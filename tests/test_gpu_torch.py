"""What torch does only on a GPU, run on a device that says it is one (`tests.pretend_gpu`)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.contenders import SIZES
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.documents import document_starts
from lm.init import parameter_shapes
from parity.family import Options
from tests.pretend_gpu import Gpu, pretend_gpu
from torch_impl import backend, fast
from torch_impl.fast import attention, masks, packing
from torch_impl.fast.transfer import on_host, send
from torch_impl.functional import clip_gradients

MODEL = ModelConfig(20, 130, d_model=8, num_layers=2, num_heads=2, d_ff=16, bias=True)
CONFIG = TrainConfig(MODEL, OptimizerConfig(learning_rate=1e-2), batch_size=2)
STEPS = 2
PACKED: Options = {"documents": "packed", "end_token": 3}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    monkeypatch.setattr(masks, "_masks", {})
    monkeypatch.setattr(attention, "BLOCK_GPU", (128, 128))  # several blocks
    with pretend_gpu() as gpu:
        yield gpu


def on_gpu(config: TrainConfig) -> TrainConfig:
    return replace(config, device="cuda:0")


def batch(config: TrainConfig, step: int) -> Batch:
    """Draw a step's batch, with what the architecture and packed documents need."""
    m, rng = config.model, np.random.default_rng(step)
    A = config.grad_accumulation
    shape = A, config.batch_size // A, m.context_length
    ids = rng.integers(0, m.vocab_size, (*shape[:2], shape[2] + 1)).astype(np.int32)
    return Batch(
        ids[..., :-1].copy(),
        ids[..., 1:].copy(),
        None if m.architecture == "decoder" else rng.random(shape) < 0.5,
        None if m.architecture == "decoder" else rng.integers(1, 9, shape[:2]).astype(np.int32),
        rng.integers(0, 9, (*shape[:2], 8)).astype(np.int32) if m.architecture == "encoder_decoder" else None,
        document_starts(ids[..., :-1], config),
    )


def trained(
    config: TrainConfig, gpu: Gpu | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], Any]:
    """Return the metrics of some steps, the leaves after them, and the state. Count what the steps read."""
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    metrics = []
    if gpu:
        gpu.reads.clear()
        gpu.waits.clear()
        gpu.types.clear()
    for i in range(STEPS):
        state, of_step = step(state, batch(config, i), 1e-2)
        metrics.append(of_step)
    counted = (gpu.reads[:], gpu.waits[:]) if gpu else ([], [])
    leaves = {name: x.copy() for name, x in (*backend.read_weights(state), *backend.read_optimizer(state))}
    if gpu:
        gpu.reads, gpu.waits = counted
    return metrics, leaves, state


OF_A_DECODER: list[Options] = [
    {},
    {"compute_dtype": "bfloat16"},
    {"grad_accumulation": 2},
    {"optimizer": OptimizerConfig(learning_rate=1e-2, kind="muon")},
    {"optimizer": OptimizerConfig(learning_rate=1e-2, adamw="torch", average_decay=0.9)},
    {"model": replace(MODEL, remat="block", attention_dropout=0.1, residual_dropout=0.1)},
    {"model": replace(MODEL, sliding_window=9, layer_types=("sliding", "full"), score_softcap=5.0)},
    {"fast": False},
]
WITH_MASKS: list[Options] = [
    {"model": replace(MODEL, sliding_window=9, layer_types=("sliding", "full"))} | PACKED,
    {"model": replace(MODEL, architecture="encoder")},
    {"model": replace(MODEL, architecture="encoder_decoder", prefix_length=8)},
]
"""Their masks depend on the batch."""


def label(options: Options) -> str:
    """Return what the options set, and the architecture."""
    return " ".join((*options, getattr(options.get("model"), "architecture", "decoder")))


@pytest.mark.parametrize(
    "options",
    [
        *OF_A_DECODER,
        *WITH_MASKS,
        *({**o, "compute_dtype": "bfloat16", "grad_accumulation": 2} for o in WITH_MASKS),
    ],
    ids=label,
)
def test_a_step_reads_the_gpu_once_and_is_the_step_of_the_cpu(gpu: Gpu, options: Options) -> None:
    """The loss and the norm are read together. No other read and no copy makes the host wait, in the first step too.

    Packed weights and large blocks change the order of a norm's sum and of attention's, and nothing else.
    """
    config = replace(CONFIG, **options)
    _, of_gpu, _ = trained(on_gpu(config), gpu)
    assert gpu.reads == ["aten._to_copy.default"] * STEPS
    assert gpu.waits == []
    assert torch.float64 not in gpu.types
    if config.compute_dtype == "float32":  # bfloat16 would need wider tolerances
        metrics, of_cpu, _ = trained(config)
        assert metrics[-1]["finite"]
        assert of_gpu.keys() == of_cpu.keys()
        for name, x in of_gpu.items():
            np.testing.assert_allclose(x, of_cpu[name], rtol=2e-4, atol=2e-6, err_msg=name)


def test_all_products_of_a_bfloat16_step_multiply_bfloat16(gpu: Gpu) -> None:
    """Tensor cores multiply float32 at a fifteenth of the rate."""
    config = on_gpu(replace(CONFIG, compute_dtype="bfloat16", model=replace(MODEL, score_softcap=5.0)))
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    step(state, batch(config, 0), 1e-2)
    assert gpu.factors == {torch.bfloat16}


@pytest.mark.parametrize("options", [{}, *WITH_MASKS], ids=label)
def test_an_evaluation_reads_two_sums_of_each_micro_batch(gpu: Gpu, options: Options) -> None:
    config = on_gpu(replace(CONFIG, grad_accumulation=2, **options))
    state, evaluate = backend.init_state(config, 0), backend.make_eval_step(config)
    gpu.reads.clear()
    gpu.waits.clear()
    evaluate(state, batch(config, 0))
    assert len(gpu.reads) == 4
    assert gpu.waits == []


def test_a_prompt_and_a_decode_step_read_their_logits(gpu: Gpu) -> None:
    """The host makes the next token of them."""
    config = on_gpu(CONFIG)
    state, prefill = backend.init_state(config, 0), backend.make_prefill(config)
    gpu.reads.clear()
    gpu.waits.clear()
    ids, lengths = np.zeros((2, 3), np.int32), np.array([2, 3])
    _, cache = prefill(state, ids, lengths)
    assert gpu.reads == ["aten._to_copy.default"]
    backend.make_decode_step(config)(state, cache, ids[:, 0], lengths)
    assert gpu.reads == ["aten._to_copy.default"] * 2
    assert gpu.waits == []


def test_what_was_sent_is_not_read_again(gpu: Gpu) -> None:
    numbers = torch.arange(6).reshape(2, 3).T
    there = send(numbers, "cuda:0")
    assert torch.equal(on_host(there), numbers)
    assert gpu.reads == []
    assert torch.equal(on_host(there + 1), numbers + 1)
    assert gpu.reads == ["aten._to_copy.default"]


def test_all_weights_of_a_gpu_are_updated_in_few_arrays(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on_gpu(replace(CONFIG, optimizer=OptimizerConfig(decay="matrices")))
    state = backend.init_state(config, 0)
    assert [sorted(array.parts) for array in state.arrays] == [
        sorted(name for name, p in state.weights.items() if p.ndim == axes) for axes in (2, 1)
    ]
    monkeypatch.setattr(packing, "_PACKED", 500)
    arrays = backend.init_state(config, 0).arrays
    assert {name for array in arrays for name in array.parts} == state.weights.keys()
    assert all(array.whole.numel() <= 500 + 1024 for array in arrays if array.is_packed)
    assert 2 < len(arrays) < len(state.weights)


@pytest.mark.parametrize(("packed", "operations"), [(True, 47), (False, 1229)])
def test_operations_of_adamw(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, packed: bool, operations: int
) -> None:
    """Count those of a step of gpt2-small: gathering its gradients, clipping and the update. The width is tiny."""
    real, tiny = SIZES["gpt2-small"], replace(SIZES["gpt2-small"], d_model=24, vocab_size=40, d_ff=64)
    sizes = [sum(map(math.prod, parameter_shapes(model).values())) for model in (real, tiny)]
    monkeypatch.setattr(packing, "_PACKED", packing._PACKED * sizes[1] // sizes[0])  # as many arrays
    with fast.used(packed):
        state = backend.init_state(on_gpu(TrainConfig(tiny)), 0)
        for _ in range(2):  # the first step also makes the moments
            for p in state.weights.values():
                p.grad = torch.ones_like(p)
            gpu.operations = 0
            for array in state.arrays:
                array.take_gradients()
            clip_gradients([array.whole for array in state.arrays], 1.0)
            state.optimizer.step()
    assert gpu.operations == operations


def test_a_step_that_is_not_finite_changes_nothing_on_a_gpu(gpu: Gpu) -> None:
    config = on_gpu(CONFIG)
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    with torch.no_grad():
        state.weights["ln_final.weight"].fill_(torch.inf)
    before = {name: x.copy() for name, x in (*backend.read_weights(state), *backend.read_optimizer(state))}
    state, metrics = step(state, batch(config, 0), 1e-2)
    assert not metrics["finite"]
    for name, x in (*backend.read_weights(state), *backend.read_optimizer(state)):
        np.testing.assert_array_equal(x, before[name], err_msg=name)


def test_a_pretended_gpu_refuses_tensors_of_the_cpu(gpu: Gpu) -> None:
    x = torch.ones(3, device="cuda:0")
    with pytest.raises(AssertionError, match="the CPU's tensor meets"):
        x + torch.ones(3)
    assert float(x.sum()) == 3.0
    assert gpu.reads == ["aten._local_scalar_dense.default"]
    torch.ones(3).to("cuda:0", non_blocking=True)  # from memory that is not pinned
    assert gpu.waits == ["aten._to_copy.default"]
