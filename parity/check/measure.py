"""Describe how an array differs from the exact one: factors, offsets, orders, places. No mistake needs to be known."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.case import Given
from parity.check.factors import meaning, sizes

AXES = {
    1: ("elements",),
    2: ("rows", "features"),
    3: ("batch entries", "positions", "features"),
    4: ("batch entries", "heads", "positions", "features"),
}
LONGEST = 256
"""Longest axis whose order is searched."""


@dataclass(frozen=True)
class Difference:
    """What a function returned, or one of its gradients, beside the exact array."""

    given: Given
    what: str
    """"output", or the name of the array whose gradient this is."""
    actual: np.ndarray
    exact: np.ndarray
    bound: float

    @property
    def title(self) -> str:
        """The array's name in a sentence."""
        return "the output" if self.what == "output" else f"the gradient of {self.what}"

    def same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether two arrays are equal up to rounding, and ten times nearer than what is to be explained."""
        rounding = 10 * self.bound * np.linalg.norm(self.exact)
        return bool(np.linalg.norm(a - b) <= min(rounding, np.linalg.norm(self.actual - self.exact) / 10))


def describe(differences: Sequence[Difference]) -> list[str]:
    """Return the first explanation that fits all differences of one array, and the places that differ."""
    first = differences[0]
    if not all(np.isfinite(d.actual).all() for d in differences):
        return [_not_finite(next(d for d in differences if not np.isfinite(d.actual).all()))]
    if not all(np.linalg.norm(d.exact) for d in differences):
        return _places(first)
    for explain in (_zero, _factor, _term, _order, _factors_by_axis):
        found = explain(differences)
        if found:
            return [found]
    return _places(first)


def indices(chosen: Sequence[int], n: int) -> str:
    """Return a short text for some of the indices 0 .. n - 1.

    >>> indices([2, 3, 4], 9), indices([0, 2], 4), indices([1, 2, 3], 4)
    ('2 to 4', '0 and 2', 'all except 0')
    """
    chosen = sorted(chosen)
    others = [i for i in range(n) if i not in chosen]
    if len(others) == 1 and n > 2:
        return f"all except {others[0]}"
    if len(chosen) > 2 and chosen == list(range(chosen[0], chosen[-1] + 1)):
        return f"{chosen[0]} to {chosen[-1]}"
    if len(chosen) > 2 and len(set(np.diff(chosen))) == 1:
        return f"{chosen[0]}, {chosen[1]}, ... {chosen[-1]}"
    if len(chosen) > 8:
        return f"{len(chosen)} of {n}"
    *most, last = map(str, chosen)
    return f"{', '.join(most)} and {last}" if most else last


def _not_finite(d: Difference) -> str:
    bad = ~np.isfinite(d.actual)
    kind = "NaN" if np.isnan(d.actual).any() else "infinite"
    if bad.all():
        return f"{d.title} is {kind} everywhere"
    places = [text for axis in range(bad.ndim) if (text := _slices(bad, axis, d.actual.ndim))]
    return f"{d.title} is {kind} " + (
        f"at {', '.join(places)}" if places else f"in {bad.mean():.0%} of its elements"
    )


def _slices(wrong: np.ndarray, axis: int, ndim: int) -> str:
    """Return which slices along an axis hold anything wrong; nothing if all do."""
    n = wrong.shape[axis]
    chosen = np.flatnonzero(wrong.any(tuple(i for i in range(ndim) if i != axis)))
    if len(chosen) in (0, n):
        return ""
    name = AXES[ndim][axis] if ndim in AXES else f"indices of axis {axis}"
    if len(chosen) == 1:
        name = name.replace("entries", "entry").replace("indices", "index").removesuffix("s")
    text = indices([int(i) for i in chosen], n)
    return f"all {name} except {text.split()[-1]}" if text.startswith("all except") else f"{name} {text}"


def _zero(differences: Sequence[Difference]) -> str:
    if any(d.actual.any() for d in differences):
        return ""
    d = differences[0]
    cut = "; the tensor is probably detached, or computed outside of the graph" if d.what != "output" else ""
    return f"{d.title} is zero{cut}"


def _factor(differences: Sequence[Difference]) -> str:
    """Return the constant factor between the arrays, with its likely meaning."""
    factors = []
    for d in differences:
        factor = float(np.vdot(d.exact, d.actual) / np.vdot(d.exact, d.exact))
        if not factor or not d.same(d.actual / factor, d.exact):
            return ""
        factors.append(factor)
    tolerance = 10 * max(d.bound for d in differences)
    text = meaning(factors, [d.given for d in differences], tolerance)
    title = differences[0].title
    if text:
        return f"{title} is {text} times the right one"
    if max(factors) - min(factors) <= tolerance * abs(factors[0]):
        return f"{title} is {factors[0]:.6g} times the right one"
    return f"{title} is the right one times a factor of its case, {min(factors):.4g} to {max(factors):.4g}"


def _term(differences: Sequence[Difference]) -> str:
    """Return the array, or the number, that is added or missing, or that is the output itself."""
    first = differences[0]
    offsets = [float((d.actual - d.exact).mean()) for d in differences]
    if all(
        d.actual.size > 1 and d.same(d.actual - offset, d.exact)
        for d, offset in zip(differences, offsets, strict=True)
    ):
        constant = (
            f"{offsets[0]:.6g}" if np.ptp(offsets) <= 1e-3 * abs(offsets[0]) else "a constant of its case"
        )
        return f"{first.title} is the right one plus {constant}"
    for name in first.given.arrays:
        terms = [_broadcast(d, name) for d in differences]
        if any(term is None for term in terms):
            continue
        pairs = [(d, term) for d, term in zip(differences, terms, strict=True) if term is not None]
        if all(d.same(d.actual, term) for d, term in pairs):
            return f"{first.title} is {name} itself"
        for factor, text in ((1, f"the right one plus {name}"), (-1, f"the right one without a term {name}")):
            if all(d.same(d.actual, d.exact + factor * term) for d, term in pairs):
                return f"{first.title} is {text}"
    return ""


def _broadcast(d: Difference, name: str) -> np.ndarray | None:
    array = d.given.arrays.get(name)
    try:
        return None if array is None else np.broadcast_to(array, d.exact.shape)
    except ValueError:
        return None


def _order(differences: Sequence[Difference]) -> str:
    """Return the axis whose slices are right, but in another order, or the axes that change places."""
    d = differences[0]
    for axis in range(d.exact.ndim):
        order = _permutation(d, axis)
        if order is not None:
            name = AXES[d.exact.ndim][axis] if d.exact.ndim in AXES else f"slices of axis {axis}"
            return f"{d.title} has the right {name} in another order: {_name_order(order)}"
    for i, j in itertools.combinations(range(d.exact.ndim), 2):
        if d.same(d.actual, d.exact.swapaxes(i, j).reshape(d.exact.shape)):
            return f"{d.title} is the right one with axes {i} and {j} transposed, then reshaped"
    return ""


def _permutation(d: Difference, axis: int) -> list[int] | None:
    """Return the order of the exact slices along an axis that gives the actual array, unless they stand in place."""
    n = d.exact.shape[axis]
    if not 1 < n <= LONGEST:
        return None
    actual, exact = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (d.actual, d.exact))
    distances = np.linalg.norm(actual[:, None] - exact[None], axis=-1)
    order = distances.argmin(1)
    if len(set(order.tolist())) < n or (order == np.arange(n)).all():
        return None
    return order.tolist() if d.same(actual, exact[order]) else None


def _name_order(order: Sequence[int]) -> str:
    """Return a permutation in words.

    >>> _name_order([0, 2, 4, 1, 3, 5])
    'as if reshaped to (3, 2) and transposed'
    >>> _name_order([3, 0, 1, 2])
    'moved by 1'
    """
    n, natural = len(order), np.arange(len(order))
    if list(order) == natural[::-1].tolist():
        return "reversed"
    for shift in range(1, n):
        if list(order) == np.roll(natural, shift).tolist():
            return f"moved by {shift if shift <= n // 2 else shift - n}"
    for p in range(2, n):
        if n % p == 0 and list(order) == natural.reshape(p, -1).T.ravel().tolist():
            return f"as if reshaped to ({p}, {n // p}) and transposed"
    shown = ", ".join(map(str, order[:12]))
    return f"[{shown}{', ...' if n > 12 else ''}]"


def _factors_by_axis(differences: Sequence[Difference]) -> str:
    """Return the axis whose slices each have a factor of their own, and the array that these factors are."""
    d = differences[0]
    for axis in range(d.exact.ndim):
        n, others = d.exact.shape[axis], d.exact.size // d.exact.shape[axis]
        if n < 2 or others < 2:
            continue
        actual, exact = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (d.actual, d.exact))
        factors = (actual * exact).sum(1) / np.maximum((exact * exact).sum(1), np.finfo(float).tiny)
        if not d.same(exact * factors[:, None], actual):
            continue
        name = (AXES[d.exact.ndim][axis] if d.exact.ndim in AXES else f"indices of axis {axis}").rstrip("s")
        title = f"{d.title} is right except for a factor of each {name.replace('entrie', 'entry')}"
        for array_name, array in d.given.arrays.items():
            if array.shape != (n,):
                continue
            for power, text in ((1, f"{array_name} once too often"), (-1, f"{array_name} is not applied")):
                if np.allclose(factors, array**power, rtol=100 * d.bound):
                    return f"{title}: {text}"
        wrong = np.abs(factors - 1) > 100 * d.bound
        if not wrong.any():
            continue
        if not np.abs(factors[wrong]).max() > 100 * d.bound:
            return (
                f"{d.title} is right, except that it is zero at {_slices(d.actual == 0, axis, d.exact.ndim)}"
            )
        if not wrong.all():
            title += f", at {indices(np.flatnonzero(wrong).tolist(), n)}"
        return f"{title}, {factors[wrong].min():.4g} to {factors[wrong].max():.4g}"
    return ""


def _places(d: Difference) -> list[str]:
    """Return which slices along each axis differ; nothing if all do."""
    scale = np.linalg.norm(d.exact) / math.sqrt(max(d.exact.size, 1))
    wrong = np.abs(d.actual - d.exact) > 10 * d.bound * scale
    found = [text for axis in range(wrong.ndim) if (text := _slices(wrong, axis, wrong.ndim))]
    if not found:
        return []
    heads = _heads(d, wrong)
    return [f"{d.title} differs only at {', '.join(found)}{heads}"]


def _heads(d: Difference, wrong: np.ndarray) -> str:
    """Return the heads whose rows or columns of a projection differ, if whole heads do."""
    num_heads = int(sizes(d.given).get("num_heads", 1))
    axis = {"q": 0, "k": 0, "v": 0, "o": 1}.get(d.what.rsplit(".", 2)[-2][:1] if "proj" in d.what else "")
    if axis is None or wrong.ndim != 2 or num_heads < 2 or wrong.shape[axis] % num_heads:
        return ""
    by_head = wrong.any(1 - axis).reshape(num_heads, -1)
    heads = np.flatnonzero(by_head.any(1)).tolist()
    return f" (heads {indices(heads, num_heads)})" if len(heads) < num_heads else ""
