"""Exported models and tokenizers: transformers computes what we compute."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.budgets import BUDGETS, relative_error
from lm.config import ModelConfig
from lm.init import parameter_shapes
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.leaves import read_leaves
from tests.lm.conftest import lm, refused, snapshot
from tests.lm.interop.models import IDS, MODEL, logits_of, make_run, read_json
from tests.lm.run.test_train import BACKENDS
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


TEXTS = (
    "Once upon a time",
    "Émile's  2nd\n\n day <|endoftext|> don't ⏎ \t",
    "<|endoftext|>",
    " a .",
    "日本 🙂",
)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 2, "tie_embeddings": True, "norm_eps": 0.1, "rope_theta": 500.0},
    {"num_kv_heads": 1, "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_transformers_computes_our_logits_and_greedy_text(
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
        # Unless the file says otherwise, transformers 4 also makes token_type_ids, which its Llama refuses.
        assert list(prompt) == read_json(tmp_path / "hf" / "tokenizer_config.json")["model_input_names"]
        assert theirs(**prompt).logits.shape == (*prompt["input_ids"].shape, MODEL.vocab_size)
        greedy = theirs.generate(**prompt, max_new_tokens=6)[0, prompt["input_ids"].shape[1] :]
        assert ours.generate("Once upon", max_new_tokens=6, temperature=0.0) == their_tokenizer.decode(
            greedy, skip_special_tokens=True
        )


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_transformers_encodes_and_decodes_as_our_tokenizer_does(
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
    # Import it again, as transformers saves it.
    theirs.save_pretrained(tmp_path / "hf")
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "back") == 0
    assert Tokenizer.load(tmp_path / "back" / "tokenizer").sha256 == tokenizer.sha256


@pytest.mark.parametrize("compute_dtype", ["float32", "float64"])
def test_export_and_import_change_no_bit(tmp_path: Path, capsys: Capture, compute_dtype: str) -> None:
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
    ours, theirs = (
        {name: leaf[...] for name, leaf in read_leaves(path / "model.safetensors", shapes)}
        for path in (before, after)
    )
    np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position": "learned", "ffn": "gelu", "d_ff": 24}, ["position learned", "ffn gelu"]),
        ({"position": "none", "block": "parallel"}, ["block parallel", "position none"]),
        ({"norm": "layernorm", "norm_position": "post"}, ["norm layernorm", "norm_position post"]),
        ({"norm": "none", "qk_norm": True, "ffn": "relu"}, ["norm none", "ffn relu"]),
        ({"position": "sinusoidal", "ffn": "silu"}, ["position sinusoidal", "ffn silu"]),
        ({"architecture": "encoder"}, ["architecture encoder"]),
        ({"architecture": "encoder_decoder", "prefix_length": 8}, ["architecture encoder_decoder"]),
    ],
)
def test_what_no_family_can_express_is_refused_by_name(
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
