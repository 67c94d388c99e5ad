"""`lm experiment`: the course's experiments, from runs that are kept to reports that are computed from them."""

import os
import platform
import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm.accounting.limits import refuse_step
from lm.config import CONFIGS, load_config
from lm.experiment import ablations, pages
from lm.experiment.catalogue import EXPERIMENTS, Facts
from lm.experiment.runs import Plan, Runs
from lm.experiment.stages import claimed
from lm.files import published, read_object, write_json
from lm.machine import processor_name
from lm.run.facts import flat_settings
from lm.terminal import show
from tokenizer.errors import InputError

CONFIG = CONFIGS / "experiment.toml"


def experiment(name: str, plan: Plan, out: Path, docs: Path | None = None) -> None:
    """Make the runs of an experiment, or of all, and report: report.md, curves.png and results.json.

    Of one experiment they are in `out`; of all, in a folder each, and `out` has all reports as one. Runs, tokenizer and
    texts are in `out`. What is there of an earlier call with the same plan is not done again.

    Args:
        docs: Folder whose pages about experiments to write anew, of all of them.

    Raises:
        InputError: `out` holds something else, a page of `docs` is somebody else's, or a setting cannot be used.
        KeyboardInterrupt: it was asked to stop; the same call goes on.
    """
    everything = name == "all"
    if docs and not everything:
        raise InputError("--docs takes the pages of all experiments: lm experiment all --docs ...")
    if docs:
        pages.check_docs(docs)
    names = list(EXPERIMENTS) if everything else [name]
    for one in names:
        if one in ablations.ABLATIONS:
            ablations.check(plan.config.model, one)
    for batch_size in (plan.config.batch_size, *plan.batch_sizes):
        refuse_step(replace(plan.config, batch_size=batch_size), plan.backend)
    with claimed(out / "experiment.json", "an experiment", {"experiment": name, **plan.facts()}):
        _make(name, names, plan, out, docs)


def _make(name: str, names: list[str], plan: Plan, out: Path, docs: Path | None) -> None:
    everything, runs = name == "all", Runs(plan, out)
    results: dict[str, Any] = {
        "command": _command(name, plan, docs),
        "settings": _settings(plan),
        "machine": _machine(plan),
    }
    pictures = {}
    for one in names:
        folder = out / one if everything else out
        folder.mkdir(exist_ok=True)
        results[one] = _facts(one, runs, folder / "results.json")
        pictures[one] = folder / "curves.png"
        EXPERIMENTS[one].plot(results[one], out / "runs", pictures[one])
        report = pages.report(one, {**results, "command": _command(one, plan, None)})
        _write(folder / "report.md", report)
        show(f"\n# {folder}/report.md\n\n" + "\n\n".join(EXPERIMENTS[one].findings(results[one])))
    if everything:
        _write(out / "report.md", pages.overview(results, "{name}/curves.png"))
        show(f"\n{out}/report.md has all of them")
    if docs:
        for page in pages.write_docs(docs, results, pictures):
            show(f"{page} is written")


def _facts(name: str, runs: Runs, path: Path) -> Facts:
    """What came of an experiment, which is run unless that was written down before."""
    if not path.exists():
        write_json(path, EXPERIMENTS[name].run(runs))
    return read_object(path, "delete it, and it is made again from the runs")


def _write(path: Path, text: str) -> None:
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _command(name: str, plan: Plan, docs: Path | None) -> str:
    """The command line of a plan, without the names of folders."""
    default = load_config(CONFIG)
    words = ["lm", "experiment", name]
    if plan.backend != "torch":
        words += ["--backend", plan.backend]
    if plan.corpus:
        words += ["--corpus", plan.corpus.name]
    if plan.rates != Plan(plan.config, plan.backend).rates:
        words += ["--rates", *(f"{rate:g}" for rate in plan.rates)]
    if plan.batch_sizes:
        words += ["--batch-sizes", *map(str, plan.batch_sizes)]
    if plan.seeds != Plan.seeds:
        words += ["--seeds", str(plan.seeds)]
    before = flat_settings(default)
    for setting, value in flat_settings(plan.config).items():
        if value != before[setting]:
            words += [f"--{setting.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--docs", docs.name] if docs else [])])


def _settings(plan: Plan) -> str:
    """The baseline in a sentence or two."""
    config, model, o = plan.config, plan.config.model, plan.config.optimizer
    corpus = "the built-in stories" if plan.corpus is None else plan.corpus.name
    return (
        f"The baseline: num_layers {model.num_layers}, d_model {model.d_model}, num_heads {model.num_heads}, d_ff "
        f"{model.d_ff}, context_length {model.context_length}, vocab_size {model.vocab_size:,}; trained in "
        f"{plan.backend} on {corpus}: {config.steps:,} steps of {config.batch_size} windows, AdamW (beta2 {o.beta2:g}, "
        f"weight decay {o.weight_decay:g}, gradients clipped at {o.max_grad_norm:g}), {o.warmup_steps} steps of "
        f"warm-up, then a {o.schedule} schedule."
    )


def _machine(plan: Plan) -> dict[str, Any]:
    """The hardware and software that times depend on."""
    device = "" if plan.config.device == "cpu" else f", training on {plan.config.device}"
    return {
        "cpu": processor_name() + device,
        "cores": os.cpu_count(),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "jax")},
        },
    }
