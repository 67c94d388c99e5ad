"""The training runs of experiments. A finished run is used again, and one that stopped is resumed."""

import dataclasses
import math
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm.backend import BackendName, load
from lm.config import TrainConfig
from lm.data.sources import add_token_ids, open_evaluation, open_source, text_facts
from lm.experiment.outcomes import Outcome, best_of
from lm.experiment.stages import make_tokens
from lm.files import file_sha256
from lm.init import parameter_shapes
from lm.run import report
from lm.run.evaluate import entropy_floor
from lm.run.inputs import Inputs, file_tokenizer
from lm.run.metrics import read_metrics
from lm.run.train import NotFiniteError, train
from lm.terminal import show
from tokenizer.errors import InputError

# If no rates are given, a sweep tries these multiples of the config's rate.
_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
VAL_BYTES = 250_000
_TIMED_ROUNDS = 9

Changes = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Settings of experiments. A folder holds the runs of one plan."""

    config: TrainConfig
    """Settings of the baseline."""
    backend: BackendName
    corpus: Path | None = None
    """Text to split and train on; if None, the built-in stories."""
    rates: tuple[float, ...] = ()
    """Learning rates of the sweep, rising."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to compare; if empty, those that `batches.batch_sizes` chooses."""
    seeds: int = 3
    """Number of seeds that the best run of each kind is repeated with."""
    budget: float = 1.0
    """Multiple of the scaling law's compute budgets."""
    train_bytes: int = 10_000_000
    """Size of the built-in stories to train on."""

    def __post_init__(self) -> None:
        rates = self.rates or tuple(float(f"{self.config.optimizer.learning_rate * f:.3g}") for f in _FACTORS)
        object.__setattr__(self, "rates", tuple(sorted(set(rates))))
        object.__setattr__(self, "batch_sizes", tuple(sorted(set(self.batch_sizes))))
        for name, values in (
            ("rates", self.rates),
            ("batch_sizes", self.batch_sizes),
            ("seeds", (self.seeds,)),
            ("budget", (self.budget,)),
        ):
            for value in values:
                if not 0 < value < math.inf:
                    raise InputError(f"{name}: {value} is not a finite number above 0; give one")
        if self.seeds > 1000:
            raise InputError(f"seeds: {self.seeds} runs of each kind are too many; give at most 1000")
        if self.config.model.architecture != "decoder":
            raise InputError(
                f"model.architecture is {self.config.model.architecture}, but experiments train a decoder: give "
                "--model.architecture decoder"
            )

    def facts(self) -> dict[str, Any]:
        """Return what must be equal for a folder to be used again."""
        return {
            "backend": self.backend,
            "corpus_sha256": None if self.corpus is None else file_sha256(self.corpus),
            "rates": self.rates,
            "batch_sizes": self.batch_sizes,
            "seeds": self.seeds,
            "budget": self.budget,
            "config": asdict(self.config),
        }


