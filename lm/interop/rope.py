"""RoPE's keys in config.json: rope_parameters in transformers 5, rope_theta and rope_scaling in transformers 4."""

from dataclasses import dataclass
from typing import Any

from lm.config import ModelConfig
from lm.interop.keys import Json, shown

_FACTORS = {
    "factor": "rope_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_original_context",
}
# The factors of each kind of scaling that we know.
_KINDS: dict[str, tuple[str, ...]] = {"default": (), "linear": ("factor",), "llama3": tuple(_FACTORS)}


@dataclass(frozen=True)
class Rope:
    """RoPE that is the same in all layers."""

    theta: float = 10_000.0
    """Base of the wavelengths if no key names it."""
    scalings: tuple[str, ...] = ("linear", "llama3")
    """The kinds of scaling that the family has."""
    names: tuple[str, ...] = ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor")

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        name = "rope_scaling" if theirs.get("rope_scaling") else "rope_parameters"
        _refuse_partial(theirs, problems)
        theta = _theta(theirs, "rope_theta", self.theta)
        settings = _read_table(name, theirs.get(name), theta, theirs, problems)
        if settings.get("rope_scaling", "none") not in ("none", *self.scalings):
            problems.append(shown(name, theirs[name]))
        return settings

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {"rope_parameters": _write_table(model), **_write_old(model)}


@dataclass(frozen=True)
class RopeByLayerType:
    """RoPE of its own in sliding layers, as in Gemma 3."""

    theta: float = 1_000_000.0
    sliding_theta: float = 10_000.0
    names: tuple[str, ...] = (
        "rope_parameters",
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
        "partial_rotary_factor",
    )

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        tables = theirs.get("rope_parameters") or {}
        if not isinstance(tables, dict) or tables.keys() - {"full_attention", "sliding_attention"}:
            problems.append(f"{shown('rope_parameters', tables)}, not a table for each layer type")
            return {}
        _refuse_partial(theirs, problems)
        full = tables.get("full_attention") or {}
        if isinstance(full, dict) and isinstance(theirs.get("rope_scaling"), dict):
            # transformers gives the table a rope_type first, so an old "type" counts for nothing.
            full = {"rope_type": "default"} | full | theirs["rope_scaling"]
        theta = _theta(theirs, "rope_theta", self.theta)
        settings = _read_table("rope_parameters.full_attention", full, theta, theirs, problems)
        theta = _theta(theirs, "rope_local_base_freq", self.sliding_theta)
        name = "rope_parameters.sliding_attention"
        sliding = _read_table(name, tables.get("sliding_attention"), theta, theirs, problems)
        if "rope_scaling" not in sliding:
            return settings | {"sliding_rope_theta": sliding.get("rope_theta")}
        if sliding != settings:
            problems.append(
                f"{shown(name, tables['sliding_attention'])}: only full layers can have scaled RoPE"
            )
        return settings

    def write(self, model: ModelConfig) -> dict[str, Any]:
        full = _write_table(model)
        theta = model.sliding_rope_theta
        if model.sliding_window is None:  # no layer slides
            theta = self.sliding_theta
        sliding = full if theta is None else {"rope_type": "default", "rope_theta": theta}
        tables = {"full_attention": full, "sliding_attention": sliding}
        local = {"rope_local_base_freq": sliding["rope_theta"]}
        return {"rope_parameters": tables, **_write_old(model), **local}


def _refuse_partial(theirs: Json, problems: list[str]) -> None:
    if theirs.get("partial_rotary_factor") not in (None, 1):
        problems.append(shown("partial_rotary_factor", theirs["partial_rotary_factor"]))


def _theta(theirs: Json, key: str, missing: float) -> Any:
    value = theirs.get(key)
    return missing if value is None else value


def _read_table(name: str, table: Any, theta: Any, theirs: Json, problems: list[str]) -> dict[str, Any]:
    """Return our settings of one table of RoPE's parameters.

    Args:
        theta: Base of the wavelengths if the table has none.
    """
    table = {} if table is None else table
    if not isinstance(table, dict):
        problems.append(f"{shown(name, table)}, not a table of settings")
        return {}
    table = {key: value for key, value in table.items() if value is not None}
    kind = table.get("rope_type", table.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if not isinstance(kind, str) or kind not in _KINDS or table.keys() - known - set(_KINDS[kind]):
        problems.append(shown(name, table))
        return {}
    _refuse_partial(table, problems)
    settings = {"rope_theta": table.get("rope_theta", theta)}
    if kind == "default":
        return settings
    if kind == "llama3":
        table.setdefault("original_max_position_embeddings", theirs["max_position_embeddings"])
    if missing := [key for key in _KINDS[kind] if key not in table]:
        problems.append(f"{shown(name, table)} without {' and '.join(missing)}")
    factors = {_FACTORS[key]: table[key] for key in _KINDS[kind] if key in table}
    return settings | {"rope_scaling": kind, **factors}


def _write_table(model: ModelConfig) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": model.rope_theta} | (_write_scaling(model) or {})


def _write_scaling(model: ModelConfig) -> dict[str, Any] | None:
    if model.rope_scaling == "none":
        return None
    kind = model.rope_scaling
    return {"rope_type": kind} | {key: getattr(model, _FACTORS[key]) for key in _KINDS[kind]}


def _write_old(model: ModelConfig) -> dict[str, Any]:
    """Return the keys that transformers 4 reads."""
    return {"rope_theta": model.rope_theta, "rope_scaling": _write_scaling(model)}
