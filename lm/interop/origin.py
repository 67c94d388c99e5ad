"""What a run remembers of the folder that its model was imported from, so that an export gives the files back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.files import read_object
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
    kinds = Origin.__annotations__
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise InputError(f"{where}: origin is malformed; import the model again")
    origin = Origin(**found)
    texts = (origin.prefix, origin.type, origin.config.get("model_type") if origin.config else None)
    tables = (origin.config, origin.generation_config or {}, origin.other_types)
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(table, dict) for table in tables
    ):
        raise InputError(f"{where}: origin is malformed; import the model again")
    return origin


def read_saved_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a folder that transformers saved."""
    return read_object(path, "give a folder that transformers saved, or save or fetch it again")
