"""The training loop, written once."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lm.backend import BackendName
from lm.config import TrackerName, TrainConfig
from lm.data.batch import Batch
from lm.mesh import Mesh
from lm.run import checkpoint
from lm.run.evaluate import evaluate
from lm.run.inputs import Inputs
from lm.run.opening import Run, opened_run
from lm.schedule import learning_rate
from tokenizer.errors import InputError
from tokenizer.machine import peak_memory

_PROFILED = range(2, 5)
"""Steps to profile, counted from the first step of this process. The steps before compile and allocate."""


class NotFiniteError(InputError):
    """A step's loss or gradient norm was not finite, and ended the run."""


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
    """Train a model into the run folder `out`. The last step is evaluated and saved.

    Args:
        resume: Resume the run in `out` from its newest intact checkpoint.
        profile: Trace a few steps with the framework's profiler.
        track: Trackers to copy the metrics to.
        mesh: Devices to train on, of this process and of other processes that run the same command. All processes take
            the same steps. Only the first process reports.

    Returns:
        True if the run is finished. False if SIGINT, SIGTERM or SIGHUP ended it before its last step, with a checkpoint
        to resume from. None in all processes except the first.

    Raises:
        InputError: a file cannot be read or written, the mesh does not fit, another process of the run has ended, or
            `out` does not fit `resume`: a new run needs a new folder, and a resumed run its own.
        NotFiniteError: a loss or gradient norm is not finite, and `skip_nonfinite` is false.
    """
    with opened_run(config, backend_name, inputs, out, resume, profile, track, mesh) as run:
        for step in range(run.first_step, config.steps):
            if _has_lost_patience(run):
                _save(run, step)
                run.log.tell(
                    f"stopped early: the lowest validation loss was {run.progress.best_val_loss:.4f}"
                )
                break
            if _must_stop(run):
                _save(run, step)
                return run.outcome(finished=False)
            _start_profile(run, step)
            batch = _next_batch(run, step)
            lr = learning_rate(step, config.steps, config.optimizer)
            run.state, metrics = run.train_step(run.state, batch, lr)
            run.progress.val_loss = None  # the new weights have not been evaluated
            done = step + 1
            run.log.step(done, done * run.tokens_per_step, lr, metrics)
            _end_profile(run, done)
            is_best = _is_due(done, config.eval_interval, config.steps) and _evaluate(run)
            if config.sample_every is not None and done % config.sample_every == 0:
                _sample(run, done)
            if is_best or _is_due(done, config.save_interval, config.steps):
                _save(run, done)
            if run.log.not_finite and not config.skip_nonfinite:
                _save(run, done)
                raise _not_finite(run, *run.log.not_finite)
        return run.outcome(finished=True)


def _is_due(done: int, interval: int, last: int) -> bool:
    """Return whether something is due after this step: at every interval and at the end."""
    return done == last or done % interval == 0


def _has_lost_patience(run: Run) -> bool:
    """Return whether too many evaluations have passed since the lowest validation loss."""
    patience = run.config.patience
    return patience is not None and run.progress.evaluations_since_best >= patience


def _must_stop(run: Run) -> bool:
    """Return whether any process was asked to stop or can no longer write its log."""
    return run.processes.any(run.stop_requested() or run.log.unwritten is not None)


def _next_batch(run: Run, step: int) -> Batch:
    """Return the batch of a step. If a token file has changed, save before the error.

    Raises:
        InputError: a token file has changed.
    """
    try:
        return next(run.batches)
    except InputError:
        # The other processes are already in this step, so a mesh cannot save together.
        if run.processes.count == 1:
            _save(run, step)
        raise


def _start_profile(run: Run, step: int) -> None:
    if run.profiler and run.processes.is_first and step == run.first_step + _PROFILED.start:
        folder = run.out / "profile"
        folder.mkdir(exist_ok=True)
        run.profiler.enter_context(run.backend.trace(folder))


def _end_profile(run: Run, done: int) -> None:
    if run.profiler and done in (run.config.steps, run.first_step + _PROFILED.stop):
        run.log.flush()
        run.profiler.close()


def _evaluate(run: Run) -> bool:
    """Evaluate, and return whether this step's checkpoint is among the best to keep."""
    with run.backend.averaged(run.state) as state:
        evaluation = evaluate(run.eval_step, state, run.val_data, run.config, mesh=run.mesh)
    run.log.evaluation(evaluation)
    run.progress.evaluated(evaluation.loss)
    # Only the first process reads the checkpoints, because it alone deletes them.
    return run.processes.any(
        run.processes.is_first and checkpoint.is_among_best(run.out, evaluation.loss, run.keep_best)
    )


def _sample(run: Run, done: int) -> None:
    """Log a sample of the model's text. A sample is only shown, so its errors do not stop training."""
    try:
        with run.backend.averaged(run.state) as state:
            text = run.sample(state)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        run.log.tell(f"lm: warning: no sample after step {done}: {reason}")
    else:
        run.log.sample(text)


def _save(run: Run, step: int) -> None:
    """Save a checkpoint unless this step is saved already.

    Raises:
        InputError: the checkpoint, or a line of metrics.jsonl before it, cannot be written.
    """
    if step != run.saved_step:
        run.log.sync()
        run.progress.skipped = run.log.skipped
        _write_checkpoint(run, step)
        run.saved_step = step
    if run.log.unwritten:
        raise InputError(
            f"{run.log.unwritten}, so its last lines are missing; step {step} is saved: free some space or mount it "
            "writable, and resume with --resume"
        )


def _write_checkpoint(run: Run, step: int) -> None:
    """Write a checkpoint and delete those that need not be kept."""
    facts = {
        **run.facts,
        **asdict(run.progress),
        "choices": run.backend.choices(),
        "tokens_seen": step * run.tokens_per_step,
        "peak_memory_bytes": peak_memory(),
    }
    try:
        weights, optimizer = run.backend.read_shares(run.state)
        checkpoint.save(run.out / "checkpoints", step, weights, optimizer, facts, run.processes)
        with run.processes.together():
            if run.processes.is_first:
                checkpoint.prune(run.out, run.config.keep_last, run.keep_best)
    except OSError as error:
        raise InputError(
            f"{error.filename}: step {step} cannot be saved ({error.strerror}); earlier checkpoints are intact: "
            "free some space or mount it writable, and resume with --resume"
        ) from None


def _not_finite(run: Run, step: int, what: str) -> NotFiniteError:
    starts = run.source.places(run.config, step - 1)
    places = ", ".join(f"{run.source.paths[i].name}[{start}]" for i, start in starts[:4])
    return NotFiniteError(
        f"step {step}: {what}, so the step was left out; it is saved. Look at its batch of {run.config.batch_size} "
        f"windows, which start at {places}{', ...' if len(starts) > 4 else ''}; or lower "
        "optimizer.learning-rate in a new run; or resume without the step: --resume --skip-nonfinite"
    )
