"""Dropout has the same masks in both backends and in NumPy; their statistics, and what must not change them."""

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.functional
import torch_impl.functional
from jax_impl.model import transformer_lm
from lm.backend import BackendName, load
from lm.budgets import BUDGETS, Dtype, relative_error
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.windows import get_batch
from lm.dropout import dropout_mask, hashes, mix
from tests.parity.support import examples, normal

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
RATES: dict[str, Any] = {"embedding_dropout": 0.1, "attention_dropout": 0.2, "residual_dropout": 0.3}
NO_DROPOUT: dict[str, Any] = dict.fromkeys(RATES, 0.0)


def dropped(
    x: np.ndarray,
    rate: float,
    place: str,
    seed: int = 0,
    step: int = 0,
    rows: Any = None,
    dtype: str = "float64",
) -> dict[str, np.ndarray]:
    """Return what each backend's dropout makes of x, whose first axis are these rows."""
    rows = np.arange(len(x), dtype=np.int32) if rows is None else np.asarray(rows, np.int32)
    torch_key = torch_impl.functional.DropoutKey(seed, step, torch.tensor(rows))
    jax_draw = jax_impl.functional.DropoutKey(seed, jnp.int32(step), jnp.array(rows))
    of_torch = torch_impl.functional.dropout(
        torch.tensor(x, dtype=getattr(torch, dtype)), rate, torch_key, place
    )
    of_jax = jax_impl.functional.dropout(jnp.array(x, dtype), rate, jax_draw, place)
    return {"torch": of_torch.double().numpy(), "jax": np.asarray(of_jax, np.float64)}


@examples(15)
@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**31 - 1),
    rows=st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3),
    rate=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 1 - 1e-12]),
    place=st.sampled_from(["embedding", "layers.11.attn", "decoder.layers.0.weights"]),
)
def test_both_drop_what_the_reference_drops(seed: int, step: int, rows: Any, rate: float, place: str) -> None:
    x = np.ones((3, 5, 7))
    expected = dropout_mask(seed, place, step, np.array(rows, np.int32), (5, 7), rate) / (1 - rate)
    for output in dropped(x, rate, place, seed, step, rows).values():
        np.testing.assert_array_equal(output, expected)


