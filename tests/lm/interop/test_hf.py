"""Models to and from the format of Hugging Face's Llama: transformers itself is the judge of both."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.budgets import BUDGETS, relative_error
from lm.config import ModelConfig, TrainConfig
from lm.init import optimizer_shapes, parameter_shapes
from lm.interop.llama import interleave_halves, llama_name, split_halves
from lm.run import checkpoint
from lm.run.facts import load_facts
from tests.lm.conftest import lm, refused, snapshot
from tests.lm.run.test_train import BACKENDS
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]
MODEL = ModelConfig(300, 16, 16, 2, 4, d_ff=24)
TEXTS = (
    "Once upon a time",
    "Émile's  2nd\n\n day <|endoftext|> don't ⏎ \t",
    "<|endoftext|>",
    " a .",
    "日本 🙂",
)


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    """The library, which may not look anything up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import transformers

        transformers.utils.logging.disable_progress_bar()
        yield transformers


def weights_of(model: ModelConfig) -> dict[str, np.ndarray]:
    """Random weights that no two parameters share, norms' gains included."""
    generator = np.random.default_rng(0)
    return {
        name: (generator.normal(1 if len(shape) == 1 else 0, 0.3, shape)).astype(np.float32)
        for name, shape in parameter_shapes(model).items()
    }


def make_run(folder: Path, model: ModelConfig, tokenizer: Tokenizer | None, **settings: Any) -> Path:
    """A run of a model with random weights."""
    config = TrainConfig(model, **settings)
    hashes = dict.fromkeys(("train_sha256", "val_sha256"))
    facts = {"config": asdict(config), "seed": 0, "backend": "torch", **hashes}
    facts["tokenizer_sha256"] = tokenizer.sha256 if tokenizer else None
    weights = [(name, array.astype(config.param_dtype)) for name, array in weights_of(model).items()]
    moments = [(name, np.zeros(shape, config.param_dtype)) for name, shape in optimizer_shapes(model).items()]
    checkpoint.save(
        folder / "checkpoints", 7, weights, [*moments[:-1], ("step", np.array(7, np.int32))], facts
    )
    if tokenizer:
        tokenizer.save(folder / "tokenizer")
    return folder


