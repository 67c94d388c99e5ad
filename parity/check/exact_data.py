"""The questions about batches and checkpoints, and the oracle's answers to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.check.child.data import FIRST, describe, describe_file
from parity.check.child.texts import raised
from parity.check.exact import Exact, Question
from parity.oracle import data

_DRAWS = 200


def _batches(what: str, length: int, batch_size: int, context_length: int, beyond: bool = False) -> Question:
    sizes = {"length": length, "batch_size": batch_size, "context_length": context_length, "draws": _DRAWS}
    return Question(what, "get_batch", sizes, beyond)


_BATCHES = (
    _batches("batches of 10 tokens", 10, 4, 3),
    _batches("batches of 9 tokens", 9, 4, 5),
    Question("a device that does not exist", "get_batch_on", {"device": "cuda:99"}),
    _batches("the only window of 4 tokens", 4, 1, 3, beyond=True),
    _batches("more rows than windows", 6, 8, 4, beyond=True),
    Question("a memory-mapped file of uint16", "get_batch_of_file", {"dtype": "uint16"}, beyond=True),
    Question("a memory-mapped file of int32", "get_batch_of_file", {"dtype": "int32"}, beyond=True),
)


def _drawn(question: Question) -> Any:
    a, rng = question.arguments, np.random.default_rng(0)

    def draw(dataset: np.ndarray, batch_size: int, context_length: int) -> data.Batch:
        return data.get_batch(dataset, batch_size, context_length, "cpu", rng)

    try:
        if question.handler == "get_batch_on":
            data.get_batch(np.arange(20), 2, 3, a["device"], rng)
            return {"device": "ignored"}
        if question.handler == "get_batch_of_file":
            ids = np.arange(40_000, 40_020).astype(a["dtype"])
            return describe_file(lambda: draw(ids, 4, 5))
        sizes = a["batch_size"], a["context_length"]
        return describe(lambda: draw(np.arange(FIRST, FIRST + a["length"]), *sizes), *sizes, a["draws"])
    except Exception as error:  # a variant may fail
        return {"device": "raises"} if question.handler == "get_batch_on" else raised(error)


def _batch_code(question: Question, names: Mapping[str, str], right: Any, answer: Any) -> str:
    a, function = question.arguments, names["function"]
    if question.handler == "get_batch_on":
        call = f"{function}(np.arange(20), 2, 3, {a['device']!r})"
        return f"with pytest.raises((RuntimeError, AssertionError)):\n    {call}"
    if question.handler == "get_batch_of_file":
        dataset, sizes = f"np.arange(40_000, 40_020, dtype=np.{a['dtype']})", (4, 5)
    else:
        dataset, sizes = f"np.arange({FIRST}, {FIRST + a['length']})", (a["batch_size"], a["context_length"])
    return "\n".join(
        [
            f'batches = [{function}({dataset}, {sizes[0]}, {sizes[1]}, "cpu") for _ in range({_DRAWS})]',
            *(f"# {key}: {value}" for key, value in right.items()),
        ]
    )


def _place(what: str, place: str) -> Question:
    return Question(what, "checkpoint", {"place": place})


_CHECKPOINTS = (
    _place("a checkpoint at a path", "path"),
    _place("a checkpoint in memory, io.BytesIO", "buffer"),
    _place("a checkpoint in a binary file", "file"),
    _place("a checkpoint at a path that is a str", "str"),
    Question("a file that holds code", "checkpoint_of_code", {}, beyond=True),
)


def _loaded(question: Question) -> Any:
    return (
        {"code in the file": "is not executed"}
        if question.handler == "checkpoint_of_code"
        else vars(data.restore())
    )


def _checkpoint_code(question: Question, names: Mapping[str, str], right: Any, answer: Any) -> str:
    return "\n".join(
        [
            f"{names.get('save', 'save')}(model, optimizer, 1234, out)",
            f"iteration = {names['load']}(out, fresh_model, fresh_optimizer)",
            *(
                f"# {key}: {answer.get(key, value)}, not {value}"
                for key, value in right.items()
                if answer.get(key) != value
            ),
        ]
    )


DATA = (
    Exact(
        "get_batch",
        ({"function": "run_get_batch"}, {"function": "get_batch"}),
        _BATCHES,
        _drawn,
        frozenset({"get_batch"}),
        _batch_code,
    ),
    Exact(
        "checkpoints",
        (
            {"save": "run_save_checkpoint", "load": "run_load_checkpoint"},
            {"save": "save_checkpoint", "load": "load_checkpoint"},
        ),
        _CHECKPOINTS,
        _loaded,
        frozenset({"restore"}),
        _checkpoint_code,
    ),
)
