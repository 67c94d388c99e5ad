"""Text from the best model, at several temperatures."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from lm.backend import load
from lm.experiment.runs import Runs
from lm.files import published
from lm.run.checkpoint import latest
from lm.run.facts import load_facts
from lm.run.loading import load_state
from lm.tables import markdown_table
from lm.text.complete import Completion, complete
from lm.text.sampling import SamplingConfig
from tokenizer import Tokenizer

TEMPERATURES = (0.3, 0.6, 0.8, 1.0, 1.3)
_SAMPLES, _TOKENS = 3, 128
_SHOWN = (0.6, 1.3)


def run(runs: Runs) -> dict[str, Any]:
    """Let the baseline at its best rate write, and count which of its words the training text has."""
    outcome = runs.train(learning_rate=runs.best_rate())
    path = latest(runs.out / "runs" / outcome.name)
    config, _ = load_facts(path)
    backend = load(runs.plan.backend, config)
    state = load_state(path, config, backend, with_optimizer=False)
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    tokenizer = Tokenizer.load(runs.out / "tokenizer")
    known = set(_words((runs.out / "train.txt").read_bytes().decode()))
    by_temperature = []
    for temperature in TEMPERATURES:
        completions = [Completion("", tokenizer) for _ in range(_SAMPLES)]
        sampling = SamplingConfig(_TOKENS, temperature, samples=_SAMPLES)
        for _ in complete(steps, state, config, tokenizer, completions, sampling):
            pass
        texts = [completion.text for completion in completions]
        words = [word for text in texts for word in _words(text)]
        by_temperature.append(
            {
                "temperature": temperature,
                "words": len(words),
                "known": sum(word in known for word in words) / max(1, len(words)),
                "distinct": len(set(words)) / max(1, len(words)),
                "text": texts[0],
            }
        )
    return {
        "by_temperature": by_temperature,
        "val_loss": outcome.val_loss,
        "floor": runs.floor,
        "tokens": outcome.tokens,
        "parameters": outcome.parameters,
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def findings(facts: dict[str, Any]) -> list[str]:
    """How temperature trades words that exist for words that differ, in sentences, and two samples."""
    points = facts["by_temperature"]
    low, high = points[0], points[-1]
    steady = all(a["known"] >= b["known"] for a, b in pairwise(points))
    floor = facts["floor"]
    above = "" if floor is None else f", {facts['val_loss'] - floor:.2f} above the entropy floor"
    said = [
        f"Fluency depends on how far training came and on the temperature. The model has {facts['parameters']:,} "
        f"parameters, saw {facts['tokens']:,} tokens and ends at a validation "
        f"loss of {facts['val_loss']:.4f}{above}. Of the words that it writes at temperature {low['temperature']:g}, "
        f"{low['known']:.0%} occur in the training text, and at {high['temperature']:g} {high['known']:.0%}"
        + (
            ": **the higher the temperature, the more words are made up**"
            if steady and low["known"] > high["known"]
            else ": **over these temperatures that share does not fall steadily**"
        )
        + f". Of its words {low['distinct']:.0%} and {high['distinct']:.0%} are different ones: "
        + (
            "what is gained is variety."
            if high["distinct"] > low["distinct"]
            else "a higher temperature brings no more variety here."
        )
    ]
    for point in points:
        if point["temperature"] in _SHOWN:
            text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in point["text"].strip())
            quoted = "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
            said.append(f"At temperature {point['temperature']:g}:\n\n{quoted}")
    return said


def tables(facts: dict[str, Any]) -> list[str]:
    """The shares at each temperature."""
    rows = [
        [f"{p['temperature']:g}", str(p["words"]), f"{p['known']:.1%}", f"{p['distinct']:.1%}"]
        for p in facts["by_temperature"]
    ]
    return [
        markdown_table(("temperature", "words", "of them in the training text", "of them different"), rows)
    ]


def plot(facts: dict[str, Any], path: Path) -> None:
    """Both shares over the temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    points = facts["by_temperature"]
    for key, label in (("known", "in the training text"), ("distinct", "different")):
        axes.plot([p["temperature"] for p in points], [100 * p[key] for p in points], marker="o", label=label)
    axes.set_xlabel("temperature")
    axes.set_ylabel("% of the words")
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")
