"""Every experiment: what it compares, and the functions that run, tell and draw it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lm.experiment import ablations, batches, compression, rates, samples, toy
from lm.experiment.runs import Runs

Facts = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """An experiment; its facts are JSON, and all that is told of it follows from them."""

    title: str
    about: str
    """What is compared."""
    run: Callable[[Runs], Facts]
    findings: Callable[[Facts], list[str]]
    """Paragraphs."""
    tables: Callable[[Facts], list[str]]
    plot: Callable[[Facts, Path, Path], None]
    """Given the facts, the folder of the runs, and the PNG file to write."""


def _ablation(name: str, title: str, about: str) -> Experiment:
    ablation = ablations.ABLATIONS[name]
    return Experiment(
        title,
        about,
        partial(ablations.run, ablation=ablation),
        partial(ablations.findings, ablation=ablation),
        partial(ablations.tables, ablation=ablation),
        lambda facts, runs, path: ablations.plot(facts, ablation, runs, path),
    )


EXPERIMENTS = {
    "learning-rate": Experiment(
        "The learning rate",
        "The same model at rates that rise about threefold, up to one that diverges.",
        rates.run,
        rates.findings,
        rates.tables,
        rates.plot,
    ),
    "batch-size": Experiment(
        "The batch size",
        "From one window a step up to so many that few steps remain.",
        batches.run,
        batches.findings,
        batches.tables,
        batches.plot,
    ),
    "no-norm": _ablation(
        "no-norm", "Without norms", "All RMSNorms removed, at the baseline's best rate and at lower ones."
    ),
    "post-norm": _ablation(
        "post-norm", "Post-norm", "The norm after each branch's sum, in place of before the branch."
    ),
    "no-position": _ablation(
        "no-position", "Without positions", "RoPE removed; only the causal mask tells tokens their order."
    ),
    "silu": _ablation(
        "silu",
        "SiLU in place of SwiGLU",
        "A feed-forward layer of two matrices without a gate, 1.5 times as wide: with d_ff at 8/3 d_model that is "
        "4 d_model, and as many parameters.",
    ),
    "parallel": _ablation(
        "parallel",
        "Parallel blocks",
        "x + attention(norm(x)) + ffn(norm(x)), as in GPT-J and PaLM, in place of one after the other.",
    ),
    "generate": Experiment(
        "Text from the model",
        "Samples of the baseline at its best rate, by temperature, from the start of a text.",
        samples.run,
        samples.findings,
        samples.tables,
        lambda facts, runs, path: samples.plot(facts, path),
    ),
    "tokenizer": Experiment(
        "The tokenizer",
        "Each tokenizer on text that was held out of each corpus; in the picture, tokenizers that stop at a smaller "
        "vocabulary.",
        compression.run,
        lambda facts: list(compression.findings(facts).values()),
        compression.tables,
        lambda facts, runs, path: compression.plot(facts, path),
    ),
    # Last, since it loads both frameworks, which contend for threads.
    "sgd": Experiment(
        "SGD on a toy",
        "Ten steps on the mean square of 100 numbers, with the step size lr / sqrt(t + 1), in both backends.",
        lambda runs: toy.run(),
        toy.findings,
        toy.tables,
        lambda facts, runs, path: toy.plot(facts, path),
    ),
}
