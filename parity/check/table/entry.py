"""How an entry of the table is made, and the arguments that many calls share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.case import Case, Given, Layer, Shape
from parity.check.subjects import Arguments, Array, Call, Subject

WIDE = 1000.0
"""Spread of huge scores and logits."""


def subject(
    name: str,
    layer: Layer,
    *calls: Call,
    cases: Sequence[dict[str, Any]] = (),
    beyond: Sequence[dict[str, Any]] = (),
    rounded: Sequence[Shape] = (),
    **options: Any,
) -> Subject:
    """Make a subject with one plain case for each of the layer's shapes, and these further ones.

    Args:
        rounded: Shapes of the cases with round sizes.
        options: What is special about the plain cases.
    """
    plain = [{"shape": shape, "seed": i, **options} for i, shape in enumerate(layer.shapes)]
    of_contract = [Case(name, **{"seed": 10 + i, **c}) for i, c in enumerate([*plain, *cases])]
    outside = [Case(name, **{"seed": 100 + i, **c}) for i, c in enumerate(beyond)]
    of_round = [Case(name, shape, seed=200 + i) for i, shape in enumerate(rounded)]
    return Subject(name, calls, layer, tuple(of_contract), tuple(outside), tuple(of_round))


def weights(given: Given) -> dict[str, np.ndarray]:
    return {name: array for name, array in given.arrays.items() if name != "x"}


def as_dict(given: Given) -> Arguments:
    """Return the weights as a dict, as the course's blocks and models receive them."""
    return {name: Array(name) for name in weights(given)}


def renamed(**names: str) -> Callable[[Given], Arguments]:
    """Return the arguments that are arrays, constants or statics, by parameter."""

    def arguments(g: Given) -> Arguments:
        return {
            parameter: Array(name) if name in g.arrays | g.constants else g.statics.get(name)
            for parameter, name in names.items()
        }

    return arguments
