"""Import, then export: the tensors are byte-equal, and the settings are those of the original files."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from lm.cli.exchange import FamilyName
from lm.config import ModelConfig
from lm.interop.export_model import write_model
from lm.interop.families import FAMILIES
from lm.interop.origin import Origin, read_origin
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.inputs import Inputs
from lm.run.loading import origin_to_keep
from lm.text.ends import Ends
from tests.lm.conftest import lm
from tests.lm.interop.models import MODEL, edit_config, random_weights, read_json
from tests.lm.interop.test_configs import HUB
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 40},
    "llama": {"head_dim": 8, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 99.0}},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"head_dim": 8, "attention_bias": True},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 5},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    "olmo2": {"attention_bias": True},
    "phi3": {"sliding_window": 4},
    "smollm3": {"no_rope_layers": [1, 1]},
}


def save(transformers: Any, folder: Path, name: str, dtype: str, shards: str = "1GB") -> None:
    """Let transformers save a random model of a family, some of whose tensors may be of another type."""
    import torch

    sizes = {key: getattr(MODEL, ours) for key, ours in FAMILIES[name].sizes.items()}
    sizes |= {"num_key_value_heads": 2} if name != "gpt2" else {}
    ends = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": [2, 3]}
    config = transformers.AutoConfig.for_model(name, **sizes | ends | SETTINGS[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_equal_bytes(one: Path, other: Path) -> None:
    import torch

    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)


def there_and_back(folder: Path) -> Path:
    out = folder.with_name("back")
    assert lm("import", "--format", "hf", folder, folder.with_name("run")) == 0
    assert lm("export", "--format", "hf", folder.with_name("run"), out) == 0
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_an_imported_family_is_exported_unchanged_and_opens(
    transformers: Any, tmp_path: Path, capsys: Capture, name: str
) -> None:
    folder = tmp_path / "hf"
    save(transformers, folder, name, "bfloat16", shards="5KB")
    back = there_and_back(folder)
    assert f"step-00000000 as {name}, in bfloat16, without a tokenizer" in capsys.readouterr().out
    assert_equal_bytes(back, folder)
    for file in ("config.json", "generation_config.json"):
        assert read_json(back / file) == read_json(folder / file)
    _, found = transformers.AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)
    assert not any(found.values())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_tensors_of_several_types_keep_their_own(transformers: Any, tmp_path: Path, name: str) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "hf"
    save(transformers, folder, name, "float32")
    types = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    mixed = {n: t.to(types[i % 4]).contiguous() for i, (n, t) in enumerate(tensors_of(folder).items())}
    save_file(mixed, folder / "model.safetensors")
    assert_equal_bytes(there_and_back(folder), folder)
    config, _ = load_facts(checkpoint.latest(tmp_path / "run"))
    assert config.compute_dtype == "float64"


def test_gpt2_without_a_prefix_keeps_its_names_and_loses_its_buffers(
    transformers: Any, tmp_path: Path
) -> None:
    """openai-community/gpt2 has no prefix, and holds the causal masks of old versions."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "hf"
    save(transformers, folder, "gpt2", "float32")
    named = {name.removeprefix("transformer."): t for name, t in tensors_of(folder).items()}
    buffers = {"h.0.attn.bias": torch.ones(1, 1, 16, 16).bool(), "h.1.attn.masked_bias": torch.tensor(-1e9)}
    save_file(named | buffers, folder / "model.safetensors")
    back = there_and_back(folder)
    save_file(named, folder / "model.safetensors")
    assert_equal_bytes(back, folder)
    _, found = transformers.AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)
    assert not any(found.values())


