"""Copies of a run's metrics for TensorBoard and for Weights & Biases, which the extra `track` installs."""

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
from lm.files import alone_in, write_json
from lm.run.facts import read_facts
from lm.run.metrics import metric_lines
from lm.terminal import Shown
from tokenizer.errors import InputError

Record: TypeAlias = dict[str, Any]
"""A line of metrics.jsonl."""
Tracker: TypeAlias = Generator[None, Record, None]
"""Takes records that are sent to it, and finishes its files when it is closed."""


class Trackers:
    """What copies a run's records, those so far and those to come. One that fails is left out: training goes on."""

    def __init__(self, names: Sequence[TrackerName], run: Path) -> None:
        self._run = run
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, lambda name=name: self._open.update({name: _started(name, run)}))  # type: ignore[misc]

    def write(self, record: Record) -> None:
        """Copy a record just written to metrics.jsonl."""
        for name, tracker in tuple(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.send(record))  # type: ignore[misc]

    def close(self) -> None:
        """Finish the copies."""
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
            raise InputError(f"{name} is not installed: it comes with pip install 'twinlm[track]'")


def export(name: TrackerName, run: Path) -> None:
    """Copy what a run's metrics.jsonl holds.

    Raises:
        InputError: there is no such run, another process is at work on it, the tracker is not installed, or it failed.
    """
    refuse_missing([name])
    if read_facts(run) is None:
        raise InputError(f"{run}: holds no run.json; give the folder of a run of lm train")
    try:
        with alone_in(run):
            _started(name, run).close()
    except InputError:
        raise
    except Exception as error:
        raise InputError(_failure(name, run, error)) from None


def _failure(name: str, run: Path, error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{name} failed ({said}); {run}/metrics.jsonl holds everything: lm track {run} --to {name} copies it later"


def _started(name: str, run: Path) -> Tracker:
    """A tracker of the run, to which all records so far have been sent."""
    tracker = {"tensorboard": _tensorboard, "wandb": _wandb}[name](run, read_facts(run) or {})
    next(tracker)
    for record, _ in metric_lines(run):
        tracker.send(record)
    return tracker


def _values(record: Record) -> Record:
    """The numbers and texts of a record that are curves or samples."""
    return {
        key: value
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float | str) and not isinstance(value, bool)
    }


def _tensorboard(run: Path, facts: Record) -> Tracker:
    """One event file, made anew from metrics.jsonl whenever a process starts on the run, so that it is no other.

    TensorBoard's EventFileWriter writes in a thread, where a full disk is fatal; its RecordWriter does not.
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
        # A TensorBoard that has read the file before forgets what it read.
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
    """A run of Weights & Biases, which the processes that go on with our run go on with too.

    A row is all of a step's records; which rows are there already, the server says, or RUN/wandb.json does of those
    that wait in a folder to be sent. How much of such a folder a kill left is not known: it is set aside, and its
    rows come again, with the same numbers, since our run resumes exactly.
    """
    import wandb

    note = run / "wandb.json"
    try:
        known = json.loads(note.read_bytes())
        identity, last, unfinished = str(known["id"]), int(known["step"]), Path(known["unfinished"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        identity, last, unfinished = None, -1, Path()
    if unfinished.name.startswith("offline-run-") and unfinished.is_dir():
        unfinished.rename(unfinished.with_name(f"killed-{unfinished.name}"))
    # What its own environment variables say goes before.
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
