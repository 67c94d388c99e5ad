"""Flags that take several values: `--x a b`, `--x a --x b` and mixtures give one list."""

import argparse
import dataclasses
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

# Marks a value such as the -b of --x=-b, which tyro would read as a flag. No word of a command line can hold this sign.
_MARK = "\0"


class Gather(argparse.Action):
    """Action for argparse's nargs="+". The values from all places of the flag replace the default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def list_flags(command: Any, words: Sequence[str], prefix: str = "--") -> Iterator[str]:
    """Yield the flags of a command that take any number of values.

    Args:
        command: A dataclass, or a union of dataclasses that are each `Annotated` with a name, as for tyro.
        words: The command line, to choose from a union.
    """
    if dataclasses.is_dataclass(command):
        for name, hint in get_type_hints(command, include_extras=True).items():
            hint, notes = _without_notes(hint)
            flag = prefix + name.replace("_", "-")
            if get_origin(hint) is tuple and get_args(hint)[-1] is ...:
                yield flag
            else:
                unnamed = any(getattr(note, "name", None) == "" for note in notes)
                union = get_origin(hint) in (Union, types.UnionType)
                yield from list_flags(hint, words, prefix if unnamed or union else f"{flag}.")
    elif words:
        for option in get_args(command):
            option, notes = _without_notes(option)
            if any(getattr(note, "name", None) == words[0] for note in notes):
                yield from list_flags(option, words[1:], prefix)


def _without_notes(hint: Any) -> tuple[Any, Sequence[Any]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def gather_lists(words: Sequence[str], flags: set[str]) -> list[str]:
    """Return the command line with each of these flags only in its last place, followed by all its values in order.

    Values that look like flags are marked; `remove_marks` removes the marks.
    """
    places: list[tuple[str | None, list[str]]] = [(None, [])]
    rest: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            rest = list(words[i:])
            break
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name in flags:
            places.append((name, [_MARK + value if _like_a_flag(value) else value] if equals else []))
        elif _like_a_flag(word):
            places.append((None, [word]))
        else:
            places[-1][1].append(word)
    last = {name: i for i, (name, _) in enumerate(places)}
    values: dict[str | None, list[str]] = {}
    line = []
    for i, (flag, found) in enumerate(places):
        values.setdefault(flag, []).extend(found)
        if flag is None:
            line += found
        elif i == last[flag]:
            line += [flag, *values[flag]]
    return line + rest


def _like_a_flag(word: str) -> bool:
    return word == "--" or (word.startswith("-") and word.lstrip("-")[:1].isalpha())


def remove_marks(command: Any) -> Any:
    """Return the command without the marks in its values."""
    changes = {}
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            new = remove_marks(value)
        elif isinstance(value, tuple) and any(str(v).startswith(_MARK) for v in value):
            new = tuple(type(v)(str(v).removeprefix(_MARK)) for v in value)
        else:
            continue
        if new is not value:
            changes[field.name] = new
    return dataclasses.replace(command, **changes) if changes else command