def test_a_copy_of_tied_embeddings_goes_back_as_a_copy(transformers: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "hf"
    save(transformers, folder, "gemma", "bfloat16")
    tensors = tensors_of(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert_equal_bytes(there_and_back(folder), folder)


def test_a_shorter_context_and_its_positions_are_exported(transformers: Any, tmp_path: Path) -> None:
    folder, run, back = tmp_path / "hf", tmp_path / "run", tmp_path / "back"
    save(transformers, folder, "gpt2", "float32")
    assert lm("import", "--format", "hf", folder, run, "--context-length", 5) == 0
    assert lm("export", "--format", "hf", run, back) == 0
    assert read_json(back / "config.json") == read_json(folder / "config.json") | {"n_positions": 5}
    positions = tensors_of(back)["transformer.wpe.weight"]
    np.testing.assert_array_equal(positions, tensors_of(folder)["transformer.wpe.weight"][:5])


def test_only_what_has_changed_is_replaced_in_config_json(tmp_path: Path) -> None:
    theirs = HUB["google/gemma-3-1b-it"] | {
        "num_hidden_layers": 4,
        "vocab_size": 8,
        "hidden_size": 8,
        "head_dim": 4,
    }
    theirs |= {"intermediate_size": 8, "torch_dtype": "bfloat16"}
    family = FAMILIES["gemma3_text"]
    model = family.read(theirs, "config.json")
    origin = Origin(theirs, None, "model.", has_head=False, type="BF16", other_types={})
    weights = {name: array.astype(np.float32) for name, array in random_weights(model).items()}
    exact = {
        name: (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        for name, array in weights.items()
    }

    def written(model: ModelConfig, weights: dict[str, np.ndarray]) -> Any:
        exported = write_model(family, model, weights.items(), tmp_path, Ends(5, 6), origin)
        assert not (tmp_path / "generation_config.json").exists()
        return read_json(tmp_path / "config.json"), exported.dtypes

    assert written(model, exact) == (theirs, ("bfloat16",))
    config, dtypes = written(
        replace(model, attention_dropout=0.1, remat="block"),
        exact | {"ln_final.weight": weights["ln_final.weight"]},
    )
    assert dtypes == ("float32", "bfloat16")
    without = {key: value for key, value in theirs.items() if key != "torch_dtype"}
    assert config == without | {"attention_dropout": 0.1, "dtype": "float32"}
    other = replace(model, rope_theta=5.0, layer_types=("full", "sliding"))
    config, _ = written(other, exact)
    assert family.read(config, "config.json") == other
    assert "sliding_window_pattern" not in config
    assert config["cache_implementation"] == "hybrid"


def test_a_key_that_follows_from_a_changed_one_is_written(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    sizes = {
        "num_hidden_layers": 1,
        "vocab_size": 8,
        "hidden_size": 64,
        "head_dim": 2,
        "intermediate_size": 8,
    }
    theirs = HUB["meta-llama/Llama-3.1-8B"] | sizes | {"rope_scaling": scaling}
    family = FAMILIES["llama"]
    model = replace(family.read(theirs, "config.json"), context_length=16)
    origin = Origin(theirs, None, "model.", has_head=False, type="F32", other_types={})
    write_model(family, model, random_weights(model).items(), tmp_path, Ends(), origin)
    config = read_json(tmp_path / "config.json")
    assert family.read(config, "config.json") == model
    assert config["rope_scaling"]["original_max_position_embeddings"] == 131072


def test_a_run_keeps_where_its_model_came_from(transformers: Any, tmp_path: Path) -> None:
    save(transformers, tmp_path / "hf", "llama", "float32")
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    inputs = Inputs((tmp_path / "a.npy",), tmp_path / "b.npy", init_from=tmp_path / "run")
    kept = origin_to_keep(inputs, None)
    origin = read_origin(kept, "state.json")
    assert origin is not None
    assert origin.config == read_json(tmp_path / "hf" / "config.json")
    assert origin_to_keep(inputs, {"iteration": 7, **kept}) == kept
    assert origin_to_keep(replace(inputs, init_from=None), None) == {}
    assert origin_to_keep(inputs, {"iteration": 7}) == {}


def test_the_flag_knows_every_family() -> None:
    assert get_args(FamilyName) == tuple(FAMILIES)


def test_a_family_can_be_chosen(transformers: Any, tmp_path: Path, capsys: Capture) -> None:
    folder, run = tmp_path / "hf", tmp_path / "run"
    save(transformers, folder, "llama", "float32")
    edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 99.0}, num_key_value_heads=2)
    assert lm("import", "--format", "hf", folder, run) == 0
    for name in ("mistral", "phi3"):
        assert lm("export", "--format", "hf", run, tmp_path / name, "--family", name) == 0
        assert read_json(tmp_path / name / "config.json")["model_type"] == name
        _, found = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not any(found.values())
    assert lm("export", "--format", "hf", run, tmp_path / "qwen2", "--family", "qwen2") == 2
    assert "qwen2, cannot express attention_bias none" in capsys.readouterr().err


def test_a_malformed_origin_is_refused() -> None:
    origin = asdict(Origin({"model_type": "llama"}, None, "", has_head=False, type="F32", other_types={}))
    assert read_origin({}, "state.json") is None
    assert read_origin({"origin": origin}, "state.json") is not None
    changes: list[dict[str, Any]] = [
        {"config": 3},
        {"config": {}},
        {"prefix": None},
        {"other_types": []},
        {"type": "I8"},
    ]
    for found in ({}, [], *(origin | change for change in changes)):
        with pytest.raises(InputError, match=r"state\.json: origin is malformed; import the model again"):
            read_origin({"origin": found}, "state.json")
