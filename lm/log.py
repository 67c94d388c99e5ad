"""What a run tells as it goes: metrics.jsonl, and a progress bar or lines."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm import run
from lm.config import TrainConfig
from lm.evaluate import Evaluation, entropy_floor
from lm.files import published
from tokenizer.errors import InputError


class MetricsLog:
    """metrics.jsonl and the progress bar. A step's metrics are read while the next one runs, not to stall it."""

    def __init__(self, out: Path, first_step: int, config: TrainConfig, val_facts: dict[str, Any]) -> None:
        self._path = out / "metrics.jsonl"
        # What a run did after the checkpoint that it resumes from, it is about to do again.
        kept = [m for m in run.read_metrics(out) if m["step"] <= first_step]
        with published(self._path) as temporary:
            temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._start = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        self._config = config
        # A bar where somebody watches, a line an evaluation where output goes to a file.
        self._bar = tqdm(
            total=config.steps, initial=first_step, unit="step", dynamic_ncols=True, disable=None
        )
        self._floor = entropy_floor(val_facts)
        self._shown: dict[str, str] = {"floor": f"{self._floor:.3f}"} if self._floor is not None else {}
        self._pending: tuple[int, int, float, dict[str, Any]] | None = None
        self._first = first_step, time.perf_counter()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        # What a full disk did not take has been reported.
        with contextlib.suppress(OSError):
            self._file.close()

    def step(self, step: int, tokens: int, lr: float, metrics: dict[str, Any]) -> None:
        """Take note of a step just begun, and write down the one before."""
        self.flush()
        self._pending = step, tokens, lr, metrics

    def flush(self) -> None:
        """Wait for the step last noted and write it down."""
        if self._pending is None:
            return
        (step, tokens, lr, metrics), self._pending = self._pending, None
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not bool(metrics["finite"]):
            raise InputError(
                f"step {step}: loss {loss} or gradient norm {grad_norm} is not finite; "
                "lower optimizer.learning-rate, or resume from the last checkpoint with other settings"
            )
        first_step, first_time = self._first
        rate = tokens / step * (step - first_step) / (time.perf_counter() - first_time)
        self._shown |= {"loss": f"{loss:.3f}", "lr": f"{lr:.1e}", "tok/s": f"{rate:,.0f}"}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()
        if step % self._config.log_interval == 0 or step == self._config.steps:
            self._write(
                {"step": step, "tokens": tokens, "train_loss": loss, "lr": lr, "grad_norm": grad_norm}
            )

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write down an evaluation after the step last noted."""
        assert self._pending is not None
        step, tokens, *_ = self._pending
        self.flush()
        self._shown = {"val": f"{evaluation.loss:.3f}"} | self._shown | {"val": f"{evaluation.loss:.3f}"}
        if self._bar.disable:
            print(f"step {step}:", ", ".join(f"{k} {v}" for k, v in self._shown.items()), file=sys.stderr)
        self._write({"step": step, "tokens": tokens, "val_loss": evaluation.loss})

    def sync(self) -> None:
        """Have everything on the disk, where a checkpoint of the step last noted counts on it."""
        self.flush()
        with self._said():
            os.fsync(self._file.fileno())

    def _write(self, record: dict[str, Any]) -> None:
        record["seconds"] = round(time.perf_counter() - self._start, 3)
        with self._said():
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); the checkpoints are intact: mend that, and go "
                "on with --resume"
            ) from None
