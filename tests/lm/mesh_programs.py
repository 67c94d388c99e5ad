"""Print as JSON what XLA compiles for meshes of four devices. tests/lm/accounting/test_plan.py runs this."""

import json
import sys
from dataclasses import replace
from typing import Any

from bench.program import read_program
from lm.backend import load
from lm.config import ModelConfig, TrainConfig
from lm.mesh import Mesh
from tests.lm.accounting.cases import random_batch

PLAIN = TrainConfig(ModelConfig(256, 64, 128, 1, 4, d_ff=256), batch_size=16)
REMAT = replace(PLAIN, model=replace(PLAIN.model, remat="block"))
GPT2 = replace(PLAIN.model, norm="layernorm", ffn="gelu", position="learned", bias=True, tie_embeddings=True)
GEMMA: dict[str, Any] = {
    "norm_position": "sandwich",
    "norm_gain": "one_plus_weight",
    "ffn": "geglu_tanh",
    "qk_norm": True,
    "qk_norm_over": "all_heads",
    "score_dim": 5.0,
    "score_softcap": 2.0,
    "logit_softcap": 4.0,
    "scale_embeddings": True,
    "layer_types": ("sliding", "full"),
    "sliding_rope_theta": 100.0,
}
"""Options of Gemma 2 and 3, and norms of queries and keys over all heads, which a mesh divides."""
CASES = {
    "fsdp": ("fsdp=4", PLAIN),
    "fsdp, again": ("fsdp=4", REMAT),
    "fsdp, gpt2": ("fsdp=4", replace(PLAIN, model=GPT2)),
    "tensor, again": ("tensor=4", REMAT),
    "tensor, parallel": (
        "tensor=4",
        replace(PLAIN, model=replace(REMAT.model, num_layers=3, block="parallel", ffn="relu")),
    ),
    "data, fsdp": ("data=2,fsdp=2", PLAIN),
    "fsdp, tensor": ("fsdp=2,tensor=2", replace(PLAIN, model=replace(PLAIN.model, num_layers=2))),
    "tensor, gemma": (
        "tensor=4",
        replace(PLAIN, model=replace(REMAT.model, **GEMMA, num_layers=2, d_head=48, sliding_window=20)),
    ),
}


def program(text: str, config: TrainConfig) -> dict[str, Any]:
    """Return facts of the step's program on a mesh."""
    mesh = Mesh.parse(text)
    backend = load("jax", config, mesh)
    state, step = backend.init_state(config, 0, mesh), backend.make_train_step(config, mesh)
    return read_program(step, state, random_batch(config), config, mesh)


if __name__ == "__main__":
    json.dump({name: program(*case) for name, case in CASES.items()}, sys.stdout)
