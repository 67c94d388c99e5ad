"""Devices that a model may compute on. Others are refused before any work."""

from pathlib import Path

import pytest

import lm as twinlm
from lm.config import ModelConfig, TrainConfig
from tests.lm.conftest import refused, train_command
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]
MODEL = ModelConfig(vocab_size=300, context_length=8, d_model=8, num_layers=1, num_heads=2)


@pytest.mark.parametrize(
    "device",
    [
        "mps",
        "xpu",
        "tpu",
        "gpu",
        "nonsense",
        "",
        "CUDA",
        "cpu:0",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:1234",
        "mps\n",
    ],
)
def test_a_device_that_nobody_has_tested_is_refused(made_pipeline: Path, device: str) -> None:
    with pytest.raises(InputError, match="is not supported: give cpu, cuda, or cuda:N"):
        TrainConfig(MODEL, device=device)
    for backend in "torch", "jax":
        with pytest.raises(InputError, match="is not supported"):
            twinlm.load("nowhere", backend, device=device)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_commands_refuse_a_device_in_one_line(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, backend: str
) -> None:
    # Before they read a file: these are not there.
    said = "device 'mps' is not supported: give cpu, cuda, or cuda:N for one of several GPUs"
    command = train_command(
        made_pipeline, backend, tmp_path / "out", "--device", "mps", "--train", tmp_path / "none.npy"
    )
    assert said in refused(capsys, *command)
    model = ("--backend", backend, "--checkpoint", tmp_path / "none")
    for words in (["eval", "--tokens", tmp_path / "none.npy"], ["generate", "--prompt", "a"], ["score", "a"]):
        assert said in refused(capsys, *words, *model, "--device", "mps")
    assert not list(tmp_path.iterdir())
    model = ("--backend", backend, "--checkpoint", made_pipeline / backend)
    said = refused(capsys, "generate", "--prompt", "a", *model, "--device", "cuda:99")
    assert "device 'cuda:99' cannot be used by" in said
