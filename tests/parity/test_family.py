"""Every option of the decoder and every pair of options: parity, decoding, training, and laws."""

import math
import re
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_impl.attention
import torch_impl.attention
from jax_impl.model import transformer_lm
from lm.backend import BackendName, load
from lm.budgets import RUN, Dtype, relative_error
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.windows import get_batch
from lm.init import parameter_shapes
from parity import oracle
from parity.case import Case
from parity.draws import model_weights
from parity.family import CHOICES, DEFAULTS, OPTIONS, VARIANTS, Options
from parity.oracle import multihead_self_attention
from tests.parity.support import answers, assert_close, assert_parity, normal, outputs
from tokenizer.errors import InputError
from torch_impl.model import TransformerLM

FAMILY, SHAPE = "transformer_lm of the family", (2, 5, 1, 4, 4, 12, 11)
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")


def label(options: Options) -> str:
    """Return what differs from the default."""
    return " ".join(f"{n}={v}" for n, v in options.items() if v != DEFAULTS.get(n)) or "defaults"


def model(options: Options, layers: int = 2, context_length: int = 6) -> ModelConfig:
    """Return the config of a tiny decoder."""
    return ModelConfig(11, context_length, 16, layers, 4, 12, rope_theta=100.0, **options)


def each_value() -> list[Options]:
    """Return variants in which every value of every option appears, but not every pair."""
    missing, chosen = {(name, number) for name in OPTIONS for number in range(len(OPTIONS[name]))}, []
    while missing:
        most = max(range(len(CHOICES)), key=lambda i: len(missing & set(CHOICES[i].items())))
        chosen.append(VARIANTS[most])
        missing -= set(CHOICES[most].items())
    return chosen


def test_every_pair_of_options_is_among_the_variants() -> None:
    numbers = {name: range(len(values)) for name, values in OPTIONS.items()}
    for a, b in combinations(OPTIONS, 2):
        assert {(c[a], c[b]) for c in CHOICES} == set(product(numbers[a], numbers[b])), (a, b)
    assert len(VARIANTS) < 1.5 * max(len(x) * len(y) for x, y in combinations(numbers.values(), 2))


def test_every_set_of_keywords_takes_its_turn() -> None:
    for sets in (sets for values in OPTIONS.values() for sets in values):
        for keywords in sets:
            assert any(keywords.items() <= variant.items() for variant in VARIANTS), keywords


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=lambda i: label(VARIANTS[i]))
def test_parity(number: int) -> None:
    """The logits, and their gradients with respect to every weight, are the oracle's."""
    assert_parity(Case(FAMILY, SHAPE, number), "float64")


@pytest.mark.parametrize("number", [3, 7])
def test_parity_in_float32(number: int) -> None:
    assert_parity(Case(FAMILY, SHAPE, number), "float32")


