"""Fits of scaling laws to points, with bootstrap intervals, and predictions from them.

Approach 3 of Hoffmann et al. (2022) fits L(N, D) = E + A / N^a + B / D^b to all points. Approach 2 fits a parabola to
each budget. Both fit E, and both take E as given if it is known.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lm.experiment.scaling import isoflop
from lm.experiment.scaling.isoflop import Optima
from lm.experiment.scaling.law import Law, Values, fit_law
from lm.experiment.scaling.points import USABLE, Point, check_budgets, is_usable
from lm.experiment.scaling.sample import Sample, as_sample
from lm.experiment.scaling.tables import number
from tokenizer.errors import InputError

RESAMPLES = 200
_PERCENTILES = (2.5, 97.5)
# Each fit has five unknowns, and needs a budget more than a straight line.
_FEWEST_POINTS, _FEWEST_SIZES, _FEWEST_BUDGETS = 6, 3, 3
# Published exponents are between 0.05 and 1. One beyond these limits says that the runs do not fix it.
_EXPONENTS = (0.001, 10)

# Numbers of a resample above this are infinite: their squares would overflow.
_LARGEST = 1e100

Numbers = dict[tuple[str, str], float]
"""(method, name) -> number."""


@dataclass(frozen=True)
class _Fits:
    """All fits of a sample. Keys of the laws are free and given."""

    laws: dict[str, Law]
    parabolas: Optima
    lowest: Optima
    loss_laws: dict[str, Law | None]


def fit_points(
    points: Sequence[Point],
    floor: float | None,
    budgets: Sequence[float] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit both approaches, with E free and, if the floor is known, with E given.

    Args:
        floor: The true E in nats per token; None if it is not known.
        budgets: FLOPs to predict. If empty: four times the largest budget.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        JSON facts, which `tables` and `plot` show.

    Raises:
        InputError: the points do not determine a law.
    """
    points = sorted(points)
    _check(points, floor)
    check_budgets(budgets)
    budgets = list(budgets) or [4 * points[-1].flops]
    sample = as_sample(points)
    everything = np.arange(len(points))
    fits = _fit(sample, everything, sample.budgets, floor, None)
    _check_exponents(fits)
    numbers = _numbers(fits, sample, budgets)
    drawn = [
        _numbers(_fit(sample, *sample.draw(seed, i), floor, fits), sample, budgets) for i in range(resamples)
    ]
    methods: dict[str, dict[str, Any]] = {}
    for (method, name), value in numbers.items():
        values = np.array([one[method, name] for one in drawn])
        methods.setdefault(method, {})[name] = _summary(value, values)
    used, notes = _parabola_facts(points, sample)
    return {
        "points": [asdict(point) for point in points],
        "floor": floor,
        "flops": {"coefficient": sample.flops_coefficient, "exponent": sample.flops_exponent},
        "resamples": resamples,
        "seed": seed,
        "methods": methods,
        "budgets": used,
        "predict": budgets,
        "residuals": {
            name: [float(r) for r in np.log(sample.loss) - law.log_loss(sample.logs(everything))]
            for name, law in fits.laws.items()
        },
        "notes": notes,
    }


def _check(points: Sequence[Point], floor: float | None) -> None:
    if len(points) < _FEWEST_POINTS:
        raise InputError(
            f"{len(points)} points do not determine five unknowns; give at least {_FEWEST_POINTS}"
        )
    for point in points:
        if not all(map(is_usable, (point.flops, point.parameters, point.tokens, point.loss))):
            raise InputError(f"{point} has a value that is not {USABLE}; leave this run out")
    sizes = len({point.parameters for point in points})
    if sizes < _FEWEST_SIZES:
        raise InputError(f"the points have {sizes} model sizes; a fit needs at least {_FEWEST_SIZES}")
    different = len(isoflop.budget_groups(np.array([point.flops for point in points])))
    if different < _FEWEST_BUDGETS:
        raise InputError(
            f"the points have {different} compute budgets; a fit needs at least {_FEWEST_BUDGETS}"
        )
    lowest = min(point.loss for point in points)
    if floor is not None and not 0 < floor < lowest:
        raise InputError(
            f"floor: {floor} is not between 0 and the lowest loss, {lowest:g}; give E in the losses' unit"
        )


def _check_exponents(fits: _Fits) -> None:
    for label, law in fits.laws.items():
        for name, exponent in zip(("model size", "training tokens"), law.exponents, strict=True):
            if not _EXPONENTS[0] < exponent < _EXPONENTS[1]:
                raise InputError(
                    f"with E {label}, the loss does not fall as a power of {name} (the fitted exponent is "
                    f"{exponent:.3g}); give other runs"
                )


def _fit(
    sample: Sample, rows: np.ndarray, budgets: list[np.ndarray], floor: float | None, start: _Fits | None
) -> _Fits:
    """Fit both approaches to some rows of a sample, from the fit to all rows if there is one."""
    floors = {"free": None} if floor is None else {"free": None, "given": floor}
    logs, log_loss = sample.logs(rows), np.log(sample.loss[rows])
    parabolas = _optima(sample, budgets, parabolas=True)
    return _Fits(
        {
            name: fit_law(logs, log_loss, value, None if start is None else start.laws[name])
            for name, value in floors.items()
        },
        parabolas,
        _optima(sample, budgets, parabolas=False),
        {
            name: parabolas.loss_law(value, None if start is None else start.loss_laws[name])
            for name, value in floors.items()
        },
    )


