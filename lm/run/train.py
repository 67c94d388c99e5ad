"""The training loop, written once."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lm.backend import Backend, BackendName, load
from lm.config import TrackerName, TrainConfig
from lm.data.batch import Batch, prefetch
from lm.data.sources import open_source, open_validation, text_facts, with_mask_token
from lm.files import alone_in, refuse_existing, remove_leftovers
from lm.limits import explain_step, explained, refuse_step
from lm.mesh import Mesh, Processes
from lm.run import checkpoint
from lm.run.evaluate import entropy_floor, evaluate
from lm.run.facts import describe_run, versions, write_run
from lm.run.inputs import Inputs, run_tokenizer
from lm.run.loading import ends_to_keep, initial_state, newest_state
from lm.run.log import MetricsLog
from lm.run.track import refuse_missing
from lm.schedule import learning_rate
from lm.text.generate import sampler
from tokenizer.errors import InputError
from tokenizer.machine import peak_memory

# The first steps compile and allocate.
_PROFILED = range(2, 5)


class NotFiniteError(InputError):
    """A step's loss or gradient norm was not finite, and ended the run."""


@dataclass
class Progress:
    """What a run knows of its past beside its weights; part of every checkpoint."""

    val_loss: float | None = None
    """Validation loss at this very step, where it was evaluated."""
    best_val_loss: float | None = None
    """The lowest so far."""
    evaluations_since_best: int = 0
    """How many came after it."""
    skipped: int = 0
    """Steps left out because their loss or gradient norm was not finite."""

    def evaluated(self, loss: float) -> None:
        """Take note of a validation loss; one that is not finite is the worst."""
        self.val_loss = loss if math.isfinite(loss) else None
        if self.val_loss is not None and (self.best_val_loss is None or loss < self.best_val_loss):
            self.best_val_loss, self.evaluations_since_best = loss, 0
        else:
            self.evaluations_since_best += 1


def train(
    config: TrainConfig,
    backend_name: BackendName,
    inputs: Inputs,
    out: Path,
    resume: bool = False,
    profile: bool = False,
    track: Sequence[TrackerName] = (),
    mesh: Mesh | None = None,
) -> bool | None:
    """Train a model into the run folder `out`, with a checkpoint at the end.

    Args:
        mesh: Devices to train on, of this process and of others that run the same command: all take the same steps,
            and the first alone tells of them.

    Returns:
        False where SIGINT, SIGTERM or SIGHUP ended it before its last step, with a checkpoint to resume from. None in
        all processes but the first.

    Raises:
        InputError: a file cannot be used or written, `out` holds a run (and `resume` is false) or not this one
            (and it is true), the mesh does not fit, or another process has gone.
        NotFiniteError: a loss or gradient norm is not finite, and `skip_nonfinite` is false.
    """
    model = config.model
    refuse_missing(track)
    if mesh:
        mesh.check(config)
        mesh = mesh if mesh.size > 1 else None
    refuse_step(config, backend_name, mesh)
    processes = Processes()
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained(lambda: explain_step(config, backend_name)))
        stop_requested = stack.enter_context(_stop_signals(lambda: processes.is_first))
        source = open_source(config, inputs.train, inputs.weights)
        inputs = replace(inputs, train=source.paths)
        val_data, tokenizer = open_validation(config, inputs.val), run_tokenizer(inputs)
        val_facts = text_facts(inputs.val, val_data, config, tokenizer)
        config = with_mask_token(config, tokenizer, inputs.train[0])
        if config.sample_every is not None and tokenizer is None:
            raise InputError(
                f"{inputs.train[0]}: sample_every needs a tokenizer, and the token file names none; give --tokenizer, "
                "or encode the text with lm tokenizer encode"
            )
        facts = describe_run(config, inputs)
        _look_at(out, resume)
        backend = load(backend_name, config, mesh)
        processes = backend.processes()
        stack.enter_context(processes.watched())
        if processes.count > 1 and config.sample_every is not None:
            raise InputError(
                f"sample_every is {config.sample_every}, but several processes write no samples: leave it out"
            )
        facts |= {"backend": backend_name, "versions": versions(backend)}
        facts |= {"mesh": str(mesh)} if mesh else {}
        with processes.together():
            if processes.is_first:
                stack.enter_context(alone_in(out))
                _look_at(out, resume)
        resumed = newest_state(out, facts, config, backend, mesh, processes) if resume else None
        if resumed:
            saved, state = resumed
            backend.repeat(saved.get("choices", {}))
            first_step = saved_step = saved["iteration"]
            progress = _read_progress(saved)
        else:
            first_step, saved_step, progress = 0, -1, Progress()
            saved, state = None, initial_state(config, backend, inputs, facts, mesh)
        ends = ends_to_keep(config, inputs, tokenizer, saved)
        facts |= asdict(ends)
        sample = sampler(backend, config, None if config.sample_every is None else tokenizer, ends)
        with processes.together():
            if processes.is_first:
                remove_leftovers(out)
                remove_leftovers(out / "checkpoints")
                write_run(out, facts, inputs, entropy_floor(val_facts))

        silent, devices = not processes.is_first, mesh.size if mesh else 1
        log = stack.enter_context(MetricsLog(out, first_step, config, val_facts, track, silent, devices))
        train_step, eval_step = backend.make_train_step(config, mesh), backend.make_eval_step(config, mesh)
        tracing = stack.enter_context(contextlib.ExitStack())
        tokens_per_step = config.batch_size * model.context_length

        def make_batch(step: int) -> Batch:
            return source.batch(config, step)

        def save(step: int) -> None:
            nonlocal saved_step
            if step != saved_step:
                log.sync()
                progress.skipped = skipped_before + log.skipped
                _save(out, step, backend, state, {**facts, **asdict(progress)}, config, processes)
                saved_step = step
            if log.unwritten:
                raise InputError(
                    f"{log.unwritten}, and lacks its last lines; step {step} is saved: mend that, and resume"
                )

        skipped_before = progress.skipped
        batches = prefetch(make_batch, first_step, config.steps)
        stack.callback(batches.close)
        for step in range(first_step, config.steps):
            if config.patience is not None and progress.evaluations_since_best >= config.patience:
                save(step)
                log.tell(f"stopped early: the validation loss was {progress.best_val_loss:.4f} at its lowest")
                break
            if processes.any(stop_requested() or log.unwritten is not None):
                save(step)
                return False if processes.is_first else None
            if profile and processes.is_first and step == first_step + _PROFILED.start:
                folder = out / "profile"
                folder.mkdir(exist_ok=True)
                tracing.enter_context(backend.trace(folder))
            try:
                batch = next(batches)
            except InputError:  # a token file has changed
                if processes.count == 1:  # the others take this step, and find that this process has gone
                    save(step)
                raise
            lr = learning_rate(step, config.steps, config.optimizer)
            state, metrics = train_step(state, batch, lr)
            done = step + 1
            last, keep = done == config.steps, False
            progress.val_loss = None
            log.step(done, done * tokens_per_step, lr, metrics)
            if profile and (last or done == first_step + _PROFILED.stop):
                log.flush()
                tracing.close()
            if last or done % config.eval_interval == 0:
                evaluation = evaluate(eval_step, state, val_data, config, mesh=mesh)
                log.evaluation(evaluation)
                progress.evaluated(evaluation.loss)
                keep_best = max(config.keep_best, config.patience is not None)
                # The first process alone, which may be deleting some.
                keep = processes.any(
                    processes.is_first and checkpoint.is_among_best(out, evaluation.loss, keep_best)
                )
            if config.sample_every is not None and done % config.sample_every == 0:
                try:
                    text = sample(state)
                except Exception as error:  # a sample is only shown: whatever it meets, training continues
                    reason = " ".join(str(error).split()) or type(error).__name__
                    log.tell(f"lm: warning: no sample after step {done}: {reason}")
                else:
                    log.sample(text)
            if last or keep or done % config.save_interval == 0:
                save(done)
            if log.not_finite and not config.skip_nonfinite:
                save(done)
                bad_step, what = log.not_finite
                starts = source.chosen(config, bad_step - 1)
                where = ", ".join(f"{source.paths[i].name}[{start}]" for i, start in starts[:4])
                raise NotFiniteError(
                    f"step {bad_step}: {what}, and was left out; saved. Look at its batch, {config.batch_size} "
                    f"windows that start at {where}{', ...' if len(starts) > 4 else ''}, or lower "
                    "optimizer.learning-rate in a new run, or go on without the step: --resume --skip-nonfinite"
                )
    return True if processes.is_first else None


