"""Imported models: we compute what transformers computes, and can train them further."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.budgets import BUDGETS, relative_error
from tests.lm.conftest import lm
from tests.lm.interop.models import IDS, edit_config, llama, logits_of, read_json
from tests.lm.run.test_train import BACKENDS
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


LLAMAS: list[dict[str, Any]] = [
    {"num_key_value_heads": 2, "tie_word_embeddings": True, "dtype": "bfloat16", "shards": "4KB"},
    {"num_key_value_heads": 1, "dtype": "float16", "rms_norm_eps": 1e-2, "max_position_embeddings": 64},
    {
        "attention_bias": True,
        "mlp_bias": True,
        "shards": "3KB",
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
    },
]


@pytest.mark.parametrize("settings", LLAMAS)
def test_an_imported_llama_computes_the_logits_of_transformers(
    tmp_path: Path, transformers: Any, settings: dict[str, Any]
) -> None:
    theirs = llama(transformers, tmp_path / "hf", **settings)
    assert ("shards" in settings) == (tmp_path / "hf" / "model.safetensors.index.json").exists()
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    expected = logits_of(theirs, IDS)
    for backend in BACKENDS:
        ours = twinlm.load(tmp_path / "run", backend).logits(IDS)
        assert relative_error(ours, expected) < BUDGETS["float32"].model_forward


def test_a_config_json_of_transformers_4_is_read(tmp_path: Path, transformers: Any) -> None:
    theirs = llama(
        transformers, tmp_path / "hf", rope_parameters={"rope_type": "default", "rope_theta": 33.0}
    )
    edit_config(
        tmp_path / "hf", rope_parameters=..., rope_theta=33.0, rope_scaling=None, head_dim=..., dtype=...
    )
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    ours = twinlm.load(tmp_path / "run", "torch")
    assert ours.config.model.rope_theta == 33.0
    assert relative_error(ours.logits(IDS), logits_of(theirs, IDS)) < BUDGETS["float32"].model_forward


def test_buffers_of_old_checkpoints_are_ignored(tmp_path: Path, transformers: Any) -> None:
    from safetensors.numpy import load_file, save_file

    theirs = llama(transformers, tmp_path / "hf", tie_word_embeddings=True)
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, file)
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    ours = twinlm.load(tmp_path / "run", "torch").logits(IDS)
    assert relative_error(ours, logits_of(theirs, IDS)) < BUDGETS["float32"].model_forward


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_imported_model_trains_further(
    pipeline: Path, tmp_path: Path, capsys: Capture, transformers: Any, backend: str
) -> None:
    theirs = llama(transformers, tmp_path / "hf", "bfloat16", num_key_value_heads=2)
    tokenizer = Tokenizer.load(pipeline / "tokenizer")
    tokenizer.save_tokenizers_json(tmp_path / "hf" / "tokenizer.json")
    run = tmp_path / "run"
    assert lm("import", "--format", "hf", tmp_path / "hf", run, "--context-length", 8) == 0
    assert lm("eval", "--checkpoint", run, "--tokens", pipeline / "val.npy", "--backend", backend) == 0
    shown = capsys.readouterr().out
    # transformers computes this loss on the same windows.
    ids = np.load(pipeline / "val.npy").astype(np.int64)
    n = (len(ids) - 1) // 8 * 8
    import torch

    logits = torch.tensor(logits_of(theirs, ids[:n].reshape(-1, 8))).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1 : n + 1])).item()
    assert float(re.findall(r"loss +([\d.]+)", shown)[0]) == pytest.approx(loss, rel=1e-3)
    data = ("--train", pipeline / "train.npy", "--val", pipeline / "val.npy", "--out", tmp_path / "tuned")
    command = ("train", "--backend", backend, "--config", run / "config.toml", "--init-from", run, *data)
    assert lm(*command, "--steps", 4, "--batch-size", 4, "--optimizer.learning-rate", 0.01) == 0
    metrics = (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["val_loss"] < loss
    capsys.readouterr()
    assert lm("export", "--format", "hf", tmp_path / "tuned", tmp_path / "back") == 0
    assert "step-00000004 as llama, in float32, since training has changed the" in capsys.readouterr().out
    changed = {"max_position_embeddings": 8, "dtype": "float32"}
    assert (
        read_json(tmp_path / "back" / "config.json") == read_json(tmp_path / "hf" / "config.json") | changed
    )
    tuned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    ours = twinlm.load(tmp_path / "tuned").logits(IDS[:, :8])
    assert relative_error(ours, logits_of(tuned, IDS[:, :8])) < BUDGETS["float32"].model_forward
    assert lm("generate", "--checkpoint", run, "--prompt", "Once", "--max-new-tokens", 4) == 0
    capsys.readouterr()
    assert lm("runs", tmp_path) == 0
    assert re.search(r"^run +torch +new +0/", capsys.readouterr().out, re.MULTILINE)


def test_neither_import_nor_export_needs_a_framework(tmp_path: Path, saved: Path) -> None:
    code = (
        "import sys; from lm.cli import main\n"
        f"assert main(['import', '--format', 'hf', {str(saved)!r}, {str(tmp_path / 'run')!r}]) == 0\n"
        f"assert main(['export', '--format', 'hf', {str(tmp_path / 'run')!r}, {str(tmp_path / 'out')!r}]) == 0\n"
        "assert not {'torch', 'jax', 'transformers', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
