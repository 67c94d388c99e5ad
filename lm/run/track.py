"""Copy a run's metrics to TensorBoard and to Weights & Biases, which the extra `track` installs."""

import contextlib
import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lm.config import TrackerName
from lm.files import alone_in, read_object, write_json
from lm.run.facts import read_facts
from lm.run.metrics import metric_lines
from lm.terminal import Shown
from tokenizer.errors import InputError

Record: TypeAlias = dict[str, Any]
"""A line of metrics.jsonl."""
Tracker: TypeAlias = Generator[None, Record, None]
"""Receives records by `send`, and finishes its files when it is closed."""


class Trackers:
    """The trackers of a run, which copy its earlier and its coming records. A tracker that fails is dropped."""

    def __init__(self, names: Sequence[TrackerName], run: Path) -> None:
        self._run = run
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, lambda name=name: self._open.update({name: _start(name, run)}))  # type: ignore[misc]

    def write(self, record: Record) -> None:
        """Send a record to all trackers."""
        for name, tracker in tuple(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.send(record))  # type: ignore[misc]

    def close(self) -> None:
        """Close all trackers."""
        for name, tracker in tuple(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self._open.pop(name, None)
            warning: Any = Shown(sys.stderr)
            print(f"lm: warning: {_failure(name, self._run, error)}", file=warning)


def refuse_missing(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        InputError: names the extra that installs them.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: install it with pip install 'twinlm[track]'")


def export(name: TrackerName, run: Path) -> None:
    """Copy a run's metrics.jsonl to a tracker.

    Raises:
        InputError: there is no such run, another process is working on it, or the tracker is not installed or failed.
    """
    refuse_missing([name])
    if read_facts(run) is None:
        raise InputError(f"{run}: holds no run.json; give the folder of a run of lm train")
    try:
        with alone_in(run):
            _start(name, run).close()
    except InputError:
        raise
    except Exception as error:
        raise InputError(_failure(name, run, error)) from None


def _failure(name: str, run: Path, error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{name} failed ({said}); {run}/metrics.jsonl holds everything: lm track {run} --to {name} copies it later"


def _start(name: str, run: Path) -> Tracker:
    """Start a tracker and send it all earlier records of the run."""
    tracker = {"tensorboard": _tensorboard, "wandb": _wandb}[name](run, read_facts(run) or {})
    next(tracker)
    for record, _ in metric_lines(run):
        tracker.send(record)
    return tracker


def _values(record: Record) -> Record:
    """Return the numbers and texts of a record, without its step."""
    return {
        key: value
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float | str) and not isinstance(value, bool)
    }


def _tensorboard(run: Path, facts: Record) -> Tracker:
    """Write one event file. Each process of the run writes it again from metrics.jsonl, so both always agree.

    TensorBoard's EventFileWriter writes in a thread, in which a full disk is fatal. Its RecordWriter has no thread.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.summary.writer.record_writer import RecordWriter

    def text(tag: str, value: str) -> Any:
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        return Summary.Value(
            tag=tag, metadata=kind, tensor=TensorProto(dtype=DT_STRING, string_val=[value.encode()])
        )

    folder = run / "tensorboard"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    started = time.time()
    name = f"events.out.tfevents.{started:010.0f}.{socket.gethostname()}.{os.getpid()}"
    with (folder / name).open("wb") as file:
        writer = RecordWriter(file)

        def write(seconds: float, **what: Any) -> None:
            writer.write(Event(wall_time=started + seconds, **what).SerializeToString())
            writer.flush()

        write(0, file_version="brain.Event:2")
        # This makes a TensorBoard that has read an earlier file forget it.
        write(0, step=0, session_log=SessionLog(status=SessionLog.START))
        config = "".join(f"    {line}\n" for line in json.dumps(facts, indent=2).splitlines())
        write(0, step=0, summary=Summary(value=[text("run", config)]))
        while True:
            record = yield
            values = [
                text(key, value) if isinstance(value, str) else Summary.Value(tag=key, simple_value=value)
                for key, value in _values(record).items()
                if key not in ("tokens", "seconds")
            ]
            write(record["seconds"], step=record["step"], summary=Summary(value=values))


def _wandb(run: Path, facts: Record) -> Tracker:
    """Write to one run of Weights & Biases, which later processes of our run continue.

    A row holds all records of a step. The server knows which rows it has. RUN/wandb.json knows which rows wait in an
    offline folder. It is not known how many rows of such a folder survive a kill, so the folder is set aside and its
    rows are written again, with equal numbers, because our run resumes exactly.
    """
    import wandb

    note = run / "wandb.json"
    try:
        known = read_object(note, "delete it")
        identity, last, unfinished = str(known["id"]), int(known["step"]), Path(known["unfinished"] or "")
    except (InputError, ValueError, KeyError, TypeError):
        identity, last, unfinished = None, -1, Path()
    if unfinished.name.startswith("offline-run-") and unfinished.is_dir():
        unfinished.rename(unfinished.with_name(f"killed-{unfinished.name}"))
    # W&B's own environment variables take precedence.
    ours = {"project": "twinlm", "name": run.resolve().name, "dir": str(run)}
    defaults: Any = {key: value for key, value in ours.items() if f"WANDB_{key.upper()}" not in os.environ}
    settings = wandb.Settings(console="off")
    theirs = wandb.init(id=identity, resume="allow", config=facts, settings=settings, **defaults)
    last = max(last, theirs.starting_step - 1)

    def remember(step: int, unfinished: str | None) -> None:
        if not theirs.disabled:
            write_json(note, {"id": theirs.id, "step": step, "unfinished": unfinished})

    remember(last, theirs.settings.sync_dir)
    step, row = last, Record()
    with contextlib.ExitStack() as stack:
        stack.callback(theirs.finish)
        with contextlib.suppress(GeneratorExit):
            while True:
                record = yield
                if record["step"] > step:
                    if row:
                        theirs.log(row, step=step)
                    step, row = record["step"], {}
                if record["step"] > last:
                    row |= _values(record)
        if row:
            theirs.log(row, step=step)
    remember(step, None)
