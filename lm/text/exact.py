"""Log-probabilities whose bits do not depend on the batch: every token passes through one form of decode step.

A product's bits depend on its shape: one row takes another kernel than thirty rows, and a sum over 17 keys is split in
other places than a sum over 32. So scoring a text, generating it alone and generating it in a batch give numbers that
differ by rounding. Here all three read one token at a time, in decode steps that always have ROWS rows and caches that
always have context_length slots. docs/formats.md has the price.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lm.backend import Backend, DecodeStep, Logits, Prefill
from lm.config import TrainConfig
from lm.data.documents import document_starts
from tokenizer.errors import InputError

ROWS = 8
"""Rows of each decode step. One text then takes about twice the time of a step with one row, and so do 32 texts."""
_TEXTS = ROWS - 1
"""Texts in a decode step. The last row is always at the last position, because torch's attention takes only the slots
that some row has filled."""


class Exact(NamedTuple):
    """The functions of a backend that read and write text, with the interfaces of `lm.backend`."""

    logits: Logits
    prefill: Prefill
    decode_step: DecodeStep


def refuse_inexact(config: TrainConfig) -> None:
    """Refuse a model for which equal bits are not proven.

    Raises:
        InputError: the model is not a decoder on a CPU with activations in float32.
    """
    m = config.model
    if m.architecture != "decoder":
        raise InputError(
            f"--exact: the model is an {m.architecture}, and only a decoder is exact; leave out --exact"
        )
    if config.device != "cpu":
        raise InputError(
            f"--exact: {config.device} may take another kernel for each batch; leave out --device"
        )
    if config.compute_dtype != "float32":
        raise InputError(
            f"--exact: the model computes in {config.compute_dtype}, and only float32 is exact; leave out --exact"
        )


def make_exact(backend: Backend, config: TrainConfig) -> Exact:
    """Make the exact functions of a model.

    Raises:
        InputError: as `refuse_inexact`.
    """
    refuse_inexact(config)
    S = config.model.context_length
    begin, step = backend.make_prefill(config), backend.make_decode_step(config)

    def read(state: Any, cache: Any, ids_B: np.ndarray, positions_B: np.ndarray) -> tuple[np.ndarray, Any]:
        """Take one decode step of at most _TEXTS texts. The other rows read the last text's token."""
        more = ROWS - len(ids_B)
        ids_R = np.pad(ids_B.astype(np.int32), (0, more), mode="edge")
        positions_R = np.pad(positions_B.astype(np.int64), (0, more), constant_values=S - 1)
        logits_RV, cache = step(state, cache, ids_R, positions_R)
        return logits_RV[: len(ids_B)], cache

    def read_all(state: Any, ids_BT: np.ndarray, lengths_B: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        """Read the texts of one step token by token, and yield the logits after each token, and the cache.

        A text that is shorter than the others reads its last token again, which changes nothing.
        """
        starts_BT = document_starts(ids_BT, config)
        first_R1 = np.resize(ids_BT[:, :1].astype(np.int32), (ROWS, 1))
        # The first token is read again by the step below, which overwrites its keys and values.
        cache = begin(state, first_R1, np.ones(ROWS, np.int64), S)[1]
        rows = np.arange(len(ids_BT))
        for t in range(int(lengths_B.max())):
            last_B = np.minimum(t, lengths_B - 1)
            starts_B = 0 if starts_BT is None else starts_BT[rows, last_B]
            logits_BV, cache = read(state, cache, ids_BT[rows, last_B], last_B - starts_B)
            yield logits_BV, cache

    def logits(state: Any, ids_BT: Int[np.ndarray, "B T"], *_: Any) -> Float[np.ndarray, "B T V"]:
        full = np.full(len(ids_BT), ids_BT.shape[1])
        return np.concatenate(
            [
                np.stack([logits_BV for logits_BV, _ in read_all(state, ids_BT[i], full[i])], axis=1)
                for i in _groups(len(ids_BT))
            ]
        )

    def prefill(
        state: Any,
        ids_BT: Int[np.ndarray, "B T"],
        lengths_B: Int[np.ndarray, " B"],
        slots: int | None = None,
        *_: Any,
    ) -> tuple[np.ndarray, Any]:
        logits_BV, caches = zip(
            *(list(read_all(state, ids_BT[i], lengths_B[i]))[-1] for i in _groups(len(ids_BT))), strict=True
        )
        return np.concatenate(logits_BV), caches

    def decode_step(
        state: Any, caches: Any, ids_B: Int[np.ndarray, " B"], positions_B: Int[np.ndarray, " B"]
    ) -> tuple[np.ndarray, Any]:
        groups = zip(_groups(len(ids_B)), caches, strict=True)
        logits_BV, caches = zip(
            *(read(state, cache, ids_B[i], positions_B[i]) for i, cache in groups), strict=True
        )
        return np.concatenate(logits_BV), caches

    return Exact(logits, prefill, decode_step)


def _groups(count: int) -> list[slice]:
    """Return slices of the texts, each for one decode step."""
    return [slice(start, start + _TEXTS) for start in range(0, count, _TEXTS)]
