"""Read configs from TOML files and from dictionaries, such as those in a checkpoint's JSON."""

import contextlib
import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from lm.config.checks import require
from lm.config.training import TrainConfig
from tokenizer.errors import InputError
from tokenizer.files.reading import read_bytes, refuse_utf16

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""Folder of the project's configs. It lies beside the package in a checkout and in an installation."""


def from_dict(cls: type, values: Any, where: str) -> Any:
    """Build a config dataclass from parsed TOML or JSON. Refuse unknown keys and wrong types.

    Args:
        where: Name of the file, for errors.

    Raises:
        InputError: a key or a value does not fit; the error names it, the file, and what fits.
    """
    require(isinstance(values, dict), f"{where}: expected a table of keys, found {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        require(key in fields, f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        require(not required or name in values, f"{where}: the key '{name}' is missing")
    kwargs = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**kwargs)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return a value as the hinted type: a table becomes a dataclass, and a whole number will do for a float."""
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(typing.get_args(hint)[0], element, where) for element in value)
    options = tuple(str if typing.get_origin(option) is Literal else option for option in options)
    if float in options and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) not in options:
        raise InputError(f"{where} is {value!r}: give {kind_of(hint)}")
    return value


def kind_of(hint: Any) -> str:
    """Return a type in words.

    >>> kind_of(int | None)
    'a whole number or nothing'
    """
    if typing.get_origin(hint) is tuple:
        return f"a list, each {kind_of(typing.get_args(hint)[0])}"
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_KINDS.get(option, "a text") for option in options)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}


def load_config(path: Path) -> TrainConfig:
    """Read a TrainConfig from a TOML file. Its tables `model` and `optimizer` are the nested configs.

    The file may be a pipe, or standard input if its name is -.

    Raises:
        InputError: the file cannot be read, or a key or a value does not fit.
    """
    try:
        data = read_bytes(path)
        refuse_utf16(data, path)
        values = tomllib.loads(data.decode("utf-8-sig"))
    except (InputError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); see configs/ for examples") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a TOML file, see configs/"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not a TOML file ({error}); see configs/ for examples") from None
    config: TrainConfig = from_dict(TrainConfig, values, str(path))
    return config