@pytest.mark.parametrize("options", each_value(), ids=label)
def test_cached_logits_are_those_of_the_whole(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """After prompts of two lengths, token by token. Beyond the context a token sees the last context_length tokens."""
    S, T, lengths = 6, 9, np.array([2, 4])
    slides = options["position"] != "learned"
    rng = np.random.default_rng(0)
    config = TrainConfig(model(options, context_length=S), compute_dtype="float64")
    weights, ids = model_weights(rng, config.model), rng.integers(0, 11, (2, T if slides else S))
    # The oracle's mask, without the keys that have left the cache.
    seen = oracle.causal_mask(ids.shape[1])
    monkeypatch.setattr("parity.oracle.model.causal_mask", lambda T: np.triu(seen, 1 - S))
    whole = oracle.transformer_lm(weights, ids, config.model)
    for name in BACKENDS:
        backend = load(name, config)
        state = backend.load_state(config, weights.items(), None)
        logits, cache = backend.make_prefill(config)(state, ids[:, :4], lengths)
        assert_close(logits, whole[np.arange(2), lengths - 1], "float64", "model_forward")
        decode = backend.make_decode_step(config)
        for step in range(ids.shape[1] - max(lengths)):
            positions = lengths + step
            logits, cache = decode(state, cache, ids[np.arange(2), positions], positions)
            assert_close(logits, whole[np.arange(2), positions], "float64", "model_forward")


def key_biases_are_free(config: ModelConfig) -> bool:
    """Return whether key biases have no gradient: without positions they add the same to all scores of a query.

    A cap of the scores comes after this sum, so that it matters.
    """
    changes_with_them = config.position == "rope" or config.qk_norm or config.score_softcap is not None
    return config.has_bias_of_qkv and not changes_with_them


@pytest.mark.parametrize("options", each_value(), ids=label)
def test_training_steps(options: Options) -> None:
    """torch and JAX agree on losses and weights after a few steps in two micro-batches, and after exchanging states."""
    optimizer = OptimizerConfig(learning_rate=1e-2, max_grad_norm=0.5, decay="matrices", weight_decay=0.3)
    layers = len(options.get("layer_types", ())) or 1
    config = TrainConfig(
        model(options, layers), optimizer, batch_size=4, grad_accumulation=2, compute_dtype="float64"
    )
    tokens, losses, leaves = np.random.default_rng(0).integers(0, 11, 200), [], []
    for name in BACKENDS:
        backend = load(name, config)
        state, step = backend.init_state(config, 0), backend.make_train_step(config)
        before = {key: array.copy() for key, array in backend.read_weights(state)}
        for t in range(4):
            state, metrics = step(state, get_batch(tokens, 0, t, 4, 6, 2), 1e-2)
            losses.append(float(metrics["loss"]))
        leaves.append(dict(backend.read_weights(state)))
        assert all(not np.array_equal(array, before[key]) for key, array in leaves[-1].items())
    assert relative_error(np.array(losses[:4]), np.array(losses[4:])) <= RUN["float64"]
    for key, array in leaves[0].items():
        if not (key.endswith("k_proj.bias") and key_biases_are_free(config.model)):
            assert relative_error(array, leaves[1][key]) <= RUN["float64"], key


@pytest.mark.parametrize("name", BACKENDS)
def test_learned_positions_end(name: BackendName) -> None:
    """A position beyond the table's end is refused: JAX would clamp it."""
    config = TrainConfig(model({"position": "learned"}, layers=1))
    backend = load(name, config)
    state, tokens = backend.init_state(config, 0), np.zeros((1, 7), np.int32)
    _, cache = backend.make_prefill(config)(state, tokens[:, :6], np.array([6]))
    with pytest.raises(InputError, match="position 6 has no embedding: the model learned 6"):
        backend.make_decode_step(config)(state, cache, tokens[:, 0], np.array([6]))
    # Position 5 is the last position.
    backend.make_decode_step(config)(state, cache, tokens[:, 0], np.array([5]))


def grouped(num_kv_heads: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Draw attention with four query heads of four dimensions."""
    weights = {f"{n}_proj.weight": normal(i, 16, 16) / 4 for i, n in enumerate(("q", "output"))}
    biases = {f"{n}_proj.bias": normal(i, 16) for i, n in enumerate(("q", "output"), 2)}
    weights |= {f"{n}_proj.weight": normal(i, 4 * num_kv_heads, 16) / 4 for i, n in enumerate("kv", 4)}
    biases |= {f"{n}_proj.bias": normal(i, 4 * num_kv_heads) for i, n in enumerate("kv", 6)}
    gains = {f"{n}_norm.weight": 1 + normal(i, 4) / 4 for i, n in enumerate("qk", 8)}
    statics = {"num_heads": 4, "num_kv_heads": num_kv_heads, "eps": 1e-5}
    return {"x": normal(9, 2, 6, 16)} | weights | biases | gains, {"mask": oracle.causal_mask(6)}, statics


def test_a_shared_key_is_as_good_as_copies() -> None:
    """Grouped-query attention is attention in which each key and value head stands several times in a row."""
    arrays, constants, statics = grouped(2)
    repeated = dict(arrays)
    for name in ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"):
        heads = arrays[name].reshape(2, 4, *arrays[name].shape[1:])
        repeated[name] = np.repeat(heads, 2, axis=0).reshape(16, *arrays[name].shape[1:])
    expected = multihead_self_attention(repeated, arrays["x"], 4, constants["mask"])
    layer = "multihead_self_attention of groups"
    for output in outputs(layer, arrays, constants, dtype="float64", **statics).values():
        assert_close(output, expected, "float64")


def test_no_shared_key_is_repeated_in_memory() -> None:
    """No array, computed or kept for the backward pass, is as large as the keys of all query heads."""
    B, H, G, T, S, K = 2, 6, 2, 3, 7, 5
    q, k, v, mask = np.ones((B, H, T, K)), np.ones((B, G, S, K)), np.ones((B, G, S, K)), np.ones((T, S), bool)
    jaxpr = jax.make_jaxpr(jax_impl.attention.grouped_query_attention)(q, k, v, mask)
    sizes = {
        math.prod(map(int, shape.split(",")))
        for shape in re.findall(r":[a-z]+[0-9]*\[([0-9,]+)\]", str(jaxpr))
    }
    kept: list[int] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.untyped_storage().nbytes() // 8)
        return x

    q_BHTK, k_BGSK, v_BGSK = (torch.tensor(x, requires_grad=True) for x in (q, k, v))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch_impl.attention.grouped_query_attention(q_BHTK, k_BGSK, v_BGSK, torch.tensor(mask))
    assert B * H * T * S in sizes  # the weights
    for found in (sizes, set(kept)):
        assert B * G * S * K in found  # the keys
        assert B * H * S * K not in found


def test_caches_hold_the_shared_heads_alone() -> None:
    config = TrainConfig(model({"num_kv_heads": 1}, layers=1))
    for name in BACKENDS:
        backend = load(name, config)
        _, caches = backend.make_prefill(config)(
            backend.init_state(config, 0), np.zeros((2, 3), np.int32), np.array([3, 3])
        )
        layer = caches.layers[0]
        keys = layer.k_BHSK if name == "torch" else layer.k_BHKS.mT
        B, H, _, K = keys.shape
        assert (B, H, K) == (2, 1, 4)
        assert keys.shape == layer.v_BHSK.shape


def test_tied_weights_are_one_leaf_with_both_gradients() -> None:
    """The gradient of the embedding and that of the head add up."""
    config, name = model({"tie_embeddings": True}, layers=1), "token_embeddings.weight"
    untied, rng = replace(config, tie_embeddings=False), np.random.default_rng(0)
    weights, ids = model_weights(rng, config), {"token_ids": rng.integers(0, 11, (2, 5))}
    arrays = weights | {"lm_head.weight": weights[name]}
    together = answers("transformer_lm", weights, ids, dtype="float64", config=config)
    apart = answers("transformer_lm", arrays, ids, dtype="float64", config=untied)
    for backend, (output, gradients) in together.items():
        assert_close(output, apart[backend][0], "float64", "model_forward")
        both = apart[backend][1][name] + apart[backend][1]["lm_head.weight"]
        assert_close(gradients[name], both, "float64", "model_gradient")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("options", VARIANTS, ids=label)
def test_the_names_are_those_of_the_config(options: Options, name: BackendName) -> None:
    config = TrainConfig(model(options))
    backend = load(name, config)
    found = {key: array.shape for key, array in backend.read_weights(backend.init_state(config, 0))}
    assert found == parameter_shapes(config.model)


def test_torch_modules_start_with_the_leaves_of_the_config() -> None:
    """So does their state dict: no leaf stands there twice, and none belongs to an option that was not chosen."""
    for options in VARIANTS:
        config = model(options)
        state = TransformerLM(config).state_dict()
        assert {key: tuple(t.shape) for key, t in state.items()} == parameter_shapes(config)


@pytest.mark.parametrize(("dtype", "turn"), [("float32", 0), ("bfloat16", 1)])
def test_activations_keep_their_type(dtype: Dtype, turn: int) -> None:
    """With float32 weights, the logits have the activations' type, whatever the options. The types take turns."""
    for options in VARIANTS[turn::2]:
        config = TrainConfig(model(options, layers=1), compute_dtype=dtype)
        backend = load("jax", config)
        params = backend.init_state(config, 0).params
        out = jax.eval_shape(
            lambda p, i, m=config.model: transformer_lm(p, i, m, jnp.dtype(dtype)),
            params,
            np.zeros((1, 6), int),
        )
        assert out.dtype == dtype
        state = load("torch", config).init_state(config, 0)
        assert state.model(torch.zeros((1, 6), dtype=torch.int64)).dtype == getattr(torch, dtype)
