"""The parts of a function: weights of 0 switch them off, and they are switched on one after the other."""

from typing import NamedTuple

import numpy as np

from parity.case import Given


class Stage(NamedTuple):
    """Some of a function's parts, with the others switched off."""

    given: Given
    how: str
    """What is switched off, as in "it is right without attention"."""
    suspects: str
    """What this stage is the first to show."""


def stages(given: Given) -> list[Stage]:
    """Return the stages of a case. The last is the case itself, with all parts switched on."""

    def names(end: str) -> list[str]:
        return [name for name in given.arrays if name.endswith(end)]

    def stage(zeros: list[str], how: str, suspects: str) -> Stage:
        arrays = {name: np.zeros_like(a) if name in zeros else a for name, a in given.arrays.items()}
        return Stage(given._replace(arrays=arrays), how, suspects)

    attention, feed, queries = names("output_proj.weight"), names("w2.weight"), names("q_proj.weight")
    whole = Stage(given, "as a whole", "how the parts are put together")
    values = "the values, the heads' order, or the output projection"
    averages = "the mask, or the order of heads and positions"
    scores = "queries and keys: the positions, the norms, or the scale of the scores"
    if attention and feed:
        return [
            stage(
                attention + feed,
                "without attention and feed-forward (output_proj and w2 of 0)",
                "the residual stream, the embeddings, or the head",
            ),
            stage(attention, "without attention (output_proj of 0)", "feed-forward, or the norm before it"),
            *_first_position(
                stage(
                    feed,
                    "without feed-forward (w2 of 0), with one position",
                    f"{values}; or the norm before attention",
                )
            ),
            stage(feed + queries, "without feed-forward, with queries of 0", averages),
            stage(feed, "without feed-forward (w2 of 0)", scores),
            whole,
        ]
    if queries:
        one_position = _first_position(Stage(given, "with one position", values))
        return [*one_position, stage(queries, "with queries of 0", averages), whole._replace(suspects=scores)]
    return [whole]


def _first_position(stage: Stage) -> list[Stage]:
    """Return a stage with the first position alone, which attends to itself; nothing if there are lengths."""
    arrays, constants = dict(stage.given.arrays), dict(stage.given.constants)
    if constants.keys() - {"mask", "positions", "token_ids"}:
        return []
    if "x" in arrays:
        arrays["x"] = arrays["x"][..., :1, :]
    for name, array in constants.items():
        constants[name] = array[..., :1, :1] if name == "mask" else array[..., :1]
    return [stage._replace(given=stage.given._replace(arrays=arrays, constants=constants))]
