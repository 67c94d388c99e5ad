"""Open a run: everything between the command and its first step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lm.accounting.limits import explain_step, explained, refuse_step
from lm.backend import Backend, BackendName, EvalStep, TrainStep, load
from lm.config import TrackerName, TrainConfig
from lm.data.batch import Batch, prefetch
from lm.data.pairs import PairFile
from lm.data.sources import Source, add_token_ids, open_source, open_validation, text_facts
from lm.data.token_files import Tokens
from lm.files import alone_in, refuse_existing, remove_leftovers
from lm.mesh import Mesh, Processes
from lm.run import checkpoint
from lm.run.evaluate import entropy_floor
from lm.run.facts import describe_run, versions, write_run
from lm.run.inputs import Inputs, run_tokenizer
from lm.run.loading import ends_to_keep, initial_state, newest_state, origin_to_keep
from lm.run.log import MetricsLog
from lm.run.progress import Progress, read_progress
from lm.run.signals import stop_signals
from lm.run.track import refuse_missing
from lm.text.complete import make_sampler
from tokenizer import Tokenizer
from tokenizer.errors import InputError


@dataclass
class Run:
    """An open run: what the training loop needs."""

    config: TrainConfig
    out: Path
    """The run's folder."""
    facts: dict[str, Any]
    """What run.json and every checkpoint say about the run."""
    backend: Backend
    mesh: Mesh | None
    processes: Processes
    source: Source
    val_data: Tokens | PairFile
    batches: Iterator[Batch]
    """The batches from `first_step` on, prepared ahead of time."""
    train_step: TrainStep
    eval_step: EvalStep
    sample: Callable[[Any], str]
    log: MetricsLog
    stop_requested: Callable[[], bool]
    """Whether a signal has asked this process to stop."""
    profiler: ExitStack | None
    """Holds the framework's profiler while it traces; None if the run is not profiled."""
    first_step: int
    saved_step: int
    """Step of the newest checkpoint, -1 if there is none."""
    progress: Progress
    state: Any
    """The backend's state: weights, moments and step count."""

    def outcome(self, finished: bool) -> bool | None:
        """Return whether the run is finished, or None in all processes except the first."""
        return finished if self.processes.is_first else None

    @property
    def tokens_per_step(self) -> int:
        return self.config.batch_size * self.config.model.context_length

    @property
    def keep_best(self) -> int:
        """How many checkpoints of lowest validation loss to keep; early stopping needs one."""
        return max(self.config.keep_best, self.config.patience is not None)


@contextlib.contextmanager
def opened_run(
    config: TrainConfig,
    backend_name: BackendName,
    inputs: Inputs,
    out: Path,
    resume: bool,
    profile: bool,
    track: Sequence[TrackerName],
    mesh: Mesh | None,
) -> Iterator[Run]:
    """Check a run, lock its folder, and load or make its state; the arguments are those of `lm.run.train.train`."""
    refuse_missing(track)
    if mesh:
        mesh.check(config)
        mesh = mesh if mesh.size > 1 else None
    refuse_step(config, backend_name, mesh)
    processes = Processes()
    with ExitStack() as stack:
        stack.enter_context(explained(lambda: explain_step(config, backend_name)))
        stop_requested = stack.enter_context(stop_signals(lambda: processes.is_first))
        source = open_source(config, inputs.train, inputs.weights)
        inputs = replace(inputs, train=source.paths)
        tokenizer = run_tokenizer(inputs)
        config = add_token_ids(config, tokenizer, source)
        val_data = open_validation(config, inputs.val)
        val_facts = text_facts(inputs.val, val_data, config, tokenizer)
        _refuse_samples_without_tokenizer(config, tokenizer, inputs)
        facts = describe_run(config, inputs, tokenizer)
        _check_folder(out, resume)
        backend = load(backend_name, config, mesh)
        processes = backend.processes()
        stack.enter_context(processes.watched())
        _refuse_samples_of_many(config, processes)
        facts |= {"backend": backend_name, "versions": versions(backend)}
        facts |= {"mesh": str(mesh)} if mesh else {}
        with processes.together():
            if processes.is_first:
                stack.enter_context(alone_in(out))
                _check_folder(out, resume)
        resumed = newest_state(out, facts, config, backend, mesh, processes) if resume else None
        saved, state = resumed or (None, initial_state(config, backend, inputs, facts, mesh))
        if saved is not None:
            backend.repeat(saved.get("choices", {}))
        ends = ends_to_keep(config, inputs, tokenizer, saved)
        facts |= asdict(ends) | origin_to_keep(inputs, saved)
        sample = make_sampler(backend, config, None if config.sample_every is None else tokenizer, ends)
        with processes.together():
            if processes.is_first:
                remove_leftovers(out)
                remove_leftovers(out / "checkpoints")
                write_run(out, facts, inputs, tokenizer, entropy_floor(val_facts))
        first_step = saved["iteration"] if saved else 0
        progress = read_progress(saved) if saved else Progress()
        silent, devices = not processes.is_first, mesh.size if mesh else 1
        log = stack.enter_context(MetricsLog(out, first_step, config, val_facts, track, silent, devices))
        log.skipped = progress.skipped
        profiler = stack.enter_context(ExitStack()) if profile else None
        batches = prefetch(lambda step: source.batch(config, step), first_step, config.steps)
        stack.callback(batches.close)
        run = Run(
            config=config,
            out=out,
            facts=facts,
            backend=backend,
            mesh=mesh,
            processes=processes,
            source=source,
            val_data=val_data,
            batches=batches,
            train_step=backend.make_train_step(config, mesh),
            eval_step=backend.make_eval_step(config, mesh),
            sample=sample,
            log=log,
            stop_requested=stop_requested,
            profiler=profiler,
            first_step=first_step,
            saved_step=first_step if saved else -1,
            progress=progress,
            state=state,
        )
        del state, resumed  # the first step consumes the state, so nothing else may hold it
        yield run


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse a new run in a folder that exists, and to resume in a folder that does not.

    Raises:
        InputError: says which.
    """
    if not resume:
        refuse_existing(out)
    elif not out.is_dir():
        checkpoint.latest(out)  # raises: there is no checkpoint


def _refuse_samples_without_tokenizer(
    config: TrainConfig, tokenizer: Tokenizer | None, inputs: Inputs
) -> None:
    if config.sample_every is not None and tokenizer is None:
        raise InputError(
            f"{inputs.train[0]}: sample_every needs a tokenizer, and the token file names none; give --tokenizer, "
            "or encode the text with lm tokenizer encode"
        )


def _refuse_samples_of_many(config: TrainConfig, processes: Processes) -> None:
    if processes.count > 1 and config.sample_every is not None:
        raise InputError(
            f"sample_every is {config.sample_every}, but several processes write no samples: leave it out"
        )