def llama(
    transformers: Any, folder: Path, dtype: str = "float32", shards: str = "1GB", **settings: Any
) -> Any:
    """A Llama with random weights, saved by transformers, and as it loads it."""
    import torch

    facts: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    }
    config = transformers.LlamaConfig(**facts | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits_of(model: Any, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


IDS = np.random.default_rng(1).integers(0, 300, (3, 16))


def test_the_order_of_rotated_rows_goes_out_and_back() -> None:
    rows = np.arange(2 * 6)
    assert split_halves(rows, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    np.testing.assert_array_equal(interleave_halves(split_halves(rows, 6), 6), rows)


def test_every_parameter_has_a_llama_name() -> None:
    names = [llama_name(name) for name in parameter_shapes(MODEL)]
    assert len(set(names)) == len(names)
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "lm_head.weight"
    assert "model.layers.1.mlp.gate_proj.weight" in names


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 2, "tie_embeddings": True, "norm_eps": 0.1, "rope_theta": 500.0},
    {"num_kv_heads": 1, "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_transformers_computes_what_we_do(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, transformers: Any, options: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.load(made_pipeline / "tokenizer")
    run = make_run(
        tmp_path / "run", ModelConfig(**asdict(MODEL) | {"num_kv_heads": None} | options), tokenizer
    )
    assert lm("export", "--format", "hf", run, tmp_path / "hf") == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    expected = logits_of(theirs, IDS)
    for backend in BACKENDS:
        ours = twinlm.load(run, backend)
        assert relative_error(ours.logits(IDS), expected) < BUDGETS["float32"].model_forward
        prompt = their_tokenizer("Once upon", return_tensors="pt")
        # transformers 4 makes token_type_ids, too, unless the file says otherwise; Llama refuses them.
        assert list(prompt) == read_json(tmp_path / "hf" / "tokenizer_config.json")["model_input_names"]
        assert theirs(**prompt).logits.shape == (*prompt["input_ids"].shape, MODEL.vocab_size)
        greedy = theirs.generate(**prompt, max_new_tokens=6)[0, prompt["input_ids"].shape[1] :]
        assert ours.generate("Once upon", max_new_tokens=6, temperature=0.0) == their_tokenizer.decode(
            greedy, skip_special_tokens=True
        )


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_its_tokenizer_encodes_what_ours_does(
    made_pipeline: Path, tmp_path: Path, transformers: Any, pattern: str
) -> None:
    plain = Tokenizer.load(made_pipeline / "tokenizer")
    tokenizer = Tokenizer(plain.vocab, plain.merges, [*plain.special_tokens, "<|mask|>"], pattern)
    run = make_run(tmp_path / "run", ModelConfig(**asdict(MODEL) | {"vocab_size": 301}), tokenizer)
    assert lm("export", "--format", "hf", run, tmp_path / "hf") == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", model_max_length=1000)
    assert (theirs.eos_token, theirs.bos_token, len(theirs)) == ("<|endoftext|>", "<|endoftext|>", 301)
    for text in (*TEXTS, "a<|mask|> b"):
        ids = tokenizer.encode(text)
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == text
    # And back from what transformers makes of it.
    theirs.save_pretrained(tmp_path / "hf")
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "back") == 0
    assert Tokenizer.load(tmp_path / "back" / "tokenizer").sha256 == tokenizer.sha256


@pytest.mark.parametrize("compute_dtype", ["float32", "float64"])
def test_out_and_in_changes_no_bit(tmp_path: Path, capsys: Capture, compute_dtype: str) -> None:
    options = {"num_kv_heads": 2, "bias": True, "tie_embeddings": True, "rope_theta": 123.0, "norm_eps": 1e-3}
    model = ModelConfig(**asdict(MODEL) | options)
    run = make_run(tmp_path / "run", model, None, compute_dtype=compute_dtype)
    assert lm("export", "--format", "hf", run, tmp_path / "hf") == 0
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "back") == 0
    assert "without a tokenizer" in capsys.readouterr().out
    before, after = checkpoint.latest(run), checkpoint.latest(tmp_path / "back")
    config, facts = load_facts(after)
    assert (config.model, config.compute_dtype, facts["iteration"]) == (model, compute_dtype, 0)
    shapes = {name: (shape, config.param_dtype) for name, shape in parameter_shapes(model).items()}
    leaves = (checkpoint.read_leaves(path / "model.safetensors", shapes) for path in (before, after))
    np.testing.assert_equal(*({name: leaf[...] for name, leaf in some} for some in leaves))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position": "learned", "ffn": "gelu", "d_ff": 24}, ["position learned", "ffn gelu"]),
        ({"position": "none", "block": "parallel"}, ["block parallel", "position none"]),
        ({"norm": "layernorm", "norm_position": "post"}, ["norm layernorm", "norm_position post"]),
        ({"norm": "none", "qk_norm": True, "ffn": "relu"}, ["norm none", "ffn relu", "qk_norm True"]),
        ({"position": "sinusoidal", "ffn": "silu"}, ["position sinusoidal", "ffn silu"]),
        ({"architecture": "encoder"}, ["architecture encoder"]),
        ({"architecture": "encoder_decoder", "prefix_length": 8}, ["architecture encoder_decoder"]),
    ],
)
def test_what_llama_cannot_express_is_refused_by_name(
    tmp_path: Path, capsys: Capture, options: dict[str, Any], words: list[str]
) -> None:
    run = make_run(tmp_path / "run", ModelConfig(**asdict(MODEL) | options), None)
    line = refused(capsys, "export", "--format", "hf", run, tmp_path / "hf")
    assert f"cannot express {', '.join(words)};" in line
    assert not (tmp_path / "hf").exists()


