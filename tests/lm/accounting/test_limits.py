"""What a machine cannot hold is refused in one line: before the work, or when memory runs out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lm as twinlm
from lm.accounting import limits
from lm.accounting.limits import (
    OutOfMemoryError,
    explained,
    refuse_generation,
    refuse_step,
    refuse_weights,
)
from lm.accounting.memory import memory
from lm.config import ModelConfig, TrainConfig
from lm.mesh import Mesh
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import refused, train_command
from tests.lm.run.test_train import BACKENDS
from tokenizer import InputError, train_bpe

Capture = pytest.CaptureFixture[str]
CONFIG = TrainConfig(ModelConfig(300, 64, 16, 2, 2), batch_size=8, grad_accumulation=2)

# More than any address space has.
FAILURES: list[Callable[[], object]] = [
    lambda: bytearray(1 << 62),
    lambda: np.zeros(1 << 58),
    lambda: np.zeros((1 << 40, 1 << 40)),
    lambda: torch.zeros(1 << 58),
    lambda: torch.zeros(1 << 40, 1 << 40),
    lambda: jnp.zeros(1 << 58, jnp.uint8).block_until_ready(),
]


def fail(*_: object, **__: object) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


@pytest.mark.parametrize("failure", FAILURES)
def test_every_librarys_want_of_memory_is_known(failure: Callable[[], object]) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory.*: lower this$"),
        explained(lambda: "lower this"),
    ):
        failure()


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.",
        "INTERNAL: Error dispatching computation: Out of memory allocating 68719476736 bytes.",
        "INTERNAL: YNNPACK operation failed: error",
    ],
)
def test_what_jax_says_when_a_limit_is_reached(message: str) -> None:
    with pytest.raises(OutOfMemoryError), explained():
        raise jax.errors.JaxRuntimeError(message)


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes differ"), InputError("out of memory"), OSError(2, "out of memory")):
        with pytest.raises(type(error)) as caught, explained():
            raise error
        assert caught.value is error


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_refused_just_above_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    needs = memory(CONFIG, backend)
    monkeypatch.setattr(limits, "total_memory", lambda: needs.peak(4))
    refuse_step(CONFIG, backend)
    refuse_step(dataclasses.replace(CONFIG, batch_size=10**6, device="cuda"), backend)
    more = dataclasses.replace(CONFIG, batch_size=10)
    with pytest.raises(
        OutOfMemoryError, match=r"step of 5 windows at once.* at most 4 windows fit"
    ) as caught:
        refuse_step(more, backend)
    assert f"needs {needs.peak(5) / 1e9:,.3f} GB, and this machine has {needs.peak(4) / 1e9:,.3f} GB" in str(
        caught.value
    )
    monkeypatch.setattr(limits, "total_memory", lambda: needs.peak(1) - 1)
    with pytest.raises(OutOfMemoryError, match="lower the model's vocab_size"):
        refuse_step(dataclasses.replace(CONFIG, batch_size=2), backend)
    share = memory(CONFIG, "jax", Mesh(fsdp=2)).moments["update"].fixed
    assert 4 * needs.weights / 2 <= share < 4 * needs.weights
    monkeypatch.setattr(limits, "total_memory", lambda: share)
    refuse_step(CONFIG, backend, Mesh(fsdp=2))
    refuse_weights(CONFIG)
    cases: tuple[tuple[Callable[[], None], float], ...] = (
        (lambda: refuse_weights(CONFIG), needs.weights),
        (lambda: refuse_step(CONFIG, backend, Mesh(fsdp=2)), share),
    )
    for refuse, needed in cases:
        monkeypatch.setattr(limits, "total_memory", lambda needed=needed: needed - 1)
        with pytest.raises(OutOfMemoryError, match="by lm accounting"):
            refuse()


def test_texts_are_refused_just_above_what_their_caches_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding layer caches its window, and a full layer everything."""
    model = ModelConfig(300, 64, 16, 3, 2, d_head=12, sliding_window=5, layer_types=("sliding", "full"))
    config = TrainConfig(model)
    for tokens, slots in ((40, 5 + 40 + 5), (4, 4 + 4 + 4), (100, 5 + 64 + 5)):
        sampling = SamplingConfig(max_new_tokens=tokens, samples=3)
        needed = 2 * 3 * (1000 + 4 * 300 + 4 * 2 * slots * 2 * 12)
        monkeypatch.setattr(limits, "total_memory", lambda needed=needed: needed)
        refuse_generation(config, 2, sampling)
        monkeypatch.setattr(limits, "total_memory", lambda needed=needed: needed - 1)
        with pytest.raises(OutOfMemoryError, match="6 texts at once take"):
            refuse_generation(config, 2, sampling)