@examples(20)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=70, max_size=70))
def test_the_hash_is_the_published_one_in_all_three(words: list[int]) -> None:
    """The hash agrees with Python's integers, one word at a time, and the constants of Wellons' page."""

    def lowbias32(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    x = np.array(words, np.uint32)
    expected = np.array([lowbias32(word) for word in words], np.uint32)
    np.testing.assert_array_equal(mix(x), expected)
    of_torch = torch_impl.functional.mix(torch.tensor(x.view(np.int32)))
    np.testing.assert_array_equal(of_torch.numpy().view(np.uint32), expected)
    np.testing.assert_array_equal(np.asarray(jax_impl.functional.mix(jnp.array(x))), expected)


def test_masks_are_pinned() -> None:
    """Other masks would make a resumed run differ from the uninterrupted run."""
    assert hashes(7, "embedding", 3, np.array([0, 5], np.int32), 3).tolist() == PINNED


PINNED = [[-1089396968, 431319715, -74902073], [-803537550, -716003803, 1478615890]]


def chi_square(values: np.ndarray, bins: int) -> float:
    """Compare the hashes' highest bits with the uniform distribution, in standard deviations of the statistic."""
    counts = np.bincount((values.astype(np.int64) + 2**31) * bins >> 32, minlength=bins)
    expected = values.size / bins
    return float(((counts - expected) ** 2 / expected).sum() - (bins - 1)) / (2 * (bins - 1)) ** 0.5


def many() -> dict[str, np.ndarray]:
    """Return a million hashes each of one long row, of many rows, of many steps, and of many places."""
    row, one = np.zeros(1, np.int32), range(16)
    return {
        "elements": hashes(0, "embedding", 0, row, 2**20).ravel(),
        "rows": hashes(0, "embedding", 0, np.arange(2**16, dtype=np.int32), 16).ravel(),
        "steps": np.concatenate([hashes(0, "embedding", t, row, 2**10).ravel() for t in range(2**10)]),
        "places": np.concatenate(
            [hashes(s, f"layers.{i}.attn", 0, row, 2**12).ravel() for s in one for i in one]
        ),
    }


def test_hashes_are_uniform() -> None:
    for name, values in many().items():
        assert abs(chi_square(values, 256)) < 4, name
        assert abs(chi_square(values, 2**14)) < 4, name
        lowest = np.bincount(values & 255, minlength=256) - values.size / 256
        assert np.abs(lowest).max() < 5 * (values.size / 256) ** 0.5, name


def test_hashes_are_independent() -> None:
    """Neighbouring elements, rows, steps, seeds and places are uncorrelated, and pairs fill the square evenly."""
    n, r = 2**14, np.arange(4, dtype=np.int32)
    drawn: dict[tuple[int | str, str, int, int], np.ndarray] = {
        (seed, place, step, row): values
        for seed in (0, 1)
        for place in ("layers.0.attn", "layers.1.attn")
        for step in (0, 1)
        for row, values in enumerate(hashes(seed, place, step, r, n))
    }
    one = next(iter(drawn.values()))
    drawn |= {("shifted", "", by, 0): np.roll(one, by) for by in (1, 2, 64)}
    for a, b in combinations(drawn, 2):
        correlation = np.corrcoef(drawn[a], drawn[b])[0, 1]
        assert abs(correlation) < 5 / n**0.5, (a, b)
        cells = ((drawn[a].astype(np.int64) + 2**31 >> 28) << 28) + (drawn[b].astype(np.int64) + 2**31 >> 4)
        assert abs(chi_square((cells - 2**31).astype(np.int32), 256)) < 5, (a, b)
        # One set is not the other set in another order.
        assert np.isin(drawn[a], drawn[b]).mean() < 0.01 or "shifted" in (a[0], b[0]), (a, b)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_and_the_mean(rate: float) -> None:
    """A share `rate` is dropped, and the rest is scaled so that the mean stays."""
    for output in dropped(np.ones((64, 1024)), rate, "embedding").values():
        assert (output == 0).mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / output.size) ** 0.5)
        assert output.max() == 1 / (1 - rate)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_are_the_same_bits(dtype: Dtype) -> None:
    x = normal(0, 4, 33)
    of_torch, of_jax = dropped(x, 0.1, "embedding", dtype=dtype).values()
    np.testing.assert_array_equal(of_torch, of_jax)


def test_rate_0_and_evaluation_cost_nothing() -> None:
    """torch returns the same tensor, and JAX traces the program of a model without dropout."""
    x = torch.ones(2, 3)
    key = torch_impl.functional.DropoutKey(0, 0, torch.zeros(2, dtype=torch.int32))
    assert torch_impl.functional.dropout(x, 0.0, key, "embedding") is x
    assert torch_impl.functional.dropout(x, 0.5, None, "embedding") is x
    ids, programs = jnp.zeros((2, 6), jnp.int32), []
    for rates in ({}, RATES):
        config = TrainConfig(ModelConfig(11, 6, 8, 1, 2, 12, **rates))
        params = load("jax", config).init_state(config, 0).params
        programs.append(str(jax.make_jaxpr(lambda p, m=config.model: transformer_lm(p, ids, m))(params)))
    assert programs[0] == programs[1]


