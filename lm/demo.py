"""`lm demo`: the whole pipeline on a small model, in both backends, and a report of what came of it."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

from lm.config import load_config
from lm.data import file_sha256, read_sidecar
from lm.evaluate import entropy_floor
from lm.files import json_text, published, refuse_existing, write_json
from lm.run import read_metrics
from tokenizer.errors import InputError

Record: TypeAlias = dict[str, Any]
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo.toml"
BACKENDS = ("torch", "jax")
VOCAB_SIZE = 2048
TRAIN_BYTES, VAL_BYTES = 10_000_000, 250_000
PROMPT = "Once upon a time"
SAMPLING = ("--max-new-tokens", "400", "--temperature", "0.6", "--top-p", "0.9", "--seed", "1")


def demo(out: Path, input_path: Path | None) -> None:
    """Make or read a text, train a tokenizer, train the model in both backends, generate, and report.

    Each stage is an `lm` command of its own, which is printed; a stage whose result is there is not run again, so
    that a demo that was stopped goes on where it was.

    Raises:
        InputError: `out` holds something else, or a stage failed.
    """
    if not CONFIG.is_file():
        raise InputError(f"{CONFIG} is missing: run lm demo from a checkout of twinlm, where configs/ is")
    _claim(out, input_path)
    text, val_text = out / "train.txt", out / "val.txt"
    if input_path is None:
        _stage(text, "stories", "--out", text, "--bytes", TRAIN_BYTES, "--seed", 1)
        _stage(val_text, "stories", "--out", val_text, "--bytes", VAL_BYTES, "--seed", 2)
    elif not val_text.exists():
        _split(input_path, text, val_text)
    tokenizer, tokens, val_tokens = out / "tokenizer", out / "train.npy", out / "val.npy"
    _stage(tokenizer, "tokenizer", "train", "--input", text, "--vocab-size", VOCAB_SIZE, "--out", tokenizer)
    _stage(tokens, "tokenizer", "encode", "--tokenizer", tokenizer, "--input", text, "--out", tokens)
    _stage(
        val_tokens, "tokenizer", "encode", "--tokenizer", tokenizer, "--input", val_text, "--out", val_tokens
    )
    steps = f"step-{load_config(CONFIG).steps:08d}"
    for name in BACKENDS:
        folder = out / name
        flags = ["--resume"] if (folder / "checkpoints").exists() else []
        data = "--train", tokens, "--val", val_tokens
        _stage(
            folder / "checkpoints" / steps,
            *("train", "--backend", name, "--config", CONFIG, *data, "--out", folder, *flags),
        )
        _lm("eval", "--checkpoint", folder, "--tokens", val_tokens)
    prompt = "--prompt", PROMPT, *SAMPLING
    texts = {
        name: _lm("generate", "--backend", name, "--checkpoint", out / "torch", *prompt) for name in BACKENDS
    }
    metrics = {name: read_metrics(out / name) for name in BACKENDS}
    floor = entropy_floor(read_sidecar(val_tokens))
    with published(out / "curves.png") as temporary:
        _plot(metrics, floor, temporary)
    with published(out / "report.md") as temporary:
        temporary.write_text(_report(metrics, floor, texts), encoding="utf-8")
    print(f"\n{out}/report.md and {out}/curves.png are written")


def _claim(out: Path, input_path: Path | None) -> None:
    """Note in `out` what text this demo is of, and refuse a folder that is of another."""
    text = {"input_sha256": None if input_path is None else file_sha256(input_path)}
    note = out / "demo.json"
    if not note.exists():
        refuse_existing(out)
        write_json(note, text)
    elif note.read_text(encoding="utf-8") != json_text(text):
        raise InputError(f"{out} holds the demo of another text: choose another --out, or delete it first")


def _split(input_path: Path, train_text: Path, val_text: Path) -> None:
    """The first nine tenths of the text, up to the end of a line, to train on; the rest to evaluate on."""
    text = input_path.read_bytes()
    cut = text.find(b"\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    for path, part in ((train_text, text[:cut]), (val_text, text[cut:])):
        with published(path) as temporary:
            temporary.write_bytes(part)


def _stage(result: Path, *command: object) -> None:
    """Run a command unless its result is there."""
    if result.exists():
        print(f"\n# {result} is there already")
    else:
        _lm(*command)


def _lm(*command: object) -> str:
    """Show and run an `lm` command in a process of its own, since two frameworks in one contend for threads.

    Returns:
        What it printed, which is passed on as it comes.
    """
    words = [str(word) for word in command]
    print(f"\n$ lm {shlex.join(words)}", flush=True)
    printed = ""
    with subprocess.Popen(
        [sys.executable, "-m", "lm", *words], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        try:
            while char := process.stdout.read(1):
                print(char, end="", flush=True)
                printed += char
        except KeyboardInterrupt:
            # The command was interrupted too: let it save and say how to go on.
            print(process.communicate()[0], end="")
            raise
    if process.returncode:
        sys.exit(process.returncode)  # the command has said why
    return printed


def _series(records: list[Record], key: str) -> list[Record]:
    """The lines of metrics.jsonl that hold this key."""
    return [record for record in records if key in record]


def _plot(metrics: dict[str, list[Record]], floor: float | None, path: Path) -> None:
    """Training and validation loss of both backends, over steps and over seconds, with the floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    # The second curve is drawn dashed on the first, so that both show where they are the same.
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
    """The report in Markdown."""
    config = load_config(CONFIG)
    model = config.model
    rows = "\n".join(
        f"| {name} | {_series(records, 'train_loss')[-1]['train_loss']:.4f} | {records[-1]['val_loss']:.4f} "
        f"| {records[-1]['seconds']:.0f} | {records[-1]['tokens'] / records[-1]['seconds']:,.0f} |"
        for name, records in metrics.items()
    )
    difference = max(
        abs(a[key] / b[key] - 1)
        for key in ("train_loss", "val_loss")
        for a, b in zip(*(_series(records, key) for records in metrics.values()), strict=True)
    )
    lines = [
        "# Demo: one model, trained in PyTorch and in JAX",
        f"Both start from the same weights and see the same batches: {config.steps:,} steps of "
        f"{config.batch_size} windows of {model.context_length} tokens; d_model {model.d_model}, "
        f"{model.num_layers} layers, {model.num_heads} heads, vocabulary {model.vocab_size:,}.",
        "| backend | training loss | validation loss | seconds | tokens/s |\n| --- | --- | --- | --- | --- |\n"
        + rows,
        "Losses are in nats per token; the validation loss is of the whole file.",
    ]
    if floor is not None:
        lines.append(
            f"The entropy floor of the validation text is **{floor:.4f} nats per token**: the stories come from a "
            "grammar, so the information that they hold is known, and in expectation no model can need less."
        )
    lines += [
        "![Both loss curves, over steps and over seconds](curves.png)",
        f"The two curves differ by at most {difference:.1e} (relative, at any logged step).",
        "## One checkpoint, one seed",
    ]
    told = {
        name: "\n".join(f"> {line}".rstrip() for line in text.splitlines()) for name, text in texts.items()
    }
    if len(set(told.values())) == 1:
        lines += [
            "torch's checkpoint, continued in torch and in JAX with the same seed, gives the same text:",
            told["torch"],
        ]
    else:
        lines += ["torch's checkpoint, continued with the same seed, gives **different texts**:"]
        lines += [f"In {name}:\n\n{text}" for name, text in told.items()]
    return "\n\n".join(lines) + "\n"
