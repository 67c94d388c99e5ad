"""Compare a whole model of the user with the oracle's: logits, hidden states by layer, and the next token."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm.budgets import BUDGETS, Dtype, as_dtype, relative_error
from lm.config import ModelConfig
from lm.interop import import_model
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.loading import trained_weights
from parity import oracle
from parity.case import Given
from parity.check.process import DEFAULT_LIMITS, Child, Limits
from parity.check.subjects import Array, Call
from parity.mistakes import MISTAKES, Mistake
from tokenizer.errors import InputError

BATCH, LONGEST = 2, 32
"""Texts of random tokens, and most tokens in each."""
SEARCH_SECONDS = 30.0
"""Time for trying the known mistakes."""
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Precision:
    """What the user's model gave in one type."""

    dtype: Dtype
    error: float
    """Of the logits, relative to the oracle's."""
    threshold: float
    kl: float
    """Mean KL divergence of the user's next token from the oracle's, in nats."""
    top1: float
    """Share of places with the oracle's likeliest token."""
    top5: float
    """Mean share of the oracle's five likeliest tokens among the user's five."""
    drift: tuple[float, ...] = ()
    """Error of the embeddings, then of each layer's hidden states. Empty: the function returns none."""

    @property
    def first_off(self) -> int | None:
        """The first place in `drift` over the threshold."""
        return next((i for i, error in enumerate(self.drift) if error > self.threshold), None)


@dataclass(frozen=True)
class Model:
    """A model whose numbers are known: its sizes and weights."""

    config: ModelConfig
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelVerdict:
    """The user's model beside the oracle's."""

    function: str
    precisions: tuple[Precision, ...]
    mistakes: tuple[Mistake, ...] = ()
    """Known mistakes that each explain the logits in float32."""
    notes: tuple[str, ...] = field(default=())

    @property
    def is_off(self) -> bool:
        """Whether the logits are over the threshold in a precision."""
        return any(not p.error <= p.threshold for p in self.precisions)


def read_model(folder: Path) -> Model:
    """Read the weights of a run's newest checkpoint, or of a model that transformers saved.

    Raises:
        InputError: the folder has neither, or the model is no decoder.
    """
    if (folder / "config.json").exists():
        return Model(*import_model.read_model(folder))
    path = checkpoint.latest(folder)
    config, _ = load_facts(path)
    if config.model.architecture != "decoder":
        raise InputError(f"{folder}: its architecture is {config.model.architecture}; give a decoder")
    leaves = trained_weights(path, config)
    return Model(config.model, {name: np.asarray(leaf[...], np.float64) for name, leaf in leaves})


def run_logits(
    target: str, folder: Path, python: str = sys.executable, limits: Limits = DEFAULT_LIMITS
) -> ModelVerdict:
    """Compare FILE:FUNCTION with the model in a folder.

    Args:
        target: A file and one of its functions. The function receives token ids (B, T) and, if it has a second
            parameter without a default, the weights by their names here. It returns logits (B, T, V), or logits and
            hidden states: those of the embeddings and of each layer, or of each layer alone.

    Raises:
        InputError: the target or the folder is malformed, or the function gives no logits.
    """
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise InputError(f"logits is {target!r}: give FILE:FUNCTION, such as my_model.py:forward")
    model = read_model(folder)
    T = min(LONGEST, model.config.context_length)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (BATCH, T))
    with Child(file, [name], python, limits) as child:
        if name not in child.functions:
            raise InputError(f"{file} has no function {name}: name one that it has")
        required = [p for p in child.functions[name].parameters or () if not p.has_default]
        takes_weights = len([p for p in required if p.kind.startswith("POSITIONAL")]) > 1
        notes = () if takes_weights else ("only in float32, since the function has weights of its own",)
        precisions: list[Precision] = []
        mistakes: tuple[Mistake, ...] = ()
        for dtype in DTYPES if takes_weights else DTYPES[:1]:
            rounded = (
                {n: as_dtype(w, dtype) for n, w in model.weights.items()} if takes_weights else model.weights
            )
            exact = hidden_states(rounded, ids, model.config)
            theirs = _ask(child, name, rounded if takes_weights else {}, ids, model.config, dtype)
            precisions.append(compare(theirs, exact, model.config, dtype))
            if dtype == "float32" and not precisions[0].error <= precisions[0].threshold:
                mistakes = explain(theirs[0], Model(model.config, rounded), ids, precisions[0].threshold)
    return ModelVerdict(name, tuple(precisions), mistakes, notes)


