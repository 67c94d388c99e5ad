"""The parts of a function: weights of 0 switch them off, and they are switched on one after the other."""

from typing import NamedTuple

import numpy as np

from parity.case import Given


class Stage(NamedTuple):
    """Some of a function's parts, with the others switched off."""

    given: Given
    without: str
    """What is switched off."""
    suspects: str
    """What this stage is the first to show."""


def stages(given: Given) -> list[Stage]:
    """Return the stages of a case. The last is the case itself, with all parts switched on."""

    def names(end: str) -> list[str]:
        return [name for name in given.arrays if name.endswith(end)]

    def stage(zeros: list[str], without: str, suspects: str) -> Stage:
        arrays = {name: np.zeros_like(a) if name in zeros else a for name, a in given.arrays.items()}
        return Stage(given._replace(arrays=arrays), without, suspects)

    attention, feed, queries = names("output_proj.weight"), names("w2.weight"), names("q_proj.weight")
    whole = Stage(given, "nothing", "how the parts are put together")
    values = "the values, the heads' order, the mask, or the output projection"
    scores = "queries and keys: the positions, the norms, or the scale of the scores"
    if attention and feed:
        return [
            stage(
                attention + feed,
                "attention and feed-forward",
                "the residual stream, the embeddings, or the head",
            ),
            stage(attention, "attention", "feed-forward, or the norm before it"),
            stage(feed + queries, "feed-forward and the queries", f"{values}; or the norm before attention"),
            stage(feed, "feed-forward", scores),
            whole,
        ]
    return [stage(queries, "the queries", values), whole._replace(suspects=scores)] if queries else [whole]
