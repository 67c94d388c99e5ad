"""The experiments: what each compares, and the functions that run it and show its results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lm.experiment import ablations, batches, compression, optimizer, rates, recipes, samples, toy
from lm.experiment.runs import Runs
from lm.experiment.scaling import run as scaling

Facts = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """An experiment. Its facts are JSON; its tables and its plot are functions of them."""

    title: str
    caption: str
    run: Callable[[Runs], Facts]
    tables: Callable[[Facts], list[str]]
    """Return blocks of Markdown."""
    plot: Callable[[Facts, Path, Path], None]
    """Draw, given the facts, the folder of the runs, and the PNG file to write."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values that the baseline's settings must have, by their dotted names."""


def _ablation(name: str, title: str, caption: str) -> Experiment:
    ablation = ablations.ABLATIONS[name]
    return Experiment(
        title,
        caption,
        partial(ablations.run, ablation=ablation),
        partial(ablations.tables, ablation=ablation),
        lambda facts, runs, path: ablations.plot(facts, ablation, runs, path),
        ablation.needs,
    )


COURSE = {
    "learning-rate": Experiment(
        "The learning rate",
        "One model at rates that rise about threefold, up to a rate that diverges.",
        rates.run,
        rates.tables,
        rates.plot,
    ),
    "batch-size": Experiment(
        "The batch size",
        "From one window a step up to batches that leave few steps, at an equal number of tokens.",
        batches.run,
        batches.tables,
        batches.plot,
    ),
    "no-norm": _ablation(
        "no-norm", "Without norms", "All RMSNorms removed, at the baseline's best rate and at lower rates."
    ),
    "post-norm": _ablation(
        "post-norm", "Post-norm", "The norm after the sum of each branch, not before the branch."
    ),
    "no-position": _ablation(
        "no-position", "Without positions", "RoPE removed. Only the causal mask tells the tokens their order."
    ),
    "silu": _ablation(
        "silu",
        "SiLU in place of SwiGLU",
        "Two matrices without a gate, 1.5 times as wide: 4 d_model if d_ff is 8/3 d_model, with as many parameters.",
    ),
    "parallel": _ablation(
        "parallel",
        "Parallel blocks",
        "x + attention(norm(x)) + ffn(norm(x)), as in GPT-J and PaLM, in place of one after the other.",
    ),
    "documents": _ablation(
        "documents",
        "Packed documents",
        "Attention ends at the borders of documents, and positions start at 0 in each.",
    ),
    "generate": Experiment(
        "Text from the model",
        "Samples of the baseline at its best rate, from the start of a text.",
        samples.run,
        samples.tables,
        lambda facts, runs, path: samples.plot(facts, path),
    ),
    "tokenizer": Experiment(
        "The tokenizer",
        "Tokenizers of two corpora on held-out text of both. The plot stops each tokenizer at smaller vocabularies.",
        compression.run,
        compression.tables,
        lambda facts, runs, path: compression.plot(facts, path),
    ),
    # Last, because it loads both frameworks, which then contend for threads.
    "sgd": Experiment(
        "SGD on a toy",
        "Ten steps on the mean square of 100 numbers, with the step size lr / sqrt(t + 1).",
        lambda runs: toy.run(),
        toy.tables,
        lambda facts, runs, path: toy.plot(facts, path),
    ),
}
"""The course's experiments, which `lm experiment all` runs."""

EXPERIMENTS = {
    **COURSE,
    "recipes": Experiment(
        "Recipes",
        "Options of the model, the optimizer and the loss, each trained for as long as the baseline.",
        recipes.run,
        recipes.tables,
        lambda facts, runs, path: recipes.plot(facts, path),
        recipes.NEEDS,
    ),
    "optimizer": Experiment(
        "AdamW and Muon",
        "Both optimizers at their best rates, in runs of four lengths, each with its full schedule.",
        optimizer.run,
        optimizer.tables,
        lambda facts, runs, path: optimizer.plot(facts, path),
        optimizer.NEEDS,
    ),
    "scaling": Experiment(
        "A scaling law whose end is known",
        "Sizes at equal compute, fits with E free and with E given, and the best model at four times the largest "
        "budget.",
        scaling.run,
        scaling.tables,
        lambda facts, runs, path: scaling.plot(facts, path),
    ),
}
"""All experiments."""
