"""The likely meaning of a constant factor: a number, or a formula of the sizes of a case."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass

from parity.case import Given

CONSTANTS = {
    "-1": -1.0,
    "2": 2.0,
    "1/2": 0.5,
    "sqrt(2)": math.sqrt(2),
    "1/sqrt(2)": math.sqrt(0.5),
    "ln(2)": math.log(2),
    "1/ln(2) (the logarithm of base 2)": 1 / math.log(2),
    "1/ln(10) (the logarithm of base 10)": 1 / math.log(10),
    "4": 4.0,
    "1/4": 0.25,
}


def meaning(factors: Sequence[float], givens: Sequence[Given], tolerance: float) -> str:
    """Return the first formula of constants and sizes that gives the factor of every case."""

    def fits(values: Sequence[float]) -> bool:
        return all(abs(v - f) <= tolerance * abs(f) for v, f in zip(values, factors, strict=True))

    for text, value in CONSTANTS.items():
        if fits([value] * len(factors)):
            return text
    of_cases = [sizes(given) for given in givens]
    names = [name for name in of_cases[0] if all(name in of_case for of_case in of_cases)]
    for name in names:
        for text, values in _formulas(name, [float(of_case[name]) for of_case in of_cases]):
            if fits(values):
                return text
    for a, b in itertools.permutations(names, 2):
        ratios = [of_case[a] / of_case[b] for of_case in of_cases]
        for text, values in (
            (f"{a} / {b}", ratios),
            (f"sqrt({a} / {b})", [math.sqrt(ratio) for ratio in ratios]),
        ):
            if fits(values) and len(set(values)) > 1:
                return text
    return ""


def _formulas(name: str, n: Sequence[float]) -> Iterator[tuple[str, list[float]]]:
    yield name, list(n)
    yield f"1/{name}", [1 / v for v in n]
    yield f"sqrt({name})", [math.sqrt(v) for v in n]
    yield f"1/sqrt({name})", [math.sqrt(1 / v) for v in n]
    if min(n) > 1:
        yield f"({name} - 1)/{name}", [(v - 1) / v for v in n]
        yield f"{name}/({name} - 1)", [v / (v - 1) for v in n]
        yield f"sqrt(({name} - 1)/{name})", [math.sqrt((v - 1) / v) for v in n]
        yield f"sqrt({name}/({name} - 1))", [math.sqrt(v / (v - 1)) for v in n]


def sizes(given: Given) -> dict[str, float]:
    """Return the numbers that a factor may come from: sizes of the call, of its config, and of its arrays."""
    found: dict[str, float] = {}
    for name, value in given.statics.items():
        options = vars(value) if is_dataclass(value) else {name: value}
        found |= {
            option: float(v)
            for option, v in options.items()
            if isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0
        }
    if "num_heads" in found and "x" in given.arrays:
        found.setdefault("d_head", given.arrays["x"].shape[-1] / found["num_heads"])
    for name, array in (given.constants | given.arrays).items():
        if array.size > 1 and name in given.constants:
            found[f"the number of {name.replace('_', ' ')}"] = array.size
        for axis in range(-1, -array.ndim - 1, -1):
            found[f"{name}.shape[{axis}]"] = array.shape[axis]
    return {name: v for name, v in found.items() if v != 1}
