"""What is measured about a wrong array: factors, terms, orders, places, precision, and what an output depends on."""

from collections.abc import Callable

import numpy as np
import pytest

from parity import oracle
from parity.case import Case, Given
from parity.check.measure import Difference, describe
from parity.check.precision import bits_lost, explain, in_low, round_to
from parity.check.probes import dependencies, off_only_if, repeats
from parity.layers import LAYERS


def draw(layer: str, seed: int = 0, index: int = -1, positions: str = "from 0") -> Given:
    case = Case(layer, LAYERS[layer].shapes[index], seed, positions=positions)
    return LAYERS[layer].draw(np.random.default_rng(seed), case)


def differences(
    layer: str, wrong: Callable[[Given, np.ndarray], np.ndarray], index: int = -1
) -> list[Difference]:
    """Return two cases of a layer, with sizes that differ if the layer has two shapes."""
    found = []
    for seed, i in ((0, 0), (1, index)):
        given = draw(layer, seed, i)
        exact = np.asarray(LAYERS[layer].oracle(given))
        found.append(Difference(given, "output", wrong(given, exact), exact, 1e-6))
    return found


@pytest.mark.parametrize(
    ("layer", "wrong", "text"),
    [
        ("silu", lambda g, y: 2 * y, "the output is 2 times the right one"),
        ("silu", lambda g, y: 1.37 * y, "the output is 1.37 times the right one"),
        ("silu", lambda g, y: y + 0.25, "the output is the right one plus 0.25"),
        ("silu", lambda g, y: g.arrays["x"], "the output is x itself"),
        ("silu", lambda g, y: 0 * y, "the output is zero"),
        (
            "cross_entropy",
            lambda g, y: y * g.constants["targets"].size,
            "the output is the number of targets times the right one",
        ),
        ("linear with bias", lambda g, y: y - g.arrays["bias"], "without a term bias"),
        (
            "linear",
            lambda g, y: y / np.sqrt(g.arrays["x"].shape[-1]),
            "1/sqrt(x.shape[-1]) times the right one",
        ),
        ("layernorm", lambda g, y: y[..., ::-1], "right features in another order: reversed"),
        ("rmsnorm", lambda g, y: np.roll(y, 1, -1), "moved by 1"),
        ("transformer_block", lambda g, y: y - g.arrays["x"], "without a term x"),
        ("transformer_block", lambda g, y: y[::-1], "the right batch entries in another order"),
    ],
)
def test_names_what_all_cases_have_in_common(
    layer: str, wrong: Callable[[Given, np.ndarray], np.ndarray], text: str
) -> None:
    assert text in describe(differences(layer, wrong))[0]


def test_rms_norm_without_its_weight_is_a_factor_of_each_feature() -> None:
    found = differences("rmsnorm", lambda g, y: y / g.arrays["weight"])[1:]
    assert describe(found) == [
        "the output is right except for a factor of each feature: weight is not applied"
    ]


def test_a_batch_entry_that_is_not_written_is_zero() -> None:
    d = differences("transformer_block", lambda g, y: y)[1]
    wrong = d.exact.copy()
    wrong[1] = 0
    found = describe([Difference(d.given, "output", wrong, d.exact, 1e-6)])
    assert found == ["the output is right, except that it is zero at batch entry 1"]


def test_places_that_differ_are_listed() -> None:
    d = differences("rmsnorm", lambda g, y: y)[1]
    wrong = d.exact.copy()
    wrong[1, 1:, :] += np.random.default_rng(0).standard_normal(wrong[1, 1:, :].shape)
    found = describe([Difference(d.given, "output", wrong, d.exact, 1e-6)])
    assert found == ["the output differs only at batch entry 1, all positions except 0"]


def test_a_gradient_of_whole_heads_names_the_heads() -> None:
    given = draw("multihead_self_attention", index=0)
    exact = np.random.default_rng(0).standard_normal((24, 24))
    wrong = exact.copy()
    wrong[8:16] += np.random.default_rng(1).standard_normal((8, 24))
    d = Difference(given, "q_proj.weight", wrong, exact, 1e-6)
    assert describe([d]) == ["the gradient of q_proj.weight differs only at rows 8 to 15 (heads 1)"]


def test_a_detached_tensor_has_a_zero_gradient() -> None:
    d = differences("rmsnorm", lambda g, y: 0 * y)[0]
    text = describe([Difference(d.given, "weight", d.actual, d.exact, 1e-6)])[0]
    assert text == (
        "the gradient of weight is zero; the tensor is probably detached, or computed outside of the graph"
    )


def test_nan_names_its_rows() -> None:
    d = differences("rmsnorm", lambda g, y: y)[1]
    wrong = d.exact.copy()
    wrong[:, 2] = np.nan
    assert describe([Difference(d.given, "output", wrong, d.exact, 1e-6)]) == [
        "the output is NaN at position 2"
    ]


