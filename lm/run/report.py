"""Report on runs: a table for the terminal, and one self-contained HTML page that compares them."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.config import TrainConfig, from_dict
from lm.files import is_locked, published, reserved
from lm.init import parameter_shapes
from lm.run import checkpoint
from lm.run.facts import flat_settings, read_facts
from lm.run.metrics import metric_lines
from lm.tables import plain_table
from tokenizer.errors import InputError

# A screen can show about this many stretches of a run apart. A long run keeps between half of them and all.
_MOST_STRETCHES = 500


class Thinned:
    """A series of records, thinned to what a screen can show.

    A long series is cut into a few hundred stretches of equal length. Each stretch keeps its first and last record, and
    the records with the lowest and the highest value of each number. A short series keeps everything.
    """

    def __init__(self, numbers: Sequence[str] = ()) -> None:
        self._numbers = numbers
        self._stretches: list[list[dict[str, Any]]] = []
        self._length, self._in_last = 1, 0

    def add(self, record: dict[str, Any]) -> None:
        """Add the next record."""
        if self._in_last == 0:
            self._stretches.append([])
        self._stretches[-1].append(record)
        self._in_last += 1
        if self._in_last == self._length:
            self._in_last = 0
        if self._in_last == 0 or len(self._stretches[-1]) >= 64:
            self._stretches[-1] = self._thinned(self._stretches[-1])
        if self._in_last == 0 and len(self._stretches) == _MOST_STRETCHES:
            pairs = zip(self._stretches[::2], self._stretches[1::2], strict=True)
            self._stretches = [self._thinned(a + b) for a, b in pairs]
            self._length *= 2

    def records(self) -> list[dict[str, Any]]:
        """Return the kept records, in their order."""
        return list(itertools.chain(*self._stretches))

    def _thinned(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = {0, len(records) - 1}
        for name in self._numbers:
            values = [(r[name], i) for i, r in enumerate(records) if isinstance(r.get(name), int | float)]
            if values:
                kept |= {min(values)[1], max(values)[1]}
        return [records[i] for i in sorted(kept)]


class Metrics:
    """A summary of metrics.jsonl, computed line by line."""

    TRAIN = ("train_loss", "lr", "grad_norm", "rate")
    VAL = ("val_loss", "accuracy", "bits_per_byte")

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.last: dict[str, Any] = {}
        """The last value of each number."""
        self.best: float | None = None
        """The lowest validation loss."""
        self.train, self.val, self.samples = Thinned(self.TRAIN), Thinned(self.VAL), Thinned()
        before = {"seconds": 0.0, "tokens": 0}
        for m in records:
            self.last |= {name: value for name, value in m.items() if isinstance(value, int | float)}
            if "train_loss" in m:
                seconds = m["seconds"] - before["seconds"]
                m["rate"] = (m["tokens"] - before["tokens"]) / seconds if seconds > 0 else None
                before = m
                self.train.add(m)
            if "val_loss" in m:
                self.val.add(m)
                if isinstance(m["val_loss"], float) and (self.best is None or m["val_loss"] < self.best):
                    self.best = m["val_loss"]
            if "sample" in m:
                self.samples.add(m)

    def rate(self) -> float | None:
        """Return the tokens per second over the whole run, evaluations included."""
        return self.last["tokens"] / self.last["seconds"] if self.last.get("seconds") else None


@dataclass(frozen=True)
class Run:
    """The current state of a run."""

    name: str
    config: TrainConfig
    facts: dict[str, Any]
    """run.json."""
    metrics: Metrics
    state: str
    """done, stopped, running, or new."""
    peak_memory: int | None
    """Bytes of main memory, or None if no checkpoint tells."""


def read_run(folder: Path, name: str) -> Run:
    """Read a run's facts and metrics.

    Raises:
        InputError: the folder holds no run.
    """
    facts = read_facts(folder)
    if facts is None:
        raise InputError(f"{folder}: holds no run.json; give the folder of a run of lm train")
    config: TrainConfig = from_dict(TrainConfig, facts["config"], f"{folder}/run.json")
    saved = next(map(checkpoint.peek_state, checkpoint.find_all(folder)), {})
    iteration, memory = saved.get("iteration"), saved.get("peak_memory_bytes")
    waited = saved.get("evaluations_since_best")
    early = config.patience is not None and isinstance(waited, int) and waited >= config.patience
    if is_locked(folder):
        state = "running"
    elif not iteration:
        state = "new"
    else:
        state = "done" if iteration == config.steps or early else "stopped"
    metrics = Metrics(record for record, _ in metric_lines(folder))
    return Run(name, config, facts, metrics, state, memory if isinstance(memory, int) else None)


def list_runs(folder: Path) -> str:
    """Return a table of all runs below a folder. A broken run gets a line that says why it is broken.

    Raises:
        InputError: there are no runs.
    """
    found = sorted(path.parent for path in folder.rglob("run.json"))
    if not found:
        raise InputError(f"{folder}: holds no runs; give a folder that lm train has written to")
    head = ("run", "backend", "state", "step", "train", "val", "best", "tokens/s", "time")
    rows: list[list[str]] = []
    broken = []
    for path in found:
        try:
            r = read_run(path, str(path.relative_to(folder)))
        except InputError as error:
            broken.append(str(error))
            continue
        last = r.metrics.last
        losses = [last.get("train_loss"), last.get("val_loss"), r.metrics.best]
        rows.append(
            [
                r.name,
                r.facts["backend"],
                r.state,
                f"{last.get('step', 0)}/{r.config.steps}",
                *("-" if loss is None else f"{loss:.4f}" for loss in losses),
                _number(r.metrics.rate()),
                f"{last['seconds']:.0f} s" if last else "-",
            ]
        )
    return "\n".join([plain_table(head, rows, left=len(head)), *broken])


def write_report(folders: list[Path], out: Path) -> None:
    """Write one HTML page that compares runs. It loads nothing from the network.

    Raises:
        InputError: a folder holds no run, or `out` exists.
    """
    with reserved(out):
        page = _page(folders)
        with published(out) as temporary:
            temporary.write_bytes(page.encode())


def _page(folders: list[Path]) -> str:
    runs = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    settings = [flat_settings(r.config) for r in runs]
    for r, values in zip(runs, settings, strict=True):
        values |= {
            "backend": r.facts["backend"],
            **{f"version of {k}": v for k, v in r.facts["versions"].items()},
        }
    keys = list(dict.fromkeys(key for values in settings for key in values))
    data = {
        "runs": [_series(r) for r in runs],
        "numbers": _numbers(runs),
        "settings": [
            [key, *(str(values.get(key, "-")) for values in settings)]
            for key in keys
            if len({values.get(key) for values in settings}) > 1
        ],
    }
    template = Path(__file__).with_suffix(".html").read_bytes().decode()
    # Within a script element only "<" could end the data.
    return template.replace("{{DATA}}", json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


def _names(folders: list[Path]) -> list[str]:
    """Return the folders' last parts, or the whole paths if the last parts are not distinct."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _series(r: Run) -> dict[str, Any]:
    """Return what the page draws of a run."""
    samples = r.metrics.samples.records()
    return {
        "name": r.name,
        "floor": r.facts.get("floor"),
        "train": _columns(r.metrics.train.records(), Metrics.TRAIN),
        "val": _columns(r.metrics.val.records(), Metrics.VAL),
        "samples": [{"step": m["step"], "sample": str(m["sample"])} for m in samples],
    }


