"""The family's options, and a few models in which every pair of them appears."""

from itertools import combinations, product
from typing import Any

import numpy as np

Options = dict[str, Any]

OPTIONS: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm", "layernorm", "none"),
    "norm_position": ("pre", "post"),
    "block": ("sequential", "parallel"),
    "position": ("rope", "learned", "sinusoidal", "none"),
    "ffn": ("swiglu", "silu", "gelu", "relu"),
    "bias": (False, True),
    "tie_embeddings": (False, True),
    "num_kv_heads": (4, 2, 1),
    "qk_norm": (False, True),
    "embedding_dropout": (0.0, 0.2),
    "attention_dropout": (0.0, 0.3),
    "residual_dropout": (0.0, 0.1),
    "remat": ("none", "block"),
}
"""The options of a decoder with four heads, as keywords of ModelConfig."""


def covering_array(options: dict[str, tuple[Any, ...]], seed: int = 0) -> list[Options]:
    """Return few choices of all options, so that one of them has each pair of values of two options.

    Most failures come from one option or from two that interact (Kuhn et al., 2004), so these choices stand for the
    whole product. The search is greedy: of many random choices it takes the one with most of the missing pairs.

    >>> len(covering_array({"a": (1, 2), "b": (3, 4), "c": (5, 6)}))
    4
    """
    rng = np.random.default_rng(seed)

    def pairs(choice: Options) -> set[tuple[str, Any, str, Any]]:
        return {(a, choice[a], b, choice[b]) for a, b in combinations(options, 2)}

    missing = {(a, x, b, y) for a, b in combinations(options, 2) for x, y in product(options[a], options[b])}
    chosen = []
    while missing:
        a, x, b, y = min(missing, key=str)
        drawn = [
            {name: values[rng.integers(len(values))] for name, values in options.items()} | {a: x, b: y}
            for _ in range(200)
        ]
        chosen.append(max(drawn, key=lambda choice: len(pairs(choice) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


VARIANTS = covering_array(OPTIONS)
"""The models of the family that are compared."""