def _ask(
    child: Child,
    name: str,
    weights: dict[str, np.ndarray],
    ids: np.ndarray,
    config: ModelConfig,
    dtype: Dtype,
) -> list[np.ndarray]:
    """Return the user's logits, and then the hidden states."""
    held = {"weights": {n: Array(n) for n in weights}} if weights else {}
    call = Call(name, lambda given: {"token_ids": Array("token_ids"), **held}, through="whole_model")
    answer = child.call(call, Given(weights, {"token_ids": ids}), dict.fromkeys(weights, dtype))
    if answer.failure or answer.output is None:
        raise InputError(f"{name} gives no logits in {dtype}: {answer.failure and answer.failure.message}")
    places = ids.size
    of_logits, of_states = places * config.vocab_size, places * config.d_model
    left = answer.output.size - of_logits
    if left < 0 or left % of_states:
        raise InputError(
            f"{name} returns {answer.output.size:,} numbers: give logits {(*ids.shape, config.vocab_size)}, and hidden "
            f"states {(*ids.shape, config.d_model)} if it has them"
        )
    flat = answer.output[:of_logits].reshape(*ids.shape, -1)
    return [flat, *answer.output[of_logits:].reshape(left // of_states, *ids.shape, config.d_model)]


def hidden_states(weights: oracle.Weights, ids: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """Return the oracle's logits, then the embeddings, the output of each layer, and the last after the final norm."""
    states: list[np.ndarray] = []
    block, head = oracle.function("transformer_block"), oracle.function("logits")

    def recorded_block(w: oracle.Weights, x: np.ndarray, *args: Any) -> np.ndarray:
        states.append(x)
        return block(w, x, *args)

    def recorded_head(w: oracle.Weights, x: np.ndarray, *args: Any) -> np.ndarray:
        states.append(x)
        return head(w, x, *args)

    # The last layer's output is what the final norm reads.
    norm = oracle.function("norm")

    def recorded_norm(w: oracle.Weights, name: str, x: np.ndarray, *args: Any) -> np.ndarray:
        if name == "ln_final":
            states.append(x)
        return norm(w, name, x, *args)

    with (
        oracle.replaced("transformer_block", recorded_block),
        oracle.replaced("norm", recorded_norm),
        oracle.replaced("logits", recorded_head),
    ):
        return [oracle.transformer_lm(weights, ids, config), *states]


def compare(
    theirs: Sequence[np.ndarray], exact: Sequence[np.ndarray], config: ModelConfig, dtype: Dtype
) -> Precision:
    """Compare logits and hidden states with the oracle's."""
    error = relative_error(theirs[0], exact[0])
    ours, log_theirs = _log_softmax(exact[0]), _log_softmax(theirs[0])
    order, their_order = (np.argsort(-x, axis=-1, kind="stable") for x in (exact[0], theirs[0]))
    best = min(5, exact[0].shape[-1])
    overlap = (order[..., :best, None] == their_order[..., None, :best]).any(-1).mean()
    return Precision(
        dtype,
        error,
        BUDGETS[dtype].model_forward * math.sqrt(config.num_layers),
        float((np.exp(ours) * (ours - log_theirs)).sum(-1).mean()),
        float((order[..., 0] == their_order[..., 0]).mean()),
        float(overlap),
        _drift(theirs[1:], exact[1:], config.num_layers),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _drift(theirs: Sequence[np.ndarray], exact: Sequence[np.ndarray], num_layers: int) -> tuple[float, ...]:
    """Return the errors of the embeddings and of each layer's output. The last may be given after the final norm."""
    if len(theirs) not in (num_layers, num_layers + 1):
        return ()
    skipped = num_layers + 1 - len(theirs)
    errors = [relative_error(a, b) for a, b in zip(theirs, exact[skipped:], strict=False)]
    errors[-1] = min(errors[-1], relative_error(theirs[-1], exact[-1]))
    return (math.nan,) * skipped + tuple(errors) if skipped else tuple(errors)


def explain(logits: np.ndarray, model: Model, ids: np.ndarray, threshold: float) -> tuple[Mistake, ...]:
    """Return the known mistakes that each explain the logits, as far as the time reaches."""
    end, found = time.monotonic() + SEARCH_SECONDS, []
    for mistake in MISTAKES:
        if time.monotonic() > end:
            break
        try:
            with oracle.replaced(mistake.replaces, mistake.variant), np.errstate(all="ignore"):
                wrong = oracle.transformer_lm(model.weights, ids, model.config)
        except Exception:  # a variant that does not take this model's shapes explains nothing
            continue
        if relative_error(logits, np.asarray(wrong)) <= threshold:
            found.append(mistake)
    return tuple(found)


NUMBERS = f"{'logits':>8} {'threshold':>10} {'KL, nats':>9} {'top-1':>7} {'top-5':>7}"
"""Heads of the columns of `numbers_of`."""


def numbers_of(p: Precision) -> str:
    """Return how near the logits are, in columns."""
    return f"{p.error:8.0e} {p.threshold:10.0e} {p.kl:9.0e} {p.top1:7.1%} {p.top5:7.1%}"


def lines(verdict: ModelVerdict) -> list[str]:
    """Return what is printed."""
    out = [f"{'precision':10} {NUMBERS}"]
    out += [f"{p.dtype:10} {numbers_of(p)}" for p in verdict.precisions]
    for p in verdict.precisions:
        if p.drift:
            out.append(f"drift of the hidden states in {p.dtype}, at most {p.threshold:.0e}:")
            out += [
                f"  {_layer(i):11} {error:.0e}" for i, error in enumerate(p.drift) if not math.isnan(error)
            ]
        first = p.first_off
        if first is not None:
            out.append(f"the first hidden states over the threshold in {p.dtype}: {_layer(first)}")
    for mistake in verdict.mistakes:
        out.append(
            f"{mistake.name}: {mistake.explanation} The right formula: {mistake.formula} ({mistake.source})."
        )
    if len(verdict.mistakes) > 1:
        out.append(
            "each of these mistakes alone explains the logits; lm check FILE tells them apart by function"
        )
    out += [f"note: {note}" for note in verdict.notes]
    rule = "the threshold is the budget of a model's logits times the root of its number of layers"
    return [*out, f"{verdict.function}: {'OFF' if verdict.is_off else 'pass'} ({rule})"]


def _layer(i: int) -> str:
    return f"layer {i}" if i else "embeddings"


def as_json(verdict: ModelVerdict) -> dict[str, Any]:
    """Return the verdict for --json."""
    return {
        "function": verdict.function,
        "status": "off" if verdict.is_off else "pass",
        "precisions": [precision_as_json(p) for p in verdict.precisions],
        "mistakes": [mistake.name for mistake in verdict.mistakes],
        "notes": list(verdict.notes),
    }


def precision_as_json(p: Precision) -> dict[str, Any]:
    """Return the numbers of one type for --json. A number that is not finite is a string; an unknown one is null."""
    return {
        "dtype": p.dtype,
        "error": repr(p.error) if not math.isfinite(p.error) else p.error,
        "threshold": p.threshold,
        "kl": repr(p.kl) if not math.isfinite(p.kl) else p.kl,
        "top1": p.top1,
        "top5": p.top5,
        "drift": [e if math.isfinite(e) else None for e in p.drift],
        "first_off": None if p.first_off is None else _layer(p.first_off),
    }


def draw(verdict: ModelVerdict, path: Path) -> None:
    """Draw the drift by layer.

    Raises:
        InputError: there are no hidden states.
    """
    from lm.experiment.plot import open_plot

    if not any(p.drift for p in verdict.precisions):
        raise InputError(
            f"{verdict.function} returns no hidden states, so there is no drift to draw: leave out --png"
        )
    with open_plot(path) as axes:
        for i, p in enumerate(verdict.precisions):
            axes.semilogy(range(len(p.drift)), p.drift, "o-", color=f"C{i}", label=p.dtype)
            axes.axhline(p.threshold, color=f"C{i}", linestyle=":", label=f"threshold, {p.dtype}")
        axes.set_xlabel("layer (0: embeddings)")
        axes.set_ylabel("relative error of the hidden states")
