"""What became of runs: a list for the terminal, and a page that compares them, complete in itself."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm import checkpoint, run
from lm.config import TrainConfig, from_dict
from lm.files import is_locked, published, reserved
from lm.init import parameter_shapes
from tokenizer.errors import InputError

# More points than a screen has are left out.
_MOST_POINTS = 2000


@dataclass(frozen=True)
class Run:
    """A run as it stands."""

    name: str
    config: TrainConfig
    facts: dict[str, Any]
    """run.json."""
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl, by step."""
    state: str
    """done, stopped, running, or new."""
    peak_memory: int | None
    """Bytes of main memory, where a checkpoint tells."""

    def last(self, key: str) -> float | None:
        """The last value of a number in the metrics."""
        values = [m[key] for m in self.metrics if isinstance(m.get(key), int | float)]
        return values[-1] if values else None

    def best(self) -> float | None:
        """The lowest validation loss."""
        return min(
            (m["val_loss"] for m in self.metrics if isinstance(m.get("val_loss"), float)), default=None
        )

    def rate(self) -> float | None:
        """Tokens a second over all, evaluations included."""
        if not self.metrics or not self.metrics[-1]["seconds"]:
            return None
        return (self.last("tokens") or 0) / self.metrics[-1]["seconds"]


def read_run(folder: Path, name: str) -> Run:
    """Read a run's facts and metrics.

    Raises:
        InputError: it is no run.
    """
    facts = run.read_facts(folder)
    if facts is None:
        raise InputError(f"{folder}: holds no run.json; give the folder of a run of lm train")
    config: TrainConfig = from_dict(TrainConfig, facts["config"], f"{folder}/run.json")
    saved = next(map(checkpoint.unverified_state, checkpoint.all_of(folder)), {})
    iteration, memory = saved.get("iteration"), saved.get("peak_memory_bytes")
    waited = saved.get("evaluations_since_best")
    early = config.patience is not None and isinstance(waited, int) and waited >= config.patience
    if is_locked(folder):
        state = "running"
    elif not iteration:
        state = "new"
    else:
        state = "done" if iteration == config.steps or early else "stopped"
    metrics = run.read_metrics(folder)
    return Run(name, config, facts, metrics, state, memory if isinstance(memory, int) else None)


def list_runs(folder: Path) -> str:
    """A table of all runs below a folder; a broken one is a line that says why.

    Raises:
        InputError: there are none.
    """
    found = sorted(path.parent for path in folder.rglob("run.json"))
    if not found:
        raise InputError(f"{folder}: holds no runs; give a folder that lm train has written to")
    rows = [["run", "backend", "state", "step", "train", "val", "best", "tokens/s", "time"]]
    broken = []
    for path in found:
        try:
            r = read_run(path, str(path.relative_to(folder)))
        except InputError as error:
            broken.append(str(error))
            continue
        step = r.metrics[-1]["step"] if r.metrics else 0
        losses = [r.last("train_loss"), r.last("val_loss"), r.best()]
        rows.append(
            [
                r.name,
                r.facts["backend"],
                r.state,
                f"{step}/{r.config.steps}",
                *("-" if loss is None else f"{loss:.4f}" for loss in losses),
                _number(r.rate()),
                f"{r.metrics[-1]['seconds']:.0f} s" if r.metrics else "-",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines + broken)


def write_report(folders: list[Path], out: Path) -> None:
    """Write one HTML page, which loads nothing from anywhere, that compares runs.

    Raises:
        InputError: a folder holds no run, or `out` exists.
    """
    with reserved(out):
        page = _page(folders)
        with published(out) as temporary:
            temporary.write_bytes(page.encode())


def _page(folders: list[Path]) -> str:
    runs = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    settings = [run.flat(r.config) for r in runs]
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
    # In a script element only "<" could end the data.
    return template.replace("{{DATA}}", json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


def _names(folders: list[Path]) -> list[str]:
    """The folders' last parts, or whole paths where those are not different."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _series(r: Run) -> dict[str, Any]:
    """What the page draws."""
    steps = [dict(m) for m in r.metrics if "train_loss" in m]
    before = {"seconds": 0.0, "tokens": 0}
    for m in steps:
        seconds = m["seconds"] - before["seconds"]
        m["rate"] = (m["tokens"] - before["tokens"]) / seconds if seconds > 0 else None
        before = m
    train_keys, val_keys = (
        ("train_loss", "lr", "grad_norm", "rate"),
        ("val_loss", "accuracy", "bits_per_byte"),
    )
    return {
        "name": r.name,
        "floor": r.facts.get("floor"),
        "train": _columns(steps, train_keys),
        "val": _columns([m for m in r.metrics if "val_loss" in m], val_keys),
        "samples": [{"step": m["step"], "sample": str(m["sample"])} for m in r.metrics if "sample" in m],
    }


def _columns(records: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    records = records[:: math.ceil(len(records) / _MOST_POINTS) or 1]
    present = [key for key in keys if any(key in m for m in records)]
    return {key: [m.get(key) for m in records] for key in ("step", "tokens", "seconds", *present)}


def _numbers(runs: list[Run]) -> list[list[str]]:
    """Rows of a table: what, and its value in each run."""
    rows: list[list[str]] = []

    def row(what: str, values: list[Any]) -> None:
        rows.append([what, *(v if isinstance(v, str) else _number(v) for v in values)])

    row("state", [r.state for r in runs])
    row("steps", [r.metrics[-1]["step"] if r.metrics else 0 for r in runs])
    row("tokens", [r.last("tokens") for r in runs])
    row("parameters", [sum(map(math.prod, parameter_shapes(r.config.model).values())) for r in runs])
    row("training loss", [r.last("train_loss") for r in runs])
    row("validation loss", [r.last("val_loss") for r in runs])
    row("lowest validation loss", [r.best() for r in runs])
    row("entropy floor", [r.facts.get("floor") for r in runs])
    row("perplexity", [r.last("perplexity") for r in runs])
    row("accuracy", [r.last("accuracy") for r in runs])
    row("bits per byte", [r.last("bits_per_byte") for r in runs])
    row("seconds", [r.metrics[-1]["seconds"] if r.metrics else None for r in runs])
    row("tokens a second", [r.rate() for r in runs])
    row("peak memory, MB", [r.peak_memory and r.peak_memory / 1e6 for r in runs])
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.5g}"
