"""Fits of scaling laws: points with known constants give the constants back, and laws of algebra hold."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from lm.experiment.scaling.fit import fit_points
from lm.experiment.scaling.isoflop import Optima
from lm.experiment.scaling.points import Point
from lm.experiment.scaling.tables import tables
from tokenizer.errors import InputError

# The published constants and budgets of Hoffmann et al. (2022), section 3.3 and figure 3.
E, A, B, a, b = 1.69, 406.4, 410.7, 0.34, 0.28
BUDGETS = (6e18, 3e19, 1e20, 6e20, 3e21)
TRUE = {"E": E, "A": A, "B": B, "a": a, "b": b}
AHEAD = 1e24


def loss(parameters: float, tokens: float) -> float:
    """The published formula."""
    return E + A / parameters**a + B / tokens**b


def best_size(flops: float) -> float:
    """The size with the lowest loss, by the published formula and FLOPs = 6 N D."""
    return float((a * A / (b * B)) ** (1 / (a + b)) * (flops / 6) ** (b / (a + b)))


def grid(noise: float = 0.0, seed: int = 0, sizes: int = 7, span: float = 1.6) -> list[Point]:
    """Runs around the best size of each budget, with noise in log L."""
    normal = np.random.default_rng(seed).standard_normal
    points = []
    for flops in BUDGETS:
        for away in np.linspace(-span, span, sizes):
            n = best_size(flops) * math.exp(away)
            d = flops / (6 * n)
            points.append(Point(flops, n, d, loss(n, d) * math.exp(noise * normal())))
    return points


def fit(points: list[Point], floor: float | None = E, resamples: int = 0, **more: Any) -> dict[str, Any]:
    """The methods of a fit; without intervals by default."""
    return fit_points(points, floor, [AHEAD], resamples, **more)["methods"]


def values(method: dict[str, Any]) -> dict[str, float]:
    return {name: fact["value"] for name, fact in method.items()}


def test_points_of_the_published_formula_give_the_published_constants() -> None:
    methods = fit(grid())
    for name in ("law, E free", "law, E given"):
        found = values(methods[name])
        assert {key: found[key] for key in TRUE} == pytest.approx(TRUE, rel=1e-5)
        assert found["N exponent"] == pytest.approx(b / (a + b), rel=1e-6)
        assert found["D exponent"] == pytest.approx(a / (a + b), rel=1e-6)
        n = best_size(AHEAD)
        assert found[f"N at {AHEAD:g}"] == pytest.approx(n, rel=1e-4)
        assert found[f"loss at {AHEAD:g}"] == pytest.approx(loss(n, AHEAD / (6 * n)), rel=1e-7)


def test_narrow_parabolas_give_the_published_exponents() -> None:
    found = values(fit(grid(span=0.2))["parabolas, E free"])
    # At the best size, L = E + k C^-g with g = a b / (a + b).
    assert found["N exponent"] == pytest.approx(b / (a + b), rel=1e-4)
    assert found["g"] == pytest.approx(a * b / (a + b), rel=1e-3)
    assert found["E"] == pytest.approx(E, rel=1e-3)
    assert found[f"N at {AHEAD:g}"] == pytest.approx(best_size(AHEAD), rel=0.01)


def test_the_lowest_runs_are_the_courses_reading() -> None:
    points = grid(3e-3)
    best = [min((p for p in points if p.flops == flops), key=lambda p: p.loss) for flops in BUDGETS]
    slope, intercept = np.polyfit(np.log(BUDGETS), np.log([p.parameters for p in best]), 1)
    found = values(fit(points)["lowest runs"])
    assert found["N exponent"] == pytest.approx(slope)
    assert found["D exponent"] == pytest.approx(1 - slope)
    n = math.exp(intercept + slope * math.log(AHEAD))
    assert found[f"N at {AHEAD:g}"] == pytest.approx(n)
    assert found[f"D at {AHEAD:g}"] == pytest.approx(AHEAD / (6 * n))


@pytest.fixture(scope="module")
def noisy() -> list[dict[str, Any]]:
    """Fits of noisy points, with their intervals."""
    return [fit(grid(3e-3, seed), resamples=24) for seed in range(3)]


def test_intervals_hold_the_true_constants(noisy: list[dict[str, Any]]) -> None:
    n = best_size(AHEAD)
    true = TRUE | {
        "N exponent": b / (a + b),
        f"N at {AHEAD:g}": n,
        f"loss at {AHEAD:g}": loss(n, AHEAD / 6 / n),
    }
    held, all_errors = [], []
    for methods in noisy:
        for method in ("law, E free", "law, E given", "parabolas, E free"):
            for name in true.keys() & methods[method].keys():
                fact = methods[method][name]
                if fact["low"] != fact["high"]:
                    held.append(fact["low"] <= true[name] <= fact["high"])
                    all_errors.append(abs(fact["value"] - true[name]) / fact["error"])
    assert len(held) > 45
    assert np.mean(held) > 0.8
    # Intervals that are too wide would say nothing.
    assert 0.1 < np.median(all_errors) < 1.5


def test_a_given_floor_narrows_the_intervals(noisy: list[dict[str, Any]]) -> None:
    for methods in noisy:
        for approach, names in (
            ("law", ("a", f"loss at {AHEAD:g}")),
            ("parabolas", ("g", f"loss at {AHEAD:g}")),
        ):
            for name in names:
                free, given = (methods[f"{approach}, E {kind}"][name] for kind in ("free", "given"))
                assert given["high"] - given["low"] < 0.8 * (free["high"] - free["low"]), (approach, name)


def test_noise_widens_the_intervals(noisy: list[dict[str, Any]]) -> None:
    quiet = fit(grid(3e-4), resamples=8)
    for name in ("E", "a", "b"):
        assert 5 * quiet["law, E free"][name]["error"] < noisy[0]["law, E free"][name]["error"]


def test_other_units_move_the_constants_as_algebra_says() -> None:
    points = grid(3e-3)
    s, t, u = 1e-3, 20.0, 0.7
    scaled = [Point(p.flops * s * t, p.parameters * s, p.tokens * t, p.loss * u) for p in points]
    ahead = AHEAD * s * t
    before = fit(points, resamples=3)
    after = fit_points(scaled, u * E, [ahead], 3)["methods"]
    for name in ("law, E free", "law, E given"):
        for value in ("value", "low", "high"):
            old, new = (
                {key: fact[value] for key, fact in methods[name].items()} for methods in (before, after)
            )
            exact = {"E": u * old["E"], "a": old["a"], "b": old["b"], "N exponent": old["N exponent"]}
            exact[f"N at {ahead:g}"] = s * old[f"N at {AHEAD:g}"]
            exact[f"D at {ahead:g}"] = t * old[f"D at {AHEAD:g}"]
            exact[f"loss at {ahead:g}"] = u * old[f"loss at {AHEAD:g}"]
            if value == "value":
                exact |= {"A": u * old["A"] * s ** old["a"], "B": u * old["B"] * t ** old["b"]}
            assert {key: new[key] for key in exact} == pytest.approx(exact, rel=1e-5)


def test_the_order_of_points_changes_nothing_and_the_seed_only_the_intervals() -> None:
    points = grid(3e-3)
    first = fit_points(points, E, resamples=3)
    shuffled = [points[i] for i in np.random.default_rng(1).permutation(len(points))]
    assert fit_points(shuffled, E, resamples=3) == first
    other = fit_points(points, E, resamples=3, seed=1)["methods"]
    for method, numbers in first["methods"].items():
        assert values(numbers) == values(other[method])
    assert other["law, E free"]["E"]["low"] != first["methods"]["law, E free"]["E"]["low"]


def test_one_wrong_run_hardly_moves_the_constants() -> None:
    points = grid()
    points[8] = dataclasses.replace(points[8], loss=1.3 * points[8].loss)
    found = values(fit(points)["law, E free"])
    assert {key: found[key] for key in ("E", "a", "b")} == pytest.approx({"E": E, "a": a, "b": b}, rel=0.01)


def test_the_optimum_is_the_lowest_loss_at_equal_flops_of_any_rule() -> None:
    # Attention makes the FLOPs of small models larger than 6 N D.
    points = [dataclasses.replace(p, flops=9 * p.parameters**0.97 * p.tokens) for p in grid()]
    facts = fit_points(points, E, [AHEAD], 0)
    assert facts["flops"] == pytest.approx({"coefficient": 9, "exponent": 0.97}, rel=1e-6)
    n = np.geomspace(1e9, 1e12, 100_001)
    losses = E + A / n**a + B / (AHEAD / (9 * n**0.97)) ** b
    found = values(facts["methods"]["law, E free"])
    assert found[f"N at {AHEAD:g}"] == pytest.approx(n[losses.argmin()], rel=1e-3)
    assert found[f"D at {AHEAD:g}"] == pytest.approx(AHEAD / (9 * found[f"N at {AHEAD:g}"] ** 0.97))
    assert found[f"loss at {AHEAD:g}"] == pytest.approx(losses.min(), rel=1e-6)


def test_budgets_that_differ_by_a_step_are_one_budget() -> None:
    points = [dataclasses.replace(p, flops=p.flops * (1 + 0.004 * (i % 7))) for i, p in enumerate(grid())]
    assert [fact["points"] for fact in fit_points(points, E, resamples=0)["budgets"]] == [7] * 5


def test_a_parabola_that_opens_downwards_is_left_out_with_a_note() -> None:
    points = grid()
    concave = [dataclasses.replace(p, loss=6 - p.loss) if p.flops == BUDGETS[0] else p for p in points]
    facts = fit_points(concave, None, [AHEAD], 0)
    assert facts["notes"] == ["6e18 FLOPs: the parabola has no lowest point, and is left out"]
    assert [fact["parabola"] is None for fact in facts["budgets"]] == [True, *[False] * 4]
    rest = [fact["parabola"]["parameters"] for fact in facts["budgets"][1:]]
    slope = np.polyfit(np.log(BUDGETS[1:]), np.log(rest), 1)[0]
    assert facts["methods"]["parabolas, E free"]["N exponent"]["value"] == pytest.approx(slope)


def test_a_lowest_point_outside_the_sizes_is_noted() -> None:
    points = [p for p in grid() if p.flops != BUDGETS[0] or p.parameters > 1.1 * best_size(BUDGETS[0])]
    assert fit_points(points, E, resamples=0)["notes"] == [
        "6e18 FLOPs: the parabola's lowest point is outside the sizes; train smaller models"
    ]


def test_runs_without_common_budgets_are_fitted_by_approach_3_alone() -> None:
    points = [
        Point(6 * n * d, n, d, loss(n, d))
        for n in (1e8, 3.1e8, 1e9, 3.3e9)
        for d in (2e9, 7e9, 2.3e10, 8.1e10)
    ]
    facts = fit_points(points, None, [AHEAD], 5)
    assert facts["methods"].keys() == {"law, E free"}
    assert facts["methods"]["law, E free"]["E"]["value"] == pytest.approx(E, rel=1e-5)
    assert facts["notes"] == ["16 points have a budget with fewer than 3 sizes: only approach 3 uses them"]
    assert "parabolas" not in "\n".join(tables(facts))


def test_a_text_without_entropy_is_fitted() -> None:
    points = [dataclasses.replace(p, loss=p.loss - E) for p in grid(1e-3)]
    method = fit(points, None, resamples=5)["law, E free"]
    assert 0 <= method["E"]["value"] < 0.02
    assert method["a"]["value"] == pytest.approx(a, rel=0.05)
    assert method["E"]["resamples"] == 5


@pytest.mark.parametrize(
    ("points", "floor", "said"),
    [
        (grid()[:5], E, "5 points do not determine five unknowns; give at least 6"),
        (grid()[:7], E, "the points have 1 compute budgets; a fit needs at least 3"),
        (grid()[:14], E, "the points have 2 compute budgets"),
        ([dataclasses.replace(p, parameters=1e8) for p in grid()], E, "the points have 1 model sizes"),
        (grid(), 5.0, "floor: 5.0 is not between 0 and the lowest loss, 2.2"),
        (grid(), -1.0, "floor: -1.0 is not between"),
        (grid(), math.nan, "floor: nan is not between"),
        (
            [*grid(), Point(1e19, 1e8, 1e10, math.inf)],
            E,
            "loss=inf.*has a value that is not a number from 1e-40 to 1e40",
        ),
        (
            [dataclasses.replace(p, loss=1 + 1e3 / p.tokens**0.3) for p in grid()],
            None,
            "the loss does not fall as a power of model size",
        ),
    ],
)
def test_points_that_determine_no_law_are_refused(
    points: list[Point], floor: float | None, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        fit_points(points, floor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("floor", "fewest"), [(None, 3), (0.5, 2)])
def test_as_many_budgets_as_unknowns_give_a_law_of_the_loss(floor: float | None, fewest: int) -> None:
    def optima(budgets: int) -> Optima:
        log_flops = np.log([1e18, 1e19, 1e20][:budgets])
        return Optima(log_flops, log_flops / 2, 0.5 + 400 * np.exp(-0.15 * log_flops))

    assert optima(fewest - 1).loss_law(floor) is None
    fewest_optima = optima(fewest)
    law = fewest_optima.loss_law(floor)
    assert law is not None
    assert np.exp(law.log_loss(fewest_optima.log_flops[:, None])) == pytest.approx(
        fewest_optima.loss, rel=1e-5
    )