def test_what_nothing_can_hold_is_refused_before_the_work(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm.backend.load", "lm.run.opening.load"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("loaded"))
    out, run = tmp_path / "out", made_pipeline / "torch"
    for backend in BACKENDS:
        for flag, words in (
            ("--batch-size", "a training step of 1,000,000,000 windows"),
            ("--model.vocab-size", "by lm accounting a training step"),
            ("--model.d-model", "d_ff is 2666666688"),
            ("--model.d-ff", "by lm accounting a training step"),
            ("--model.context-length", "by lm accounting a training step"),
            ("--model.num-layers", "num_layers is 1000000000: give at most 10,000"),
        ):
            assert words in refused(capsys, *train_command(made_pipeline, backend, out, flag, 10**9))
    experiment = ("experiment", "batch-size", "--out", out)
    assert "windows at once" in refused(capsys, *experiment, "--batch-size", 10**9)
    assert "windows at once" in refused(capsys, *experiment, "--batch-sizes", 4, 10**9)
    assert "seeds: 1000000000 runs" in refused(capsys, *experiment, "--seeds", 10**9)
    texts = refused(capsys, "generate", "--checkpoint", run, "--samples", 10**12)
    assert "1,000,000,000,000 texts at once take" in texts
    assert "give at most" in refused(capsys, "accounting", "tinystories", "--num-layers", 10**9)
    assert "give 1 to 100,000" in refused(capsys, "parity", "--cases", 10**12)
    vocabulary = ("--vocab-size", 10**12, "--out", out)
    train = ("tokenizer", "train", "--input", made_pipeline / "val.txt")
    assert "vocab_size is 1000000000000; ask for at most" in refused(capsys, *train, *vocabulary)
    assert "lower --bytes" in refused(capsys, "stories", "--out", out, "--bytes", 10**18)
    for task in ("stories", "reverse"):
        assert "lower --count" in refused(capsys, "pairs", task, "--out", out, "--count", 10**18)
    words = refused(capsys, "pairs", "reverse", "--out", out, "--word-lengths", 3, 10**9)
    assert "longest word has 1000000000 letters" in words
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_beyond_the_text_takes_no_memory(made_pipeline: Path) -> None:
    text = made_pipeline / "val.txt"
    assert train_bpe(text, 2**31 - 1) == train_bpe(text, 100_000)


def test_memory_that_runs_out_is_told_in_one_line(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tokens = made_pipeline / "torch", made_pipeline / "val.npy"
    model = twinlm.load(run)
    for place, command, words in (
        (
            "lm.run.train.learning_rate",
            train_command(made_pipeline, "torch", tmp_path / "out"),
            "by lm accounting a training step of 4 windows at once, of 16 tokens each, needs 0.001 GB; lower",
        ),
        (
            "lm.run.evaluate.evaluation_batches",
            ["eval", "--checkpoint", run, "--tokens", tokens],
            "lower --batch-size",
        ),
        (
            "lm.text.generate.choose_token",
            ["generate", "--checkpoint", run, "--samples", 2],
            "2 texts grew at once",
        ),
        (
            "lm.text.score.log_probability",
            ["score", "--checkpoint", run, "some text"],
            "close other programs",
        ),
        ("lm.api.load_state", ["score", "--checkpoint", run, "some text"], "close other programs"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            line = refused(capsys, *command)
            assert line.startswith("lm: out of memory (20.00 GiB): ")
            assert words in line
    model.__dict__["_logits"] = fail
    monkeypatch.setattr("lm.text.generate.choose_token", fail)
    for call in (
        lambda: model.logits("some text"),
        lambda: model.score("some text"),
        lambda: model.generate("a"),
    ):
        with pytest.raises(OutOfMemoryError, match=r"^out of memory"):
            call()