def _optima(sample: Sample, budgets: list[np.ndarray], parabolas: bool) -> Optima:
    """Return the best size of each budget: the lowest point of its parabola, or its run with the lowest loss."""
    found = []
    for rows in budgets:
        if parabolas:
            lowest = isoflop.parabola(sample.log_parameters[rows], sample.loss[rows])
            if lowest is not None:
                found.append((sample.log_flops[rows].mean(), *lowest[1:]))
        else:
            best = rows[np.argmin(sample.loss[rows])]
            found.append((sample.log_flops[rows].mean(), sample.log_parameters[best], sample.loss[best]))
    return Optima(*(np.array(found).T if found else np.empty((3, 0))))


def _numbers(fits: _Fits, sample: Sample, budgets: Sequence[float]) -> Numbers:
    """Return the constants and the predictions of all fits."""
    numbers: Numbers = {}
    kappa = sample.flops_exponent

    def predict(method: str, slope: float, intercept: float, loss: Law | None) -> None:
        """Add log N = slope log C + intercept, and the loss of an optimum at C, or at (N, D)."""
        numbers[method, "N exponent"] = slope
        numbers[method, "D exponent"] = 1 - kappa * slope
        for budget in budgets:
            log_flops = math.log(budget)
            log_n = slope * log_flops + intercept
            log_d = sample.log_tokens_at(log_flops, log_n)
            log_loss = math.nan
            if loss is not None:
                logs = [log_n, log_d] if len(loss.exponents) == 2 else [log_flops]
                log_loss = float(loss.log_loss(np.array([logs]))[0])
            for name, value in (("N", log_n), ("D", log_d), ("loss", log_loss)):
                numbers[method, f"{name} at {budget:g}"] = _exp(value)

    for name, law in fits.laws.items():
        method = f"law, E {name}"
        constants = (law.floor, *map(_exp, law.log_scales), *law.exponents)
        numbers |= {
            (method, key): value for key, value in zip(("E", "A", "B", "a", "b"), constants, strict=True)
        }
        predict(method, *_optimum(law, sample), law)
    if not sample.budgets:
        return numbers
    for name, loss_law in fits.loss_laws.items():
        method = f"parabolas, E {name}"
        constants = (
            (loss_law.floor, _exp(loss_law.log_scales[0]), loss_law.exponents[0])
            if loss_law
            else (math.nan,) * 3
        )
        numbers |= {(method, key): value for key, value in zip(("E", "k", "g"), constants, strict=True)}
        predict(method, *fits.parabolas.power(), loss_law)
    predict("lowest runs", *fits.lowest.power(), None)
    return numbers


def _optimum(law: Law, sample: Sample) -> tuple[float, float]:
    """Return slope and intercept of log N over log C for the law's lowest loss at equal FLOPs.

    With C = c N^k D, the slope of the loss vanishes at N^(a + k b) = a A / (k b B) (C / c)^b. If k = 1 and c = 6,
    this is equation 4 of Hoffmann et al. (2022).
    """
    (log_a, log_b), (a, b), kappa = law.log_scales, law.exponents, sample.flops_exponent
    if a <= 0 or b <= 0 or kappa <= 0:
        return math.nan, math.nan
    ratio = math.log(a / (kappa * b)) + log_a - log_b - b * math.log(sample.flops_coefficient)
    return b / (a + kappa * b), ratio / (a + kappa * b)


def _exp(value: float) -> float:
    """Return exp(value), or infinity if it is too large for a float."""
    return math.inf if value > 700 else math.exp(value)


def _summary(value: float, drawn: Values) -> dict[str, Any]:
    """Return a number with its percentile interval and standard error over the resamples that have one."""
    finite = drawn[np.abs(drawn) < _LARGEST]
    low, high = np.percentile(finite, _PERCENTILES) if len(finite) else (math.nan, math.nan)
    facts = {
        "value": value,
        "low": float(low),
        "high": float(high),
        "error": float(finite.std()) if len(finite) else math.nan,
    }
    return {key: fact if math.isfinite(fact) else None for key, fact in facts.items()} | {
        "resamples": len(finite)
    }


def _parabola_facts(points: Sequence[Point], sample: Sample) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the parabola of each budget, and notes on points and budgets that approach 2 leaves out or doubts."""
    budgets, notes = [], []
    for rows in sample.budgets:
        flops = math.exp(sample.log_flops[rows].mean())
        log_n = sample.log_parameters[rows]
        best = points[rows[np.argmin(sample.loss[rows])]]
        fact: dict[str, Any] = {
            "flops": flops,
            "points": len(rows),
            "lowest": {"parameters": best.parameters, "tokens": best.tokens, "loss": best.loss},
            "parabola": None,
        }
        found = isoflop.parabola(log_n, sample.loss[rows])
        if found is None:
            notes.append(f"{number(flops, 3)} FLOPs: the parabola has no lowest point, and is left out")
        else:
            curvature, lowest_n, loss = found
            fact["parabola"] = {
                "curvature": curvature,
                "parameters": _exp(lowest_n),
                "tokens": _exp(sample.log_tokens_at(math.log(flops), lowest_n)),
                "loss": loss,
            }
            if not log_n.min() <= lowest_n <= log_n.max():
                side = "smaller" if lowest_n < log_n.min() else "larger"
                notes.append(
                    f"{number(flops, 3)} FLOPs: the parabola's lowest point is outside the sizes; train {side} models"
                )
        budgets.append(fact)
    if len(sample.others):
        notes.append(
            f"{len(sample.others)} points have a budget with fewer than {isoflop.FEWEST_SIZES} sizes: only approach 3 "
            "uses them"
        )
    return budgets, notes
