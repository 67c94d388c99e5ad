"""`lm experiment`: the course's experiments, and more.

The folder keeps all runs. Tables and plots are computed from them.
"""

import operator
import os
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm.accounting.limits import refuse_step
from lm.config import CONFIGS, TrainConfig
from lm.experiment.catalogue import COURSE, EXPERIMENTS
from lm.experiment.report import report
from lm.experiment.runs import Plan, Runs
from lm.experiment.stages import claim
from lm.files import published, read_object, write_json
from lm.machine import processor_name
from lm.terminal import show
from tokenizer.errors import InputError

CONFIG = CONFIGS / "experiment.toml"
SCALING_CONFIG = CONFIGS / "scaling.toml"


def experiment(name: str, plan: Plan, out: Path) -> None:
    """Make the runs of an experiment, or of all of the course's, and write results.json, report.md and the plots.

    `out` also holds the runs, the tokenizer and the texts. A later call with an equal plan reuses all of them, for this
    experiment or another.

    Raises:
        InputError: `out` holds something else, or a setting is wrong.
        KeyboardInterrupt: the process was asked to stop. The same call continues.
    """
    names = list(COURSE) if name == "all" else [name]
    for one in names:
        _check(one, plan.config)
    for batch_size in (plan.config.batch_size, *plan.batch_sizes):
        refuse_step(replace(plan.config, batch_size=batch_size), plan.backend)
    with claim(out / "experiment.json", "experiments", plan.facts()):
        _make(names, plan, out)


def _check(name: str, config: TrainConfig) -> None:
    """Refuse a baseline that lacks what an experiment changes."""
    for setting, values in EXPERIMENTS[name].needs.items():
        value = operator.attrgetter(setting)(config)
        if value not in values:
            raise InputError(f"{name}: {setting} is {value}; the baseline needs {' or '.join(values)}")


def _make(names: list[str], plan: Plan, out: Path) -> None:
    runs, file = Runs(plan, out), out / "results.json"
    results = {"machine": _machine(plan)}
    if file.exists():
        results = read_object(file, "delete it, and the same command makes it again from the runs")
    for name in names:
        if name not in results:
            results[name] = EXPERIMENTS[name].run(runs)
            write_json(file, results)
        EXPERIMENTS[name].plot(results[name], out / "runs", out / f"{name}.png")
    with published(out / "report.md") as temporary:
        temporary.write_text(report(results), encoding="utf-8", newline="")
    show(f"\n{out}/report.md has the tables and plots")


def _machine(plan: Plan) -> dict[str, Any]:
    """Return the hardware and the software that the times depend on."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "device": plan.config.device,
        "backend": plan.backend,
        "Python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "jax")},
    }