def _look_at(out: Path, resume: bool) -> None:
    """Refuse a folder that holds something, or to resume where there is no folder.

    Raises:
        InputError: says which.
    """
    if not resume:
        refuse_existing(out)
    elif not out.is_dir():
        checkpoint.latest(out)  # says that there is none


def _save(
    out: Path,
    step: int,
    backend: Backend,
    state: Any,
    facts: dict[str, Any],
    config: TrainConfig,
    processes: Processes,
) -> None:
    """Save a checkpoint, and delete those that need not be kept."""
    tokens_seen = step * config.batch_size * config.model.context_length
    try:
        checkpoint.save(
            out / "checkpoints",
            step,
            *backend.read_shares(state),
            {
                **facts,
                "choices": backend.choices(),
                "tokens_seen": tokens_seen,
                "peak_memory_bytes": peak_memory(),
            },
            processes,
        )
        with processes.together():
            if processes.is_first:
                checkpoint.prune(out, config.keep_last, max(config.keep_best, config.patience is not None))
    except OSError as error:
        raise InputError(
            f"{error.filename}: step {step} cannot be saved ({error.strerror}); earlier checkpoints are intact: "
            "mend that, and go on with --resume"
        ) from None


def _read_progress(saved: dict[str, Any]) -> Progress:
    """The progress in a checkpoint's state.json; what is missing or strange is as at the start."""
    known: dict[str, Any] = {}
    for field in fields(Progress):
        value = saved.get(field.name)
        if isinstance(value, int if field.type is int else float):
            known[field.name] = value
    return Progress(**known)


@contextlib.contextmanager
def _stop_signals(speaks: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Turn SIGINT, SIGTERM and SIGHUP into an answer to "shall I stop?", so that a step is never left half done.

    SIGHUP says that the terminal has gone. Who started the command with nohup wants it to train on.

    Args:
        speaks: Whether this process is one to say so.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if not received and speaks():
            # Not by print, which may be at work just now.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: ends, and saves, after this step\n".encode())
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {s: signal.signal(s, note) for s in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
