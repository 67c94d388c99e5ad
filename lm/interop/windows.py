"""The keys of config.json that say which layers have sliding-window attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm.config import LayerType, ModelConfig
from lm.interop.keys import Json, shown

_TYPES: dict[str, LayerType] = {"full_attention": "full", "sliding_attention": "sliding"}


@dataclass(frozen=True)
class AllSlide:
    """A window that all layers have, as in Mistral. null: none has it."""

    missing: int | None
    """Window if the key is missing."""
    names: tuple[str, ...] = ("sliding_window",)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        return {"sliding_window": theirs.get("sliding_window", self.missing)}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {"sliding_window": model.sliding_window}


@dataclass(frozen=True)
class SomeSlide:
    """A window that some layers have: layer_types names each layer, or follows from other keys."""

    default_types: Callable[[Json], Callable[[int], bool]]
    """Return, for a config.json without layer_types, the function that says whether layer i slides."""
    extra: tuple[str, ...] = ()
    """The other keys that `default_types` reads."""
    has_switch: bool = False
    """Whether use_sliding_window must be true for a window, as in Qwen."""
    missing: int = 4096
    """Window if the key is missing."""

    @property
    def names(self) -> tuple[str, ...]:
        switch = ("use_sliding_window",) if self.has_switch else ()
        return ("sliding_window", "layer_types", *switch, *self.extra)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        window = theirs.get("sliding_window", self.missing)
        if self.has_switch and not theirs.get("use_sliding_window"):
            window = None
        n, names = theirs["num_hidden_layers"], theirs.get("layer_types")
        if names is None:
            slides = self.default_types(theirs)
            types: Sequence[LayerType] = [
                "sliding" if window is not None and slides(i) else "full" for i in range(n)
            ]
        elif (
            not isinstance(names, list)
            or len(names) != n
            or not all(isinstance(name, str) and name in _TYPES for name in names)
        ):
            problems.append(f"{shown('layer_types', names)}, not {n} of {' and '.join(_TYPES)}")
            return {}
        else:
            types = [_TYPES[name] for name in names]
        if "sliding" not in types:
            return {}
        if window is None:
            problems.append(f"{shown('layer_types', names)} without a sliding_window")
        return {"sliding_window": window, "layer_types": shortest_period(types)}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        names = {ours: theirs for theirs, ours in _TYPES.items()}
        types = [model.layer_type(i) for i in range(model.num_layers)]
        window = model.sliding_window
        written: dict[str, Any] = {"layer_types": [names[kind] for kind in types]}
        if self.has_switch:
            return written | {"use_sliding_window": window is not None, "sliding_window": window}
        return written | {"sliding_window": self.missing if window is None else window}


def shortest_period(types: Sequence[LayerType]) -> tuple[LayerType, ...]:
    """Return the shortest list that, repeated, gives each layer its type. If all slide, the list is empty: our default.

    >>> shortest_period(["sliding", "full", "sliding", "full", "sliding"])
    ('sliding', 'full')
    """
    if "full" not in types:
        return ()
    period = next(p for p in range(1, len(types) + 1) if all(t == types[i % p] for i, t in enumerate(types)))
    return tuple(types[:period])
