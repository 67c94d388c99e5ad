"""Answers to the course's written questions about tokenizers and experiments, from the results."""

from typing import Any

from lm.experiment import compression
from lm.experiment.catalogue import EXPERIMENTS

_QUESTIONS = {
    "sgd": "What does SGD do at the rates 1e1, 1e2 and 1e3?",
    "learning-rate": "Which learning rate is the best, and is it at the edge of stability?",
    "batch-size": "What does the batch size do?",
    "generate": "What does the model write, and what does its fluency depend on?",
    "no-norm": "What happens without norms, and does a lower learning rate help?",
    "post-norm": "How does post-norm compare with pre-norm?",
    "no-position": "How does no position embedding compare with RoPE?",
    "silu": "How does SwiGLU compare with SiLU of as many parameters?",
    "parallel": "How do parallel blocks compare, over steps and over seconds?",
}


def answers(results: dict[str, Any]) -> str:
    """The sections "Tokenizer" and "Experiments" of the answers, in Markdown."""
    tokens = compression.findings(results["tokenizer"])
    source = (
        "These sentences and numbers are computed from the runs of [experiments.md](experiments.md), which has tables "
        "and curves, and the command."
    )
    parts = [
        "## Tokenizer",
        source,
        "### What are the longest tokens, and what does training take?",
        *(text for key, text in tokens.items() if key.startswith("longest")),
        "### How far does each tokenizer compress?",
        tokens["compression"],
        "### And text of the other corpus?",
        tokens["other corpus"],
        "### How long would the Pile take?",
        tokens["throughput"],
        "### Why is uint16 a good choice for token ids?",
        tokens["dtype"],
        "## Experiments",
        source,
    ]
    for name, question in _QUESTIONS.items():
        parts += [f"### {question}", *EXPERIMENTS[name].findings(results[name])]
    return "\n\n".join(parts)
