"""Take 50 steps on each mesh of 8 virtual devices and print them as JSON. tests/lm/test_mesh_jax.py runs this."""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from lm.backend import load
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.documents import document_starts
from lm.mesh import Mesh
from tests.lm.mesh_programs import GEMMA

STEPS = 50
MODEL = ModelConfig(
    32, 8, 16, 1, 4, d_ff=24, num_kv_heads=2, bias=True, residual_dropout=0.2, attention_dropout=0.2
)
CONFIGS = {
    "float64": TrainConfig(
        replace(MODEL, **GEMMA, num_layers=2, d_head=6, sliding_window=3),
        OptimizerConfig(max_grad_norm=0.5, weight_decay=0.1, kind="muon", muon_learning_rate=2e-3),
        batch_size=16,
        grad_accumulation=2,
        compute_dtype="float64",
    ),
    "float32": TrainConfig(
        MODEL, OptimizerConfig(average_decay=0.9), batch_size=8, documents="packed", end_token=0
    ),
}


def batch(config: TrainConfig, step: int) -> Batch:
    """Return random windows with a random mask of targets, and the starts of packed documents."""
    draw, m = np.random.default_rng(step), config.model
    A, B = config.grad_accumulation, config.batch_size // config.grad_accumulation
    ids = draw.integers(0, m.vocab_size, (A, B, m.context_length + 1)).astype(np.int32)
    inputs, mask = ids[..., :-1], draw.random((A, B, m.context_length)) < 0.7
    return Batch(inputs, ids[..., 1:], mask, starts=document_starts(inputs, config))


def losses(config: TrainConfig, mesh: Mesh | None) -> dict[str, Any]:
    """Return losses and gradient norms of 50 steps, an evaluation, and a device's number of elements of each leaf.

    `programs` is how many programs XLA compiled for the state before the first step.
    """
    backend = load("jax", config, mesh)
    import jax

    from jax_impl.fast import attention

    compiled: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)

    # Packed documents take two blocks of queries and keys.
    attention.QUERIES = attention.KEYS = 4 if config.documents == "packed" else MODEL.context_length
    state: Any = backend.init_state(config, 0, mesh)
    programs = len(compiled)
    step, evaluate = backend.make_train_step(config, mesh), backend.make_eval_step(config, mesh)
    metrics = []
    for i in range(STEPS):
        state, told = step(state, batch(config, i), 1e-2)
        assert told["finite"]
        metrics.append((float(told["loss"]), float(told["grad_norm"])))
    with backend.averaged(state) as average:
        evaluated = evaluate(average, batch(config, STEPS))
    held = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.addressable_shards[0].data.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            (
                state.params,
                state.optimizer._asdict(),
                state.muon and state.muon._asdict(),
                {"average": state.average},
            )
        )
    }
    return {"metrics": metrics, "evaluation": evaluated, "held": held, "programs": programs}


if __name__ == "__main__":
    told = {}
    for key in sys.argv[1:]:
        dtype, _, text = key.partition(":")
        told[key] = losses(CONFIGS[dtype], Mesh.parse(text) if text else None)
    print(json.dumps(told))
