"""What a run reports while it trains: metrics.jsonl, and a progress bar or lines."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm.config import TrackerName, TrainConfig
from lm.flops import train_flops_per_token
from lm.run.evaluate import Evaluation, bits_per_byte, entropy_floor
from lm.run.metrics import metric_lines
from lm.run.track import Trackers
from lm.terminal import Shown
from tokenizer.errors import InputError


class MetricsLog:
    """metrics.jsonl and the progress bar. A step's metrics are read while the next step runs, so that nothing waits."""

    def __init__(
        self,
        out: Path,
        first_step: int,
        config: TrainConfig,
        val_facts: dict[str, Any],
        track: Sequence[TrackerName],
        silent: bool = False,
        devices: int = 1,
    ) -> None:
        """Open the log of a run that begins or resumes after `first_step`.

        Args:
            silent: Write and show nothing. All processes except the first are silent: they only read each step's
                metrics, as the first does.
            devices: Number of devices, each with the config's peak_flops.
        """
        self._path, self._silent = Path(os.devnull) if silent else out / "metrics.jsonl", silent
        seconds = 0.0
        if not silent:
            end = 0
            for record, end_of_line in metric_lines(out):
                if record["step"] > first_step:
                    break
                seconds, end = record["seconds"], end_of_line
            # Drop the lines after the checkpoint that the run resumes from: it will repeat these steps.
            if self._path.exists():
                os.truncate(self._path, end)
        self._name = out.name
        self._file = self._path.open("a", encoding="utf-8", newline="")
        if not silent:
            os.fsync(self._file.fileno())
        self._trackers = Trackers(() if silent else track, out)
        self._start = time.perf_counter() - seconds
        self._config, self._devices = config, devices
        # A terminal shows a bar; a file gets one line per evaluation.
        self._shown_on: Any = Shown(sys.stderr)
        self._bar = tqdm(
            desc=out.name,
            file=self._shown_on,
            total=config.steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=True if silent else None,
        )
        self._val_facts, self._floor = val_facts, entropy_floor(val_facts)
        self._shown: dict[str, str] = {}
        self._pending: tuple[int, int, float, dict[str, Any]] | None = None
        self._last_step, self._last_tokens = first_step, 0
        self._first = first_step, time.perf_counter()
        self.not_finite: tuple[int, str] | None = None
        """The first step whose loss or gradient norm was not finite, and both in words."""
        self.skipped = 0
        """Number of steps whose loss or gradient norm was not finite."""
        self.unwritten: str | None = None
        """Why lines of metrics.jsonl could not be written; None if all were."""

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._trackers.close()
        # A full disk has been reported already.
        with contextlib.suppress(OSError):
            self._file.close()

    def step(self, step: int, tokens: int, lr: float, metrics: dict[str, Any]) -> None:
        """Hold the metrics of a step that has just begun, and write those of the step before."""
        self.flush()
        self._pending = step, tokens, lr, metrics

    def flush(self) -> None:
        """Wait for the held step and write its metrics."""
        if self._pending is None:
            return
        (step, tokens, lr, metrics), self._pending = self._pending, None
        self._last_step, self._last_tokens = step, tokens
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        record = {"step": step, "tokens": tokens, "train_loss": loss, "lr": lr, "grad_norm": grad_norm}
        finite = bool(metrics["finite"])
        if not finite:
            self.not_finite = self.not_finite or (
                step,
                f"the loss is {loss} and the gradient norm {grad_norm}",
            )
            self.skipped += 1
            record["skipped"] = True
        first_step, first_time = self._first
        rate = tokens / step * (step - first_step) / (time.perf_counter() - first_time)
        self._show(loss=f"{loss:.3f}", lr=f"{lr:.1e}", norm=f"{grad_norm:.2f}", **{"tok/s": f"{rate:,.0f}"})
        if self._config.peak_flops is not None:
            used = rate * train_flops_per_token(self._config.model)
            self._show(MFU=f"{used / (self._devices * self._config.peak_flops):.1%}")
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()
        if step % self._config.log_interval == 0 or step == self._config.steps or not finite:
            self._write(record)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write an evaluation after the last step."""
        self.flush()
        loss = evaluation.loss
        self._show(val=f"{loss:.3f}", acc=f"{evaluation.accuracy:.1%}")
        if self._floor is not None:
            self._show(gap=f"{loss - self._floor:.3f}")
        self._bar.set_postfix(self._shown)
        if self._bar.disable:
            step, first_time = self._last_step, self._first[1]
            left = (time.perf_counter() - first_time) / (step - self._first[0]) * (self._config.steps - step)
            shown = ", ".join(f"{name} {value}" for name, value in self._shown.items())
            self.tell(
                f"{self._name}: step {step} of {self._config.steps}: {shown}, {tqdm.format_interval(left)} left"
            )
        bits = bits_per_byte(evaluation, self._val_facts)
        self._write(
            {
                "step": self._last_step,
                "tokens": self._last_tokens,
                "val_loss": loss,
                "perplexity": evaluation.perplexity,
                "accuracy": evaluation.accuracy,
                **({} if bits is None else {"bits_per_byte": bits}),
            }
        )

    def sample(self, text: str) -> None:
        """Write a sample of the model's text after the last step."""
        self.flush()
        self._write({"step": self._last_step, "tokens": self._last_tokens, "sample": text})

    def tell(self, message: str) -> None:
        """Print a line above the progress bar."""
        if not self._silent:
            tqdm.write(message, file=self._shown_on)

    def _show(self, **values: str) -> None:
        """Update what the bar shows, in a fixed order."""
        shown = self._shown | values
        order = ("loss", "val", "gap", "acc", "lr", "norm", "tok/s", "MFU")
        self._shown = {name: shown[name] for name in order if name in shown}

    def sync(self) -> None:
        """Flush everything to the disk, because a checkpoint of the last step will rely on it.

        Raises:
            InputError: the disk refuses. Lines that could not be written at all have been reported already.
        """
        self.flush()
        if not self._silent and not self.unwritten:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise InputError(
                    f"{self._path}: cannot be written ({error.strerror}); the checkpoints are intact: free "
                    "some space or mount it writable, and resume with --resume"
                ) from None

    def _write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN.
        record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        record["seconds"] = round(time.perf_counter() - self._start, 3)
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            self.unwritten = f"{self._path}: cannot be written ({error.strerror})"
        self._trackers.write(record)