def test_the_exported_folder_is_complete_and_nothing_is_overwritten(
    made_pipeline: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "hf"
    assert lm("export", "--format", "hf", made_pipeline / "torch", out) == 0
    names = {"config.json", "generation_config.json", "model.safetensors"}
    assert {p.name for p in out.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    before = snapshot(tmp_path)
    assert "exists" in refused(capsys, "export", "--format", "hf", made_pipeline / "torch", out)
    assert "exists" in refused(capsys, "import", "--format", "hf", out, out)
    assert "holds no checkpoint" in refused(capsys, "export", "--format", "hf", out, tmp_path / "new")
    assert "--format" in refused(capsys, "export", "--format", "gguf", made_pipeline / "torch", out)
    assert snapshot(tmp_path) == before


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
def test_a_llama_computes_here_what_it_does_there(
    tmp_path: Path, transformers: Any, settings: dict[str, Any]
) -> None:
    theirs = llama(transformers, tmp_path / "hf", **settings)
    assert ("shards" in settings) == (tmp_path / "hf" / "model.safetensors.index.json").exists()
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    expected = logits_of(theirs, IDS)
    for backend in BACKENDS:
        ours = twinlm.load(tmp_path / "run", backend).logits(IDS)
        assert relative_error(ours, expected) < BUDGETS["float32"].model_forward


def test_an_older_config_json(tmp_path: Path, transformers: Any) -> None:
    theirs = llama(
        transformers, tmp_path / "hf", rope_parameters={"rope_type": "default", "rope_theta": 33.0}
    )
    edit(tmp_path / "hf", rope_parameters=..., rope_theta=33.0, rope_scaling=None, head_dim=..., dtype=...)
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    ours = twinlm.load(tmp_path / "run", "torch")
    assert ours.config.model.rope_theta == 33.0
    assert relative_error(ours.logits(IDS), logits_of(theirs, IDS)) < BUDGETS["float32"].model_forward


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_imported_model_trains_on(
    pipeline: Path, tmp_path: Path, capsys: Capture, transformers: Any, backend: str
) -> None:
    theirs = llama(transformers, tmp_path / "hf", num_key_value_heads=2)
    tokenizer = Tokenizer.load(pipeline / "tokenizer")
    tokenizer.save_tokenizers_json(tmp_path / "hf" / "tokenizer.json")
    run = tmp_path / "run"
    assert lm("import", "--format", "hf", tmp_path / "hf", run, "--context-length", 8) == 0
    assert lm("eval", "--checkpoint", run, "--tokens", pipeline / "val.npy", "--backend", backend) == 0
    shown = capsys.readouterr().out
    # The same loss as transformers', of the same windows.
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
    assert lm("generate", "--checkpoint", run, "--prompt", "Once", "--max-new-tokens", 4) == 0
    capsys.readouterr()
    assert lm("runs", tmp_path) == 0
    assert re.search(r"^run +torch +new +0/", capsys.readouterr().out, re.MULTILINE)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def edit(folder: Path, **changes: Any) -> None:
    """Change config.json; `...` deletes a key."""
    facts = json.loads((folder / "config.json").read_text()) | changes
    facts = {key: value for key, value in facts.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> Path:
    """A sharded Llama; not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "hf"
    llama(transformers, folder, shards="4KB", num_key_value_heads=2)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"model_type": ...}, "no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"head_dim": 8}, "head_dim 8, not hidden_size / num_attention_heads"),
        ({"head_dim": "4"}, "head_dim '4'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling .*llama3"),
        (
            {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling .*linear",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_scaling .*full_attention"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": [1]}, "rope_parameters is .*a table"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x'"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"attention_bias": True}, "attention_bias True and mlp_bias False"),
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
def test_what_a_config_json_may_not_say(
    saved: Path, tmp_path: Path, capsys: Capture, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "hf")
    edit(folder, **changes)
    before = snapshot(tmp_path)
    line = refused(capsys, "import", "--format", "hf", folder, tmp_path / "run")
    assert re.search(message, line)
    assert str(folder) in line
    assert snapshot(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_what_else_is_refused(saved: Path, tmp_path: Path, capsys: Capture) -> None:
    def line(*more: object) -> str:
        said = refused(capsys, "import", "--format", "hf", folder, tmp_path / "run", *more)
        assert [p.name for p in tmp_path.iterdir()] == ["hf"]
        return said

    folder = tmp_path / "hf"
    folder.mkdir()
    assert "config.json: cannot be read" in line()
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
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
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer is Metaspace"),
        ({"model": {"type": "Unigram"}}, "is not a tokenizer.json|model is Unigram"),
        ({}, "has ids up to 256, but the model's vocab_size is 200"),
    ],
)
def test_a_tokenizer_that_is_not_ours(
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


def test_buffers_of_old_checkpoints_do_not_matter(tmp_path: Path, transformers: Any) -> None:
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


def test_no_import_of_transformers_is_needed(tmp_path: Path, saved: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from lm.cli import main\n"
        f"assert main(['import', '--format', 'hf', {str(saved)!r}, {str(tmp_path / 'run')!r}]) == 0\n"
        f"assert main(['export', '--format', 'hf', {str(tmp_path / 'run')!r}, {str(tmp_path / 'out')!r}]) == 0\n"
        "assert not {'torch', 'jax', 'transformers', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
