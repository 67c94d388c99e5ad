"""Samples from the best model, at several temperatures."""

import re
from pathlib import Path
from typing import Any

from lm.backend import load
from lm.experiment.plot import open_plot
from lm.experiment.runs import Runs
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
    """Sample from the baseline at its best rate, and count the words that the training text contains."""
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


def tables(facts: dict[str, Any]) -> list[str]:
    """Return the model's size and loss, the shares at each temperature, and a sample at two temperatures."""
    points, floor = facts["by_temperature"], facts["floor"]
    model = [
        f"{facts['parameters']:,}",
        f"{facts['tokens']:,}",
        f"{facts['val_loss']:.4f}",
        "-" if floor is None else f"{floor:.4f}",
        "-" if floor is None else f"{facts['val_loss'] - floor:.4f}",
    ]
    shares = [
        [f"{p['temperature']:g}", str(p["words"]), f"{p['known']:.1%}", f"{p['distinct']:.1%}"]
        for p in points
    ]
    return [
        markdown_table(
            ("parameters", "tokens", "validation loss", "entropy floor", "above the floor"), [model]
        ),
        markdown_table(("temperature", "words", "in the training text", "different words"), shares),
        *(
            f"At temperature {p['temperature']:g}:\n\n{_quoted(p['text'])}"
            for p in points
            if p["temperature"] in _SHOWN
        ),
    ]


def _quoted(text: str) -> str:
    """Return a sample as a Markdown quotation, without characters that cannot be printed."""
    text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.strip())
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw both shares over the temperature."""
    with open_plot(path) as axes:
        points = facts["by_temperature"]
        for key, label in (("known", "in the training text"), ("distinct", "different")):
            axes.plot(
                [p["temperature"] for p in points], [100 * p[key] for p in points], marker="o", label=label
            )
        axes.set_xlabel("temperature")
        axes.set_ylabel("% of the words")
        axes.set_ylim(0, 105)
