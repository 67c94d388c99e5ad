"""Measure a function by calling it again: whether it repeats itself, and on which inputs each output depends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.case import Given
from parity.check.factors import sizes
from parity.check.measure import indices

Output = Callable[[Given], np.ndarray | None]
"""Return the output of a function for a case; none if it fails."""
INPUTS = ("x", "Q", "K", "V", "logits", "token_ids", "prefix")


def repeats(ask: Output, given: Given) -> str:
    """Return by how much two calls with equal arguments differ; nothing if they do not."""
    first, second = ask(given), ask(given)
    if first is None or second is None or np.array_equal(first, second, equal_nan=True):
        return ""
    if first.shape != second.shape:
        return "two calls with equal arguments return different shapes"
    change = float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-300))
    return f"two calls with equal arguments differ by {change:.0e}; is dropout switched on, or does a state remain?"


def dependencies(ask: Output, oracle: Callable[[Given], np.ndarray], given: Given) -> list[str]:
    """Return the entries and positions that depend on others they should not see, or ignore others they should."""
    found: list[str] = []
    right, actual = oracle(given), ask(given)
    if actual is None or actual.shape != right.shape:
        return found
    for name in INPUTS:
        array = (given.arrays | given.constants).get(name)
        if array is None or not 2 <= array.ndim <= right.ndim + (name in given.constants):
            continue
        axes = (
            {0: "batch entry", 1: "position"} if array.ndim - (name in given.arrays) == 2 else {0: "position"}
        )
        for axis, word in axes.items():
            if axis >= right.ndim:
                continue
            should = _changes(oracle, right, given, name, axis)
            does = _changes(ask, actual, given, name, axis)
            if should is not None and does is not None and (text := _compare(does, should, word, name)):
                found.append(text)
        if found:
            break  # the other inputs would say it again
    return found


def _changes(f: Output, before: np.ndarray, given: Given, name: str, axis: int) -> np.ndarray | None:
    """Return which slices of the output (rows) change if one slice of an input (columns) changes."""
    columns = []
    for i in range((given.arrays | given.constants)[name].shape[axis]):
        after = f(_moved(given, name, axis, i))
        if after is None or after.shape != before.shape:
            return None
        others = tuple(k for k in range(before.ndim) if k != axis)
        # A product of matrices may round an untouched row in another way.
        columns.append(np.abs(after - before).max(others) > 1e-3 * np.abs(before).max())
    return np.stack(columns, axis=1)


def _moved(given: Given, name: str, axis: int, i: int) -> Given:
    """Return the case with slice i of an array changed: numbers are negated and moved, ids replaced by others."""
    kind = "arrays" if name in given.arrays else "constants"
    source: dict[str, Any] = getattr(given, kind)
    array = source[name].copy()
    chosen = (slice(None),) * axis + (i,)
    if np.issubdtype(array.dtype, np.integer):
        array[chosen] = np.where(array[chosen] == 0, 1, array[chosen] - 1)
    else:
        array[chosen] = 0.5 - array[chosen]
    return given._replace(**{kind: {**source, name: array}})


def _compare(does: np.ndarray, should: np.ndarray, word: str, name: str) -> str:
    extra, missing = does & ~should, should & ~does
    for wrong, verb in ((extra, "changes"), (missing, "does not change")):
        if wrong.any():
            i = int(np.flatnonzero(wrong.any(1))[0])
            others = np.flatnonzero(wrong[i]).tolist()
            plural = (
                ("entries" if word == "batch entry" else f"{word}s") if len(others) > 1 else word.split()[-1]
            )
            whole = f"{word} {i} of the output {verb} with {plural} {indices(others, len(wrong[i]) + 1)} of {name}"
            return f"{whole}: {_meaning(extra, missing, word)}" if _meaning(extra, missing, word) else whole
    return ""


def _meaning(extra: np.ndarray, missing: np.ndarray, word: str) -> str:
    if word == "batch entry":
        return "batch entries are mixed" if extra.any() else ""
    if extra.any() and not np.tril(extra).any():
        return "positions see the future" if not missing.any() else ""
    if missing.any() and not extra.any() and (missing == np.diag(np.diag(missing))).all():
        return "a position does not see itself"
    return ""


def off_only_if(givens: Sequence[Given], is_off: Sequence[bool]) -> str:
    """Return the one property that all failing cases have and no passing one, or the other way round."""
    if all(is_off) or not any(is_off) or len(is_off) < 3:
        return ""
    of_cases = [_properties(given) for given in givens]
    for text in dict.fromkeys(text for of_case in of_cases for text in of_case):
        values = [of_case.get(text, False) for of_case in of_cases]
        if values == list(is_off):
            return f"it is off only if {text}"
        if [not value for value in values] == list(is_off):
            return f"it is right only if {text}"
    return ""


def _properties(given: Given) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name in INPUTS:
        array = (given.arrays | given.constants).get(name)
        if array is None:
            continue
        is_ids = name in given.constants
        if array.ndim == 3 - is_ids:
            found[f"the batch of {name} is {array.shape[0]}"] = True
            for size, n in sizes(given._replace(arrays={}, constants={})).items():
                found[f"the batch of {name} is {size}"] = array.shape[0] == n
        if array.ndim >= 2 - is_ids:
            found[f"{name} has one position"] = array.shape[-1 if is_ids else -2] == 1
        found[f"{name} has {array.ndim} axes"] = True
    if (positions := given.constants.get("positions")) is not None:
        found["positions count from 0"] = bool((positions == np.arange(positions.shape[-1])).all())
    mask = given.constants.get("mask")
    found["there is a mask"] = mask is not None
    if mask is not None:
        found["the mask hides every key from a query"] = not mask.any(-1).all()
        found["the mask is causal"] = bool((mask == np.tril(np.ones(mask.shape[-2:], bool))).all())
    for name, value in given.statics.items():
        if isinstance(value, (int, float, str, bool)):
            found[f"{name} is {value}"] = True
    return found