def test_heads_that_are_not_transposed_back_are_an_order_of_features() -> None:
    exact = np.random.default_rng(0).standard_normal((2, 5, 6))
    wrong = exact.reshape(2, 5, 2, 3).swapaxes(-1, -2).reshape(2, 5, 6)
    d = Difference(draw("multihead_self_attention"), "output", wrong, exact, 1e-6)
    assert "as if reshaped to (2, 3) and transposed" in describe([d])[0]


def test_noise_gets_no_explanation() -> None:
    d = differences("rmsnorm", lambda g, y: y + np.random.default_rng(5).standard_normal(y.shape))
    assert describe(d) == []


def test_bits_are_counted() -> None:
    assert bits_lost(2**-23, "float32") == "loses 0 of its 24 bits"
    assert bits_lost(2**-13, "float32") == "loses 10 of its 24 bits"


@pytest.mark.parametrize("low", ["bfloat16", "float16", "float32"])
def test_the_function_that_rounds_is_named(low: str) -> None:
    """The error of a block whose one function rounds points to this function and its type, and to no other."""
    given = draw("transformer_block")
    exact = np.asarray(LAYERS["transformer_block"].oracle(given))

    def simulate(
        name: str, change: Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]
    ) -> np.ndarray:
        with oracle.replaced(name, change(oracle.function(name))):
            return LAYERS["transformer_block"].oracle(given)

    functions = ("rmsnorm", "rope", "silu", "attention_scores", "linear")
    for name in functions:
        wrong = simulate(name, lambda f: in_low(f, low, "each step"))  # type: ignore[arg-type]
        text = explain(wrong, exact, simulate, functions, ("float32", "bfloat16", "float16"))
        assert f"`{name}`" in text
        assert low in text
    noise = exact + 1e-3 * np.random.default_rng(0).standard_normal(exact.shape)
    assert explain(noise, exact, simulate, functions, ("float32", "bfloat16", "float16")) == ""


def test_running_sums_round_after_every_term() -> None:
    x = np.full((1, 1000), 1.0)
    assert in_low(lambda x: x.sum(-1), "bfloat16", "running sums")(x) == 256
    assert in_low(lambda x: x.sum(-1), "bfloat16", "each step")(x) == round_to(np.array(1000.0), "bfloat16")


def test_equal_calls_that_differ_are_found() -> None:
    rng = np.random.default_rng(0)
    given = draw("rmsnorm")
    assert repeats(lambda g: g.arrays["x"] * rng.random(), given).startswith(
        "two calls with equal arguments differ"
    )
    assert repeats(lambda g: g.arrays["x"], given) == ""


def wrong_mask(shift: int) -> Callable[[Given], np.ndarray]:
    def ask(given: Given) -> np.ndarray:
        T = given.constants["mask"].shape[0]
        mask = np.tril(np.ones((T, T), bool), shift)
        return LAYERS["multihead_self_attention"].oracle(given._replace(constants={"mask": mask}))

    return ask


def test_a_mask_that_shows_the_future_is_seen_in_what_depends_on_what() -> None:
    given, right = draw("multihead_self_attention"), LAYERS["multihead_self_attention"].oracle
    found = dependencies(wrong_mask(1), right, given)
    assert found == ["position 0 of the output changes with position 1 of x: positions see the future"]
    assert dependencies(right, right, given) == []


def test_mixed_batch_entries_are_seen_in_what_depends_on_what() -> None:
    given, right = draw("multihead_self_attention"), LAYERS["multihead_self_attention"].oracle

    def ask(given: Given) -> np.ndarray:
        return right(given) + given.arrays["x"].mean(0)

    assert dependencies(ask, right, given) == [
        "batch entry 0 of the output changes with entry 1 of x: batch entries are mixed"
    ]


def test_the_one_condition_of_a_failure_is_found() -> None:
    givens = [
        draw("multihead_self_attention with rope", positions=p) for p in ("from 0", "from 1000", "random")
    ]
    assert off_only_if(givens, [False, True, True]) == "it is right only if positions count from 0"
    assert off_only_if(givens, [True, True, True]) == ""
    batches = [
        given._replace(arrays={"x": np.zeros((b, 3, 4))}, constants={}) for b, given in enumerate(givens)
    ]
    assert off_only_if(batches, [True, False, True]) == "it is right only if the batch of x is 1"
    same = [
        given._replace(arrays={"x": np.zeros((b, 3, 4))}, statics={"num_heads": 7})
        for b, given in enumerate(givens, 2)
    ]
    assert off_only_if(same, [True, False, True]) == "it is right only if the batch of x is 3"
    heads = [g._replace(statics={"num_heads": n}) for g, n in zip(same, (2, 3, 5), strict=True)]
    assert off_only_if(heads, [False, False, True]) == "it is right only if the batch of x is num_heads"
