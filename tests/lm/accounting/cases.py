"""Members of the family, batches, and the printed account, for the tests of lm.accounting."""

import json
from typing import Any

import numpy as np
import pytest

from lm.config import TrainConfig
from lm.data.batch import Batch
from tests.lm.conftest import lm

Capture = pytest.CaptureFixture[str]
GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "ffn": "gelu_tanh",
    "position": "learned",
    "bias": True,
    "tie_embeddings": True,
}
FAMILY: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": GPT2,
    "ablated": {"norm": "none", "ffn": "relu", "block": "parallel", "position": "none"},
    "grouped": {"norm_position": "post", "ffn": "silu", "num_kv_heads": 1, "qk_norm": True},
    "gemma": {
        **{"norm_gain": "one_plus_weight", "norm_position": "sandwich", "ffn": "geglu_tanh", "d_head": 24},
        **{
            "num_kv_heads": 2,
            "qk_norm": True,
            "score_dim": 20.0,
            "score_softcap": 50.0,
            "logit_softcap": 30.0,
        },
        **{"scale_embeddings": True, "tie_embeddings": True, "sliding_window": 16},
        **{"layer_types": ("sliding", "full"), "sliding_rope_theta": 100.0},
    },
    "olmo": {
        **{"norm_position": "branch", "ffn": "relu2", "qk_norm": True, "qk_norm_over": "all_heads"},
        **{"attention_bias": "qkv", "d_head": 8, "rope_scaling": "linear", "rope_factor": 2.0},
    },
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "encoder": {"architecture": "encoder"},
    # A prefix of another length, which the decoder computes on too, but its head does not.
    "encoder_decoder": {"architecture": "encoder_decoder", "prefix_length": 12},
}


def random_batch(config: TrainConfig) -> Batch:
    m, rows = config.model, (config.grad_accumulation, config.batch_size // config.grad_accumulation)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, m.vocab_size, (*rows, m.context_length + 1)).astype(np.int32)
    if m.architecture == "decoder":
        return Batch(ids[..., :-1], ids[..., 1:])
    inputs, mask = ids[..., :-1], np.ones((*rows, m.context_length), bool)
    if m.architecture == "encoder":
        return Batch(inputs, ids[..., 1:], mask, np.full(rows, m.context_length, np.int32))
    assert m.prefix_length
    prefix = rng.integers(0, m.vocab_size, (*rows, m.prefix_length)).astype(np.int32)
    return Batch(inputs, ids[..., 1:], mask, np.full(rows, m.prefix_length, np.int32), prefix)


def tell(capsys: Capture, *arguments: object) -> Any:
    """Return what `lm accounting` prints as JSON."""
    capsys.readouterr()
    assert lm("accounting", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)
