"""Answers to the course's written questions about tokenizers and experiments, from the results."""

from typing import Any

from lm.experiment import compression
from lm.experiment.catalogue import EXPERIMENTS


def answers(results: dict[str, Any]) -> str:
    """The sections "Tokenizer" and "Experiments" of the answers, in Markdown."""

    def told(name: str) -> str:
        return "\n\n".join(EXPERIMENTS[name].findings(results[name]))

    tokens = compression.findings(results["tokenizer"])
    longest = "\n\n".join(text for key, text in tokens.items() if key.startswith("longest"))
    parts = [
        "The answers from here on are computed from the runs of [experiments.md](experiments.md), which has tables and curves.",
        "## Tokenizer",
        "**Training (train_bpe_tinystories, train_bpe_expts_owt): the longest tokens, and what training takes.** "
        f"{longest}",
        f"**Compression of each tokenizer (tokenizer_experiments a).** {tokens['compression']}",
        f"**A tokenizer on the other corpus (b).** {tokens['other corpus']}",
        f"**Throughput, and the time for the Pile (c).** {tokens['throughput']}",
        f"**Why uint16 (d).** {tokens['dtype']}",
        "## Experiments",
    ]
    for question, name in (
        ("SGD at rates 1e1, 1e2 and 1e3 (learning_rate_tuning).", "sgd"),
        ("The learning rate, and the edge of stability (learning_rate).", "learning-rate"),
        ("The batch size (batch_size_experiment).", "batch-size"),
        ("Generated text (generate).", "generate"),
        ("Without layer norm (layer_norm_ablation).", "no-norm"),
        ("Post-norm against pre-norm (pre_norm_ablation).", "post-norm"),
        ("Without position embeddings (no_pos_emb).", "no-position"),
        ("SwiGLU against SiLU (swiglu_ablation).", "silu"),
        ("Parallel against sequential blocks (parallel_layers).", "parallel"),
    ):
        parts.append(f"**{question}** {told(name)}")
    return "\n\n".join(parts)
