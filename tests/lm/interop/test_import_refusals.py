"""Imports that are refused: unsupported or malformed config.json, tensors and tokenizers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lm.conftest import lm, refused, snapshot
from tests.lm.interop.models import edit_config, llama
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'; the families that can be imported are llama, mistral"),
        ({"model_type": ...}, "no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"head_dim": 8}, r"q_proj.weight' is F32 \(16, 16\), and config.json wants \(32, 16\)"),
        ({"head_dim": 3}, "d_head 3 is odd"),
        ({"head_dim": "4"}, "d_head is '4'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "rope_parameters .*llama3.* without low_freq_factor and high_freq_factor",
        ),
        (
            {"rope_parameters": ..., "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling .*dynamic",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters .*full_attention",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": [1]}, "rope_parameters .*not a table"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x'"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"attention_bias": True}, "'model.layers.0.self_attn.q_proj.bias' is missing"),
        ({"attention_bias": "yes"}, "attention_bias 'yes'"),
        ({"new_trick": 3, "is_causal": False}, "is_causal False; the unknown key new_trick 3"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu", "sliding_window": 8}, "hidden_act 'gelu'; sliding_window 8"),
        ({"hidden_size": "16"}, "hidden_size is '16': expected a whole number"),
        ({"vocab_size": ...}, "vocab_size is None"),
        ({"num_attention_heads": 3, "head_dim": None}, "d_model 16 is not divisible by num_heads 3"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not divisible by num_kv_heads 3"),
        ({"rms_norm_eps": None}, "norm_eps"),
        ({"tie_word_embeddings": "no"}, "tie_embeddings is 'no'"),
        ({"tie_word_embeddings": True}, "'lm_head.weight' is not the embeddings"),
        ({"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 10_000}, "num_hidden_layers is 10000, and the checkpoint holds"),
        ({"num_hidden_layers": 1}, "'model.layers.1.*' is unknown"),
        ({"intermediate_size": 32}, r"gate_proj.weight' is F32 \(24, 16\), and config.json wants \(32, 16\)"),
        ({"vocab_size": 10**9}, "embed_tokens.weight' is F32"),
    ],
)
def test_an_unsupported_config_json_is_refused(
    saved: Path, tmp_path: Path, capsys: Capture, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "hf")
    edit_config(folder, **changes)
    before = snapshot(tmp_path)
    line = refused(capsys, "import", "--format", "hf", folder, tmp_path / "run")
    assert re.search(message, line)
    assert str(folder) in line
    assert snapshot(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_malformed_files_are_refused(saved: Path, tmp_path: Path, capsys: Capture) -> None:
    def line(*more: object) -> str:
        said = refused(capsys, "import", "--format", "hf", folder, tmp_path / "run", *more)
        assert [p.name for p in tmp_path.iterdir()] == ["hf"]
        return said

    folder = tmp_path / "hf"
    folder.mkdir()
    assert "config.json: cannot be read" in line()
    for content in (b"[]", b"{"):
        (folder / "config.json").write_bytes(content)
        assert "config.json: not a JSON object" in line()
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    assert "context_length is 17: give 1 to" in line("--context-length", 17)
    index = folder / "model.safetensors.index.json"
    shard = sorted(folder.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    for content in (b"", b"\xff" * 100, whole[:-1], whole + b"x", (10**15).to_bytes(8, "little") + b"{}"):
        shard.write_bytes(content)
        assert f"{shard.name}: not a readable safetensors file" in line()
    shard.unlink()
    assert f"{shard.name}: not a readable safetensors file" in line()
    shard.write_bytes(whole)
    files = json.loads(index.read_text())["weight_map"]
    for weight_map, message in (
        ([], "weight_map must map"),
        *(({"a": name}, "weight_map must map") for name in ("../b", "..", ".", "", "/etc/passwd", "a\0b")),
        ({"a": 1}, "weight_map must map"),
        (files | {"a": shard.name}, "lacks 'a'"),
        ({}, "num_hidden_layers is 2, and the checkpoint holds 0"),
        ({n: f for n, f in files.items() if "layers.0.mlp.up" not in n}, "up_proj.weight' is missing"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        assert message in line()
    index.unlink()
    assert "holds no model.safetensors" in line()
    (folder / "pytorch_model.bin").touch()
    assert "holds only pytorch_model.bin, which can run code" in line()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"post_processor": {"type": "TemplateProcessing"}}, "post_processor TemplateProcessing"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({}, "has ids up to 256, but the model's vocab_size is 200"),
    ],
)
def test_an_unsupported_tokenizer_is_refused(
    saved: Path, tmp_path: Path, capsys: Capture, transformers: Any, change: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "hf"
    llama(transformers, folder, vocab_size=200 if not change else 300)
    path = folder / "tokenizer.json"
    Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"]).save_tokenizers_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    command = ("import", "--format", "hf", folder, tmp_path / "run")
    line = refused(capsys, *command)
    assert re.search(message, line)
    assert "--no-tokenizer imports the model alone" in line
    assert lm(*command, "--no-tokenizer") == 0
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert "the tokenizer is missing" in refused(capsys, "score", "--checkpoint", tmp_path / "run", "a")


@pytest.mark.parametrize(
    "change",
    [{"pre_tokenizer": {"type": "Metaspace"}}, {"model": {"type": "Unigram"}}, {"pre_tokenizer": None}],
)
def test_a_model_is_imported_without_a_tokenizer_that_is_not_byte_level(
    tmp_path: Path, capsys: Capture, transformers: Any, change: dict[str, Any]
) -> None:
    folder, run = tmp_path / "hf", tmp_path / "run"
    llama(transformers, folder)
    path = folder / "tokenizer.json"
    Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"]).save_tokenizers_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert lm("import", "--format", "hf", folder, run) == 0
    said = capsys.readouterr().out
    assert "without a tokenizer, since tokenizer.json is not byte-level BPE: give token ids, not text" in said
    assert not (run / "tokenizer").exists()