class Runs:
    """The runs of a plan, in `out/runs/NAME`."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self.out = out

    @cached_property
    def inputs(self) -> Inputs:
        """The token files. The first use makes them, with the texts and the tokenizer beside them."""
        train_tokens, val_tokens = make_tokens(
            self.out,
            self.plan.corpus,
            self.plan.config.model.vocab_size,
            self.plan.train_bytes,
            VAL_BYTES,
        )
        return Inputs((train_tokens,), val_tokens)

    @property
    def floor(self) -> float | None:
        """The entropy floor of the whole validation text, or None if it is not known."""
        data = open_evaluation(self.plan.config, self.inputs.val)
        return entropy_floor(text_facts(self.inputs.val, data, self.plan.config, None))

    def train(self, **changes: Any) -> Outcome:
        """Train the baseline with changes (see `apply_changes`), or resume this run, or read its outcome if it is done.

        Raises:
            KeyboardInterrupt: training was asked to stop, and has saved.
        """
        config = apply_changes(self.plan.config, changes)
        name = _name(changes)
        folder = self.out / "runs" / name
        outcome = _read_outcome(folder, name)
        if outcome is None:
            show(f"\n# {folder}")
            try:
                if not train(config, self.plan.backend, self.inputs, folder, resume=folder.exists()):
                    raise KeyboardInterrupt
            except NotFiniteError as error:
                show(str(error).partition(", and was left out")[0])
            outcome = _read_outcome(folder, name)
            assert outcome is not None
        return outcome

    def sweep(self) -> list[Outcome]:
        """Train the baseline at each of the plan's rates."""
        return [self.train(learning_rate=rate) for rate in self.plan.rates]

    def best_rate(self) -> float:
        """Return the rate at which the baseline's validation loss is the lowest.

        Raises:
            InputError: training diverges at every rate.
        """
        best = best_of(self.sweep())
        if best is None:
            raise InputError(
                f"training diverges at every rate from {self.plan.rates[0]:g} to {self.plan.rates[-1]:g}: give lower "
                "rates with --rates"
            )
        return best.learning_rate

    def repeat(self, **changes: Any) -> list[Outcome]:
        """Train the baseline with changes and with each of the plan's seeds. The first seed is the config's."""
        first = self.plan.config.seed
        seeds = [{} if seed == first else {"seed": seed} for seed in range(first, first + self.plan.seeds)]
        return [self.train(**changes, **seed) for seed in seeds]

    def step_seconds(self, variants: dict[str, Changes]) -> dict[str, list[float]]:
        """Return the seconds of a training step of each variant, for rounds in which the variants take turns.

        What disturbs the machine disturbs all variants of a round, so ratios within a round say more than times.
        """
        base, tokenizer = self.plan.config, file_tokenizer(self.inputs.train[0])
        source = open_source(base, self.inputs.train, ())
        configs = {
            name: add_token_ids(apply_changes(base, changes), tokenizer, source)
            for name, changes in variants.items()
        }
        backend = load(self.plan.backend, base)
        steps = max(1, min(20, base.steps // 10))
        trained = {
            name: (backend.make_train_step(config), backend.init_state(config, config.seed))
            for name, config in configs.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in configs}
        # The first round compiles and allocates, so it is not timed.
        for turn in range(_TIMED_ROUNDS + 1):
            for name in configs if turn % 2 else reversed(configs):
                config = configs[name]
                train_step, state = trained[name]
                batches = [source.batch(config, step) for step in range(steps)]
                start = time.perf_counter()
                for batch in batches:
                    state, metrics = train_step(state, batch, config.optimizer.learning_rate)
                float(metrics["loss"])  # waits until the device has finished
                if turn:
                    seconds[name].append((time.perf_counter() - start) / steps)
                trained[name] = train_step, state
        return seconds


def apply_changes(base: TrainConfig, changes: Changes) -> TrainConfig:
    """Return the baseline with changes: fields of the model, of the optimizer or of TrainConfig, by their names.

    Settings that are not changed follow. The lowest rate of the schedule keeps its ratio to the highest. A run with
    another batch size trains on as many tokens, so its number of steps changes. If the number of steps changes, the
    warm-up and all intervals change with it.
    """
    changes = {**_following(base, changes), **changes}
    # Sizes that follow from others, such as d_ff, follow the new ones.
    open_sizes = dict.fromkeys(base.model.filled_in)
    model, optimizer = (
        {f.name: changes.pop(f.name) for f in dataclasses.fields(part) if f.name in changes}
        for part in (base.model, base.optimizer)
    )
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, **{**open_sizes, **model}),
        optimizer=dataclasses.replace(base.optimizer, **optimizer),
        **changes,
    )


def _following(base: TrainConfig, changes: Changes) -> Changes:
    """Return the settings that follow from changes."""
    optimizer = base.optimizer
    following: Changes = {}
    if "learning_rate" in changes:
        rate = changes["learning_rate"]
        low = rate * (optimizer.min_learning_rate / optimizer.learning_rate)
        following["min_learning_rate"] = min(low, rate)
    ratio = base.batch_size / changes.get("batch_size", base.batch_size)
    ratio = changes["steps"] / base.steps if "steps" in changes else ratio
    if ratio != 1:
        following["warmup_steps"] = round(optimizer.warmup_steps * ratio)
        for name in ("steps", "log_interval", "eval_interval", "save_interval"):
            following[name] = max(1, round(getattr(base, name) * ratio))
    return following


def _name(changes: Changes) -> str:
    """Return the name of a run's folder: its changes, or `baseline` if it has none."""
    words = {"learning_rate": "rate", "batch_size": "batch", "norm_position": "norm"}
    parts = [
        f"{words.get(name, name)}-{value:g}"
        if isinstance(value, float)
        else f"{words.get(name, name)}-{value}"
        for name, value in changes.items()
    ]
    return "_".join(parts) or "baseline"


def _read_outcome(folder: Path, name: str) -> Outcome | None:
    """Return the outcome of a run, or None if the run does not exist or has not ended."""
    if not (folder / "run.json").exists():
        return None
    r, metrics = report.read_run(folder, name), read_metrics(folder)
    not_finite_at = next((m["step"] for m in metrics if m.get("skipped")), None)
    if r.state != "done" and (not_finite_at is None or r.config.skip_nonfinite):
        return None
    evaluations = [m["val_loss"] for m in metrics if "val_loss" in m]
    losses = [m["train_loss"] for m in metrics if isinstance(m.get("train_loss"), float)]
    last = metrics[-1]
    return Outcome(
        name=name,
        learning_rate=r.config.optimizer.learning_rate,
        batch_size=r.config.batch_size,
        seed=r.config.seed,
        parameters=sum(map(math.prod, parameter_shapes(r.config.model).values())),
        steps=last["step"],
        tokens=last["tokens"],
        seconds=last["seconds"],
        uniform_loss=math.log(r.config.model.vocab_size),
        val_loss=evaluations[-1] if evaluations else None,
        highest_loss=max(losses, default=None),
        not_finite_at=not_finite_at,
    )
