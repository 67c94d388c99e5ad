"""The training loop, written once."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm import checkpoint, run
from lm.backend import Backend, BackendName, load
from lm.config import TrainConfig
from lm.data import get_batch, open_tokens, read_sidecar
from lm.evaluate import evaluate
from lm.files import refuse_existing, remove_leftovers
from lm.log import MetricsLog
from lm.schedule import cosine_schedule
from tokenizer.errors import InputError


@dataclass
class Progress:
    """What a run knows of its past beside its weights; part of every checkpoint."""

    val_loss: float | None = None
    """Validation loss at this very step, where it was evaluated."""


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
        InputError: a file cannot be used or written, `out` holds a run (and `resume` is false) or not this one
            (and it is true), or the loss is not finite.
    """
    model, optimizer = config.model, config.optimizer
    with contextlib.ExitStack() as stack:
        stop_requested = stack.enter_context(_stop_signals())
        tokens = open_tokens(train_path, model.vocab_size, model.context_length)
        val_tokens = open_tokens(val_path, model.vocab_size, model.context_length)
        facts = run.describe(config, train_path, val_path)
        if not resume:
            refuse_existing(out)
        backend = load(backend_name, config)
        facts |= {"backend": backend_name, "versions": run.versions(backend)}
        saved = run.resume(out, facts, config, backend) if resume else None
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(run.locked(out))
        remove_leftovers(out)
        remove_leftovers(out / "checkpoints")
        run.write(out, facts, train_path, val_path)
        if saved:
            first_step, state = saved[0]["iteration"], saved[1]
        else:
            first_step, state = 0, backend.init_state(config, config.seed)
        progress = Progress()
        log = stack.enter_context(MetricsLog(out, first_step, config, read_sidecar(val_path)))
        train_step, eval_step = backend.make_train_step(config), backend.make_eval_step(config)
        tokens_per_step = config.batch_size * model.context_length

        saved_step = first_step if saved else None
        for step in range(first_step, config.steps):
            if stop_requested():
                if step != saved_step:
                    _save(out, step, backend, state, facts, progress, log, config)
                return False
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
            last = done == config.steps
            log.step(done, done * tokens_per_step, lr, metrics)
            progress.val_loss, save_best = None, False
            if last or done % config.eval_interval == 0:
                evaluation = evaluate(eval_step, state, val_tokens, config)
                log.evaluation(evaluation)
                progress.val_loss = evaluation.loss
                save_best = checkpoint.is_among_best(out, evaluation.loss, config.keep_best)
            if last or save_best or done % config.save_interval == 0:
                _save(out, done, backend, state, facts, progress, log, config)
                saved_step = done
    return True


def _save(
    out: Path,
    step: int,
    backend: Backend,
    state: Any,
    facts: dict[str, Any],
    progress: Progress,
    log: MetricsLog,
    config: TrainConfig,
) -> None:
    """Save a checkpoint, behind the metrics of its steps, and delete those that need not be kept."""
    try:
        log.sync()
        tokens_seen = step * config.batch_size * config.model.context_length
        checkpoint.save(
            out / "checkpoints",
            step,
            backend.read_weights(state),
            backend.read_optimizer(state),
            {**facts, "tokens_seen": tokens_seen, **asdict(progress)},
        )
        checkpoint.prune(out, config.keep_last, config.keep_best)
    except OSError as error:
        raise InputError(
            f"{error.filename}: step {step} cannot be saved ({error.strerror}); earlier checkpoints are intact: "
            "mend that, and go on with --resume"
        ) from None


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
