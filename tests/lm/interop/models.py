"""Models of ours and of transformers for the tests of both formats."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import ModelConfig, TrainConfig
from lm.init import optimizer_shapes, parameter_shapes
from lm.run import checkpoint
from tokenizer import Tokenizer

MODEL = ModelConfig(300, 16, 16, 2, 4, d_ff=24)


IDS = np.random.default_rng(1).integers(0, 300, (3, 16))


def random_weights(model: ModelConfig) -> dict[str, np.ndarray]:
    """Return random weights, also for the gains of norms, so that no two parameters are equal."""
    generator = np.random.default_rng(0)
    return {
        name: (generator.normal(1 if len(shape) == 1 else 0, 0.3, shape)).astype(np.float32)
        for name, shape in parameter_shapes(model).items()
    }


def make_run(
    folder: Path,
    model: ModelConfig,
    tokenizer: Tokenizer | None,
    weights: dict[str, np.ndarray] | None = None,
    **settings: Any,
) -> Path:
    """Write a run of a model with the given weights, or with random ones."""
    config = TrainConfig(model, **settings)
    hashes = dict.fromkeys(("train_sha256", "val_sha256"))
    facts = {"config": asdict(config), "seed": 0, "backend": "torch", **hashes}
    facts["tokenizer_sha256"] = tokenizer.sha256 if tokenizer else None
    leaves = [
        (name, array.astype(config.param_dtype)) for name, array in (weights or random_weights(model)).items()
    ]
    moments = [(name, np.zeros(shape, config.param_dtype)) for name, shape in optimizer_shapes(model).items()]
    checkpoint.save(
        folder / "checkpoints", 7, leaves, [*moments[:-1], ("step", np.array(7, np.int32))], facts
    )
    if tokenizer:
        tokenizer.save(folder / "tokenizer")
    return folder


def llama(
    transformers: Any, folder: Path, dtype: str = "float32", shards: str = "1GB", **settings: Any
) -> Any:
    """Let transformers save a Llama with random weights, and return the model that it loads from there."""
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
        logits: np.ndarray = model(torch.tensor(ids)).logits.numpy()
    return logits


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def edit_config(folder: Path, **changes: Any) -> None:
    """Change values in config.json. `...` deletes a key."""
    facts = json.loads((folder / "config.json").read_text()) | changes
    facts = {key: value for key, value in facts.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(facts))
