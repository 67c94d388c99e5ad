"""`lm demo`: the whole pipeline on a small model, in both backends, with a report."""

from pathlib import Path
from typing import Any, TypeAlias

from lm.config import CONFIGS, load_config
from lm.experiment.stages import claim, make_tokens, run_commands, run_stages
from lm.files import file_sha256, published
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from lm.tables import markdown_table
from lm.terminal import show
from tokenizer.machine import num_processors

Record: TypeAlias = dict[str, Any]
CONFIG = CONFIGS / "demo.toml"
BACKENDS = ("torch", "jax")
VOCAB_SIZE = 2048
TRAIN_BYTES, VAL_BYTES = 10_000_000, 150_000
PROMPT = "Once upon a time"
SAMPLING = ("--max-new-tokens", "400", "--temperature", "0.6", "--top-p", "0.9", "--seed", "1")


def demo(out: Path, input_path: Path | None) -> None:
    """Write or split a text, train a tokenizer, train the model in both backends, generate text, and report.

    Each stage is one `lm` command, or one of each backend at once: on two cores, two processes of one thread each take
    less time than one after the other with two threads. The commands are shown. A stage whose result exists is not run
    again, so the same call continues a demo that was stopped.

    Raises:
        InputError: `out` holds something else.
        SystemExit: a stage failed.
    """
    facts = {"input_sha256": None if input_path is None else file_sha256(input_path)}
    with claim(out / "demo.json", "the demo", facts):
        _run_stages(out, input_path)


def _run_stages(out: Path, input_path: Path | None) -> None:
    tokens, val_tokens = make_tokens(out, input_path, VOCAB_SIZE, TRAIN_BYTES, VAL_BYTES)
    steps = f"step-{load_config(CONFIG).steps:08d}"
    threads = "--threads", max(1, num_processors() // len(BACKENDS))
    run_stages(
        {
            out / name / "checkpoints" / steps: (
                *("train", "--backend", name, "--config", CONFIG, *threads),
                *("--train", tokens, "--val", val_tokens, "--out", out / name),
                *(["--resume"] if (out / name / "checkpoints").exists() else []),
            )
            for name in BACKENDS
        }
    )
    writes = "generate", "--checkpoint", out / "torch", "--prompt", PROMPT, *SAMPLING, *threads
    texts = run_commands(*((*writes, "--backend", name) for name in BACKENDS))
    metrics = {name: read_metrics(out / name) for name in BACKENDS}
    floor = (read_facts(out / BACKENDS[0]) or {}).get("floor")
    with published(out / "curves.png") as temporary:
        _plot(metrics, floor, temporary)
    with published(out / "report.md") as temporary:
        temporary.write_text(
            _report(metrics, floor, dict(zip(BACKENDS, texts, strict=True))), encoding="utf-8", newline=""
        )
    show(f"\n{_excess(metrics, floor)}{out}/report.md has the losses, {out}/curves.png the curves")


def _excess(metrics: dict[str, list[Record]], floor: float | None) -> str:
    """Return a line with each backend's validation loss above the entropy floor, or nothing if there is no floor."""
    if floor is None:
        return ""
    above = (f"{records[-1]['val_loss'] - floor:.4f} ({name})" for name, records in metrics.items())
    return f"The validation loss ends {', '.join(above)} nats per token above the entropy floor.\n"


def _series(records: list[Record], key: str) -> list[Record]:
    """Return the lines of metrics.jsonl that hold this key."""
    return [record for record in records if key in record]


def _plot(metrics: dict[str, list[Record]], floor: float | None, path: Path) -> None:
    """Draw the training and validation losses of both backends over steps and over seconds, with the entropy floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    # The second curve is dashed and drawn over the first, so both are visible if they are equal.
    styles = {"torch": ("tab:orange", "-", 3.0), "jax": ("tab:blue", "--", 1.2)}
    for axes, x, title in (
        (left, "step", "Over optimizer steps"),
        (right, "seconds", "Over wall time, evaluation included"),
    ):
        for name, (color, line, width) in styles.items():
            for key, label, alpha in (("train_loss", "training batch", 0.4), ("val_loss", "validation", 1.0)):
                records = _series(metrics[name], key)
                axes.plot(
                    [r[x] for r in records],
                    [r[key] for r in records],
                    line,
                    color=color,
                    alpha=alpha,
                    linewidth=width,
                    marker="o" if key == "val_loss" else None,
                    label=f"{name}, {label}",
                )
        if floor is not None:
            axes.axhline(floor, color="black", linestyle=":", label=f"entropy floor, {floor:.3f}")
        axes.set_xlabel(x)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    left.set_ylabel("loss in nats per token")
    right.legend()
    figure.savefig(path, format="png")


def _report(metrics: dict[str, list[Record]], floor: float | None, texts: dict[str, str]) -> str:
    """Return the report in Markdown."""
    config = load_config(CONFIG)
    model = config.model
    rows = [
        [
            name,
            f"{_series(records, 'train_loss')[-1]['train_loss']:.4f}",
            f"{records[-1]['val_loss']:.4f}",
            f"{records[-1]['seconds']:.0f}",
            f"{records[-1]['tokens'] / records[-1]['seconds']:,.0f}",
        ]
        for name, records in metrics.items()
    ]
    difference = max(
        abs(a[key] / b[key] - 1)
        for key in ("train_loss", "val_loss")
        for a, b in zip(*(_series(records, key) for records in metrics.values()), strict=True)
    )
    lines = [
        "# Demo: one model, trained in PyTorch and in JAX",
        f"Both start from the same weights and see the same batches: {config.steps:,} steps of "
        f"{config.batch_size} windows of {model.context_length} tokens; d_model {model.d_model}, "
        f"{model.num_layers} layers, {model.num_heads} heads, vocabulary {model.vocab_size:,}. "
        "Both trained at once, each on half of the processor's cores.",
        markdown_table(("backend", "training loss", "validation loss", "seconds", "tokens/s"), rows),
        "Losses are in nats per token. The validation loss is that of the whole validation file.",
    ]
    if floor is not None:
        lines.append(
            f"The entropy floor of the validation text is **{floor:.4f} nats per token**. The stories come from a "
            f"grammar, so their information is known, and no model's expected loss is lower. {_excess(metrics, floor)}"
            f"A story is longer than a window of {model.context_length} tokens, so most windows hide what a story said "
            "before, and no model can reach the floor with them. docs/scaling-law.md reads whole stories."
        )
    lines += [
        "![Both loss curves, over steps and over seconds](curves.png)",
        f"The two curves differ by at most {difference:.1e} (relative, at any logged step).",
        "## One checkpoint, one seed",
    ]
    quoted = {
        name: "\n".join(f"> {line}".rstrip() for line in text.splitlines()) for name, text in texts.items()
    }
    if len(set(quoted.values())) == 1:
        lines += [
            "The checkpoint that torch trained gives one text, whether torch or JAX generates from it (with one seed):",
            quoted["torch"],
        ]
    else:
        lines += [
            "The checkpoint that torch trained gives **different texts** in torch and in JAX, with one seed:"
        ]
        lines += [f"In {name}:\n\n{text}" for name, text in quoted.items()]
    return "\n\n".join(lines) + "\n"
