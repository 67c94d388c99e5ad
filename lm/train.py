"""The training loop, written once."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm import checkpoint, run
from lm.backend import BackendName, load
from lm.config import TrainConfig
from lm.data import get_batch, open_tokens, read_sidecar
from lm.evaluate import entropy_floor, evaluate
from lm.files import refuse_existing
from lm.schedule import cosine_schedule
from tokenizer.errors import InputError


def train(
    config: TrainConfig,
    backend_name: BackendName,
    train_path: Path,
    val_path: Path,
    out: Path,
    resume: bool = False,
) -> bool:
    """Train a model into the run folder `out`, with a checkpoint at the end.

    Returns:
        False where SIGINT or SIGTERM ended it before its last step, with a checkpoint to resume from.

    Raises:
        InputError: a file cannot be used, `out` holds a run (and `resume` is false), or the loss is not finite.
    """
    model, optimizer = config.model, config.optimizer
    tokens = open_tokens(train_path, model.vocab_size, model.context_length)
    val_tokens = open_tokens(val_path, model.vocab_size, model.context_length)
    facts = run.describe(config, train_path, val_path)
    if not resume:
        refuse_existing(out)
    backend = load(backend_name, config)
    facts |= {"backend": backend_name, "versions": run.versions(backend)}
    if not resume:
        run.create(out, facts, train_path, val_path)
    first_step, state = (
        _resume(out, facts, config, backend) if resume else (0, backend.init_state(config, config.seed))
    )

    train_step, eval_step = backend.make_train_step(config), backend.make_eval_step(config)
    tokens_per_step = config.batch_size * model.context_length
    floor = entropy_floor(read_sidecar(val_path))

    def save(step: int) -> None:
        run_facts = {**facts, "tokens_seen": step * tokens_per_step}
        checkpoint.save(
            out / "checkpoints", step, backend.read_weights(state), backend.read_optimizer(state), run_facts
        )

    with _stop_signals() as stop_requested, MetricsLog(out, first_step, config, floor) as log:
        for step in range(first_step, config.steps):
            batch = get_batch(
                tokens, config.seed, step, config.batch_size, model.context_length, config.grad_accumulation
            )
            # One step ahead, so that the first step moves and the last arrives at the minimum.
            lr = cosine_schedule(
                step + 1,
                optimizer.learning_rate,
                optimizer.min_learning_rate,
                optimizer.warmup_steps,
                config.steps,
            )
            state, metrics = train_step(state, batch, lr)
            done = step + 1
            last, stopping = done == config.steps, stop_requested()
            log.step(done, done * tokens_per_step, lr, metrics)
            if last or done % config.eval_interval == 0:
                log.evaluation(evaluate(eval_step, state, val_tokens, config).loss)
            if last or stopping or done % config.save_interval == 0:
                log.flush()
                save(done)
            if stopping:
                return last
    return True


def _resume(out: Path, facts: dict[str, Any], config: TrainConfig, backend: Any) -> tuple[int, Any]:
    """The step and state of the newest checkpoint, which must be of this very run."""
    path = checkpoint.latest(out)
    _, saved = run.load_facts(path)
    for name in ("config", "train_sha256", "val_sha256", "tokenizer_sha256"):
        if saved[name] != facts[name]:
            raise InputError(f"{path}: {name} differs from this command's; give the same, or start a new run")
    return saved["iteration"], run.load_state(path, config, backend, with_optimizer=True)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into an answer to "shall I stop?", so that a step is never left half done."""
    received: list[int] = []
    before = {
        s: signal.signal(s, lambda number, _: received.append(number))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class MetricsLog:
    """metrics.jsonl and the progress bar. A step's metrics are read while the next one runs, not to stall it."""

    def __init__(self, out: Path, first_step: int, config: TrainConfig, floor: float | None) -> None:
        path = out / "metrics.jsonl"
        # What a run did after the checkpoint that it resumes from, it is about to do again.
        kept = [m for m in run.read_metrics(out) if m["step"] <= first_step] if path.exists() else []
        path.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._start = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        self._config = config
        # A bar where somebody watches, a line an evaluation where output goes to a file.
        self._bar = tqdm(
            total=config.steps, initial=first_step, unit="step", dynamic_ncols=True, disable=None
        )
        self._shown: dict[str, str] = {"floor": f"{floor:.3f}"} if floor is not None else {}
        self._pending: tuple[int, int, float, dict[str, Any]] | None = None
        self._first = first_step, time.perf_counter()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._bar.close()

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

    def evaluation(self, loss: float) -> None:
        """Write down a validation loss after the step last noted."""
        assert self._pending is not None
        step, tokens, *_ = self._pending
        self.flush()
        self._shown = {"val": f"{loss:.3f}"} | self._shown | {"val": f"{loss:.3f}"}
        if self._bar.disable:
            print(f"step {step}:", ", ".join(f"{k} {v}" for k, v in self._shown.items()), file=sys.stderr)
        self._write({"step": step, "tokens": tokens, "val_loss": loss})

    def _write(self, record: dict[str, Any]) -> None:
        record["seconds"] = round(time.perf_counter() - self._start, 3)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
