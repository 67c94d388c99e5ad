"""Answer requests until there are no more."""

from __future__ import annotations

import inspect
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from . import data, frameworks, objects, optimizers, texts, wire
from .loading import load

HAVE_FUNCTIONS = (data, optimizers, texts)
"""Modules that add to `objects.THROUGH` and `objects.HANDLERS`."""


def serve(target: str) -> None:
    """Load the target and answer requests. What it prints goes to standard error, which the parent has as a file."""
    requests: BinaryIO = os.fdopen(os.dup(0), "rb")
    replies: BinaryIO = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.argv[:] = [target]
    waiting: queue.Queue[wire.Message] = queue.Queue()
    threading.Thread(target=_receive, args=(requests, waiting), daemon=True).start()
    checked = Checked()
    while True:
        header, arrays = waiting.get()
        try:
            reply, out = checked.answer(header, arrays, target)
        except BaseException as error:
            reply, out = {"failure": _failure(error)}, {}
        wire.write(replies, reply, out)


def _receive(requests: BinaryIO, waiting: queue.Queue[wire.Message]) -> None:
    """Pass the requests on; end the process at once when the parent is no longer there."""
    while True:
        message = wire.read(requests)
        if message is None:
            os._exit(0)
        waiting.put(message)


class Checked:
    """The module under check."""

    def __init__(self) -> None:
        self.module: Any = None
        self.framework_of: dict[str, str] = {}

    def answer(self, header: dict[str, Any], arrays: frameworks.Arrays, target: str) -> wire.Message:
        """Do what a request asks for."""
        if header["do"] == "load":
            self.module = load(target)
            found = {name: getattr(self.module, name, None) for name in header["names"]}
            functions = {name: _described(f, self.module) for name, f in found.items() if callable(f)}
            return {"functions": functions}, {}
        if header["do"] == "run":
            result = objects.HANDLERS[header["handler"]](self.module, **header["arguments"], **arrays)
            return {"result": result}, {}
        return self._call(header, arrays)

    def _call(self, header: dict[str, Any], arrays: frameworks.Arrays) -> wire.Message:
        name, cotangent = header["function"], arrays.pop("cotangent", None)
        users = getattr(self.module, name)
        function = _through(header["through"], users) if header["through"] else users

        def bind(held: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
            return (
                [_filled(value, held) for value in header["positional"]],
                {key: _filled(value, held) for key, value in header["named"].items()},
            )

        known = self.framework_of.get(name)
        order = [known] if known else frameworks.candidates(users, header["of_course"])
        first_error: BaseException | None = None
        key = json.dumps([header, cotangent is None])
        started = time.perf_counter()
        while order:
            framework = order.pop(0)
            try:
                result = frameworks.call(
                    framework, function, bind, arrays, header["dtypes"], header["wanted"], cotangent, key
                )
            except (NotImplementedError, frameworks.NoArray):
                raise
            except Exception as error:
                first_error = first_error or error
                continue
            if result.framework != framework and not known and result.framework in order:
                # It made another framework's array of what it was given: give it that framework's.
                order.remove(result.framework)
                order.insert(0, result.framework)
                continue
            self.framework_of[name] = framework
            reply = result._asdict()
            seconds = time.perf_counter() - started
            gradients = {f"gradient.{n}": g for n, g in result.gradients.items() if g is not None}
            reply["gradients"] = list(result.gradients)
            out = {"output": reply.pop("output"), **gradients}
            return {**reply, "seconds": seconds}, out
        assert first_error is not None
        raise first_error


def _through(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: objects.THROUGH[name](function, *args, **named)


def _filled(value: Any, held: dict[str, Any]) -> Any:
    """Put the arrays in their places."""
    if isinstance(value, dict):
        if "array" in value:
            array = held[value["array"]]
            array = array[slice(*value["rows"])] if value["rows"] else array
            return ~array if value["inverted"] else array
        return {key: _filled(item, held) for key, item in value["dict"].items()}
    return [_filled(item, held) for item in value] if isinstance(value, list) else value


def _described(function: Any, module: Any) -> dict[str, Any]:
    """Return whether the module defines the function, and its parameters; None if Python cannot tell them."""
    where = getattr(inspect.unwrap(function), "__module__", None) or ""
    is_own = where.partition(".")[0] == module.__name__.partition(".")[0] or isinstance(function, partial)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {"is_own": is_own, "parameters": None}
    described = [
        [p.name, p.kind.name, p.default is not p.empty, "" if p.annotation is p.empty else str(p.annotation)]
        for p in parameters
    ]
    return {"is_own": is_own, "parameters": described}


def _failure(error: BaseException) -> list[str]:
    """Return the kind of failure and one line about it."""
    if isinstance(error, frameworks.NoArray):
        return ["no result", f"it returned {error}"]
    kind = "raised"
    if isinstance(error, NotImplementedError):
        kind = "not written"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        kind = "memory"
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:300] + " ..."
    return [kind, f"{type(error).__name__}{': ' if text else ''}{text}{_place(error)}"]


def _place(error: BaseException) -> str:
    """Return the user's last line in the traceback."""
    own = os.path.dirname(os.path.abspath(__file__))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        f
        for f in frames
        if not os.path.abspath(f.filename).startswith(own)
        and not f.filename.startswith(("<", sys.prefix, sys.base_prefix))
        and "site-packages" not in f.filename
    ]
    return f" ({os.path.relpath(theirs[-1].filename)}:{theirs[-1].lineno})" if theirs else ""