def run(
    name: BackendName,
    micro_batches: int = 1,
    seed: int = 0,
    stop: int | None = None,
    dtype: Dtype = "float64",
    **model: Any,
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return losses and last weights of four steps; after `stop` steps the state is written and read again."""
    config = TrainConfig(
        ModelConfig(11, 6, 16, 2, 4, 12, **RATES | model),
        OptimizerConfig(learning_rate=1e-2),
        batch_size=4,
        grad_accumulation=micro_batches,
        seed=seed,
        compute_dtype="float64",
    )
    tokens, losses = np.random.default_rng(0).integers(0, 11, 200), []
    backend = load(name, config)
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    for t in range(4):
        if t == stop:
            weights, moments = (
                [(k, a.copy()) for k, a in read(state)]
                for read in (backend.read_weights, backend.read_optimizer)
            )
            state = backend.load_state(config, weights, moments)
        state, metrics = step(state, get_batch(tokens, 0, t, 4, 6, micro_batches), 1e-2)
        losses.append(float(metrics["loss"]))
    return losses, {key: array.copy() for key, array in backend.read_weights(state)}


@pytest.mark.parametrize("name", BACKENDS)
def test_what_changes_a_runs_masks_and_what_does_not(name: BackendName) -> None:
    """A resumed run repeats its masks to the bit. Micro-batches drop what the whole batch drops. Another seed, with the
    same weights and batches, drops other elements."""
    losses, weights = run(name)
    again, resumed = run(name, stop=2)
    assert losses == again
    assert all(np.array_equal(array, weights[key]) for key, array in resumed.items())
    split, accumulated = run(name, micro_batches=2)
    assert relative_error(np.array(split), np.array(losses)) <= BUDGETS["float64"].model_forward
    for key, array in accumulated.items():
        assert relative_error(array, weights[key]) <= BUDGETS["float64"].model_gradient, key
    other, _ = run(name, seed=1)
    plain, _ = run(name, **NO_DROPOUT)
    assert all(abs(a - b) > 1e-4 for a, b in zip(losses, other, strict=True))
    assert all(abs(a - b) > 1e-4 for a, b in zip(losses, plain, strict=True))


def test_each_step_drops_other_elements() -> None:
    """With the same batch and a learning rate of almost zero, only the masks change from step to step."""
    config = TrainConfig(ModelConfig(11, 6, 16, 1, 4, 12, **RATES), batch_size=4, compute_dtype="float64")
    batch = get_batch(np.random.default_rng(0).integers(0, 11, 200), 0, 0, 4, 6)
    losses: dict[str, list[float]] = {}
    for name in BACKENDS:
        backend = load(name, config)
        state, step = backend.init_state(config, 0), backend.make_train_step(config)
        for _ in range(3):
            state, metrics = step(state, batch, 1e-12)
            losses.setdefault(name, []).append(float(metrics["loss"]))
        first, _, _ = backend.make_eval_step(config)(state, batch)
        second, _, _ = backend.make_eval_step(config)(state, batch)
        assert first == second
    assert len({round(loss, 4) for loss in losses["torch"]}) == 3
    assert (
        relative_error(np.array(losses["torch"]), np.array(losses["jax"])) <= BUDGETS["float64"].model_forward
    )


def test_every_rate_acts_at_its_place() -> None:
    """Each rate alone changes the loss, and the backends agree on training with all of them."""
    losses = {name: run("torch", **NO_DROPOUT | {name: rate})[0] for name, rate in RATES.items()}
    assert len({tuple(values) for values in losses.values()}) == 3
    (torch_losses, torch_weights), (jax_losses, jax_weights) = run("torch"), run("jax")
    assert relative_error(np.array(torch_losses), np.array(jax_losses)) <= BUDGETS["float64"].model_forward
    for key, array in torch_weights.items():
        assert relative_error(array, jax_weights[key]) <= BUDGETS["float64"].model_gradient, key


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_both_backends_drop_the_same_in_all_architectures(architecture: Any) -> None:
    """Both backends drop the same elements; the halves of an encoder-decoder drop different ones."""
    model = ModelConfig(11, 6, 16, 1, 4, 12, architecture=architecture, **RATES)
    config = TrainConfig(model, batch_size=4, compute_dtype="float64")
    ids = np.random.default_rng(0).integers(0, 11, (2, 1, 4, 6)).astype(np.int32)
    num_tokens = np.array([[6, 2, 1, 4]], np.int32)
    mask = np.arange(6) < num_tokens[..., None]
    batch = Batch(ids[0], ids[1], mask, num_tokens, ids[1] if architecture == "encoder_decoder" else None)
    results = []
    for name in BACKENDS:
        backend = load(name, config)
        state, step = backend.init_state(config, 0), backend.make_train_step(config)
        plain = backend.make_eval_step(config)(state, batch)[0] / batch.num_targets
        for _ in range(2):
            state, metrics = step(state, batch, 1e-2)
            results.append(float(metrics["loss"]))
        assert abs(results[-2] - plain) > 1e-4
    assert relative_error(np.array(results[:2]), np.array(results[2:])) <= BUDGETS["float64"].model_forward