def _columns(records: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    present = [key for key in keys if any(key in m for m in records)]

    def number(value: Any) -> float | None:
        return value if isinstance(value, int | float) else None

    return {key: [number(m.get(key)) for m in records] for key in ("step", "tokens", "seconds", *present)}


def _numbers(runs: list[Run]) -> list[list[str]]:
    """Return the rows of a table: a label and its value in each run."""
    rows: list[list[str]] = []

    def row(what: str, values: list[Any]) -> None:
        rows.append([what, *(v if isinstance(v, str) else _number(v) for v in values)])

    row("state", [r.state for r in runs])
    row("steps", [r.metrics.last.get("step", 0) for r in runs])
    row("tokens", [r.metrics.last.get("tokens") for r in runs])
    row("parameters", [sum(map(math.prod, parameter_shapes(r.config.model).values())) for r in runs])
    row("training loss", [r.metrics.last.get("train_loss") for r in runs])
    row("validation loss", [r.metrics.last.get("val_loss") for r in runs])
    row("lowest validation loss", [r.metrics.best for r in runs])
    row("entropy floor", [r.facts.get("floor") for r in runs])
    row("perplexity", [r.metrics.last.get("perplexity") for r in runs])
    row("accuracy", [r.metrics.last.get("accuracy") for r in runs])
    row("bits per byte", [r.metrics.last.get("bits_per_byte") for r in runs])
    row("seconds", [r.metrics.last.get("seconds") for r in runs])
    row("tokens a second", [r.metrics.rate() for r in runs])
    row("peak memory, MB", [r.peak_memory and r.peak_memory / 1e6 for r in runs])
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.5g}"
