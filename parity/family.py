"""The family's options, and a few models in which every pair of them appears."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import numpy as np

Options = dict[str, Any]
"""Keywords of ModelConfig."""


def each(name: str, *values: Any) -> tuple[tuple[Options, ...], ...]:
    """Return an option that is one keyword with one of these values."""
    return tuple(({name: value},) for value in values)


_ROPE = {"position": "rope"}
_SCALED = (
    _ROPE | {"rope_scaling": "linear", "rope_factor": 4.0},
    # Of the frequencies of a head of 4 or 6 and a theta of 1,000, one is kept, one is blended and one is divided.
    _ROPE | {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 128},
)

OPTIONS: dict[str, tuple[tuple[Options, ...], ...]] = {
    "norm": each("norm", "rmsnorm", "layernorm", "none"),
    "norm_gain": each("norm_gain", "weight", "one_plus_weight"),
    "norm_position": each("norm_position", "pre", "post", "branch", "sandwich"),
    "block": each("block", "sequential", "parallel"),
    "position": (
        (_ROPE,),
        _SCALED,
        ({"position": "learned"},),
        ({"position": "sinusoidal"}, {"position": "none"}),
    ),
    "layers": (
        ({},),
        ({"sliding_window": 2, "layer_types": ("sliding",)},),
        ({"sliding_window": 3, "layer_types": ("sliding", "full"), "sliding_rope_theta": 10.0},),
    ),
    "ffn": (
        ({"ffn": "swiglu"},),
        ({"ffn": "geglu_tanh"},),
        tuple({"ffn": ffn} for ffn in ("silu", "gelu", "gelu_tanh", "relu", "relu2")),
    ),
    "bias": (
        ({"bias": False},),
        ({"bias": True}, {"bias": True, "attention_bias": "none"}),
        ({"bias": False, "attention_bias": "qkv"}, {"bias": False, "attention_bias": "all"}),
    ),
    "tie_embeddings": each("tie_embeddings", False, True),
    "scale_embeddings": each("scale_embeddings", False, True),
    "num_kv_heads": each("num_kv_heads", 4, 2, 1),
    "d_head": each("d_head", None, 6),
    "qk_norm": (
        ({"qk_norm": False},),
        ({"qk_norm": True},),
        ({"qk_norm": True, "qk_norm_over": "all_heads"},),
    ),
    "score_dim": each("score_dim", None, 9.0),
    "score_softcap": each("score_softcap", None, 2.0),
    "logit_softcap": each("logit_softcap", None, 3.0),
    "embedding_dropout": each("embedding_dropout", 0.0, 0.2),
    "attention_dropout": each("attention_dropout", 0.0, 0.3),
    "residual_dropout": each("residual_dropout", 0.0, 0.1),
    "remat": each("remat", "none", "block"),
}
"""The options of a decoder with four heads. Each value is a few keywords, or several sets of them, which take turns:
they differ in a formula that no other option touches."""


def covering_array(options: Mapping[str, tuple[Any, ...]], seed: int = 0) -> list[dict[str, Any]]:
    """Return few choices of all options, so that one of them has each pair of values of two options.

    Most failures come from one option or from two that interact (Kuhn et al., 2004), so these choices stand for the
    whole product. The search is greedy: of many random choices it takes the one with most of the missing pairs.

    >>> len(covering_array({"a": (1, 2), "b": (3, 4), "c": (5, 6)}))
    4
    """
    rng, names = np.random.default_rng(seed), list(options)
    sizes = np.array([len(values) for values in options.values()])
    first, second = np.array(list(combinations(range(len(names)), 2))).T
    # Each pair of values has a number, which counts the values of the second option first.
    pairs = [
        (a, x, b, y)
        for a, b in zip(first, second, strict=True)
        for x, y in product(range(sizes[a]), range(sizes[b]))
    ]
    starts = np.cumsum(sizes[first] * sizes[second]) - sizes[first] * sizes[second]

    def name(number: int) -> tuple[str, int, str, int]:
        a, x, b, y = pairs[number]
        return names[a], x, names[b], y

    by_name = sorted(range(len(pairs)), key=name)
    missing, chosen = np.ones(len(pairs), bool), []
    while missing.any():
        a, x, b, y = pairs[by_name[missing[by_name].argmax()]]
        drawn = rng.integers(sizes, size=(200, len(names)))
        drawn[:, a], drawn[:, b] = x, y
        numbers = starts + drawn[:, first] * sizes[second] + drawn[:, second]
        most = missing[numbers].sum(axis=1).argmax()
        missing[numbers[most]] = False
        chosen.append({option: options[option][i] for option, i in zip(names, drawn[most], strict=True)})
    return chosen


# Of the seeds 0 to 19, this one finds the fewest models.
CHOICES: list[dict[str, int]] = covering_array(
    {name: tuple(range(len(values))) for name, values in OPTIONS.items()}, seed=6
)
"""The number of each option's value in each model that is compared."""
DEFAULTS: Options = {key: value for values in OPTIONS.values() for key, value in values[0][0].items()}


def _variants() -> list[Options]:
    turns: Counter[tuple[str, int]] = Counter()
    variants = []
    for choice in CHOICES:
        chosen = dict(DEFAULTS)
        for name, number in choice.items():
            sets = OPTIONS[name][number]
            chosen |= sets[turns[name, number] % len(sets)]
            turns[name, number] += 1
        if chosen["position"] != "rope":
            chosen.pop("sliding_rope_theta", None)
        variants.append(chosen)
    return variants


VARIANTS = _variants()
"""The models of the family that are compared, as keywords of ModelConfig."""


def without_windows(options: Options) -> Options:
    """Return the options of a model that is no decoder: all its layers are full."""
    return {
        name: value
        for name, value in options.items()
        if not name.startswith("sliding") and name != "layer_types"
    }
