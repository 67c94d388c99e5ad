"""What a run remembers of the folder that its model was imported from, so that an export gives the files back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm.interop.families import FAMILIES
from lm.interop.tensors import DTYPES
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Origin:
    """A folder of Hugging Face's format, without its numbers. A run keeps it among its facts, under `origin`."""

    config: dict[str, Any]
    """config.json."""
    generation_config: dict[str, Any] | None
    """generation_config.json, if there was one."""
    prefix: str
    """What the names of all tensors begin with, except the head's."""
    has_head: bool
    """Whether the head's tensor is there. A tied model may hold a copy of its embeddings."""
    type: str
    """Type of most tensors, as safetensors names it."""
    other_types: dict[str, str]
    """Type of each other tensor, by its name."""


def read_origin(facts: Mapping[str, Any], where: str) -> Origin | None:
    """Return the origin among a run's facts, or None if its model was not imported.

    Raises:
        InputError: it is malformed.
    """
    found = facts.get("origin")
    if found is None:
        return None
    if not isinstance(found, dict) or not _fits(found):
        raise InputError(f"{where}: origin is malformed; import the model again")
    return Origin(**found)


def _fits(found: dict[str, Any]) -> bool:
    """Whether each field has its type, and the types of tensors are known."""
    kinds = {
        "config": dict,
        "generation_config": dict | None,
        "prefix": str,
        "has_head": bool,
        "type": str,
        "other_types": dict,
    }
    return (
        found.keys() == kinds.keys()
        and all(isinstance(found[name], kind) for name, kind in kinds.items())
        and found["config"].get("model_type") in [*FAMILIES]
        and all(
            isinstance(dtype, str) and dtype in DTYPES
            for dtype in (found["type"], *found["other_types"].values())
        )
    )
