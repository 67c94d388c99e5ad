"""The report of `lm accounting`: the account of a config as a dictionary, and as tables."""

import dataclasses
from typing import Any

from lm.accounting.activations import ACCOUNTS
from lm.accounting.memory import Memory, memory
from lm.config import OptimizerConfig, TrainConfig
from lm.flops import matmuls, optimizer_flops, parameters, train_flops_per_token
from lm.tables import plain_table

SECONDS_A_DAY = 86_400


def account(
    config: TrainConfig, mfu: float, tokens: int | None = None, available: int | None = None
) -> dict[str, Any]:
    """Return everything that is known about a config before it runs, in numbers, FLOPs and bytes.

    Args:
        mfu: Share of the peak that training will reach.
        tokens: Number of tokens to train on, instead of the config's steps.
        available: Bytes of the device's memory, for the largest micro-batch.
    """
    m = config.model
    counts, products = parameters(m), matmuls(m)
    forward, total = sum(p.flops for p in products), sum(counts.values())
    tokens_a_step = config.batch_size * m.context_length
    steps = config.steps if tokens is None else -(-tokens // tokens_a_step)
    step, update = train_flops_per_token(m) * tokens_a_step, optimizer_flops(m, config.optimizer)
    facts: dict[str, Any] = {
        "model": dataclasses.asdict(m),
        "parameters": {"total": total, "parts": counts},
        "forward": {
            "flops": forward,
            "matmuls": [
                dataclasses.asdict(p) | {"flops": p.flops, "share": p.flops / forward} for p in products
            ],
        },
        "optimizer": {
            "state": optimizer_state(config.optimizer),
            **{f"{part}_flops": count for part, count in update.items() if count},
            "flops": sum(update.values()),
        },
        "training": {
            "batch_size": config.batch_size,
            "steps": steps,
            "tokens": steps * tokens_a_step,
            "flops_per_token": train_flops_per_token(m),
            "flops_per_step": step,
            "flops": steps * step,
        },
        "memory": {name: _memory(memory(config, name), config, available) for name in ACCOUNTS},
    }
    if config.peak_flops is not None:
        seconds = steps * step / (config.peak_flops * mfu)
        facts["training"] |= {
            "peak_flops": config.peak_flops,
            "mfu": mfu,
            "seconds": seconds,
            "days": seconds / SECONDS_A_DAY,
        }
    return facts


def optimizer_state(optimizer: OptimizerConfig) -> str:
    """Return what an optimizer keeps, in words."""
    moments = "AdamW's moments" if optimizer.kind == "adamw" else "moments of Muon and AdamW"
    return f"{moments}, averages" if optimizer.average_decay else moments


def _memory(memory: Memory, config: TrainConfig, available: int | None) -> dict[str, Any]:
    sequences = config.batch_size // config.grad_accumulation
    facts: dict[str, Any] = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": sum(memory.activations.values()),
        "activations_kept": memory.activations,
        "moments": {name: {"a": line.per_sequence, "b": line.fixed} for name, line in memory.moments.items()},
        "a": memory.line.per_sequence,
        "b": memory.line.fixed,
        "micro_batch": sequences,
        "peak": memory.peak(sequences),
    }
    if available is not None:
        facts |= {"available": available, "largest_batch": memory.largest_batch(available)}
    return facts


def tables(facts: dict[str, Any]) -> str:
    """Return the account as text."""
    return "\n\n".join((_parameters(facts), _forward(facts), _training(facts), _memories(facts)))


def _parameters(facts: dict[str, Any]) -> str:
    parts, total = facts["parameters"]["parts"], facts["parameters"]["total"]
    rows = [[name, f"{n:,}", f"{n / total:.2%}"] for name, n in [*parts.items(), ("total", total)]]
    return plain_table(["parameters", "number", "share"], rows)


def _forward(facts: dict[str, Any]) -> str:
    rows = [
        [
            p["name"],
            f"{p['count']:,}",
            f"({p['rows']:,}, {p['inner']:,}) x ({p['inner']:,}, {p['columns']:,})",
            f"{p['flops']:.4g}",
            f"{p['share']:.2%}",
        ]
        for p in facts["forward"]["matmuls"]
    ]
    rows.append(["total", "", "", f"{facts['forward']['flops']:.4g}", "100.00%"])
    return plain_table(["forward pass of one sequence", "times", "product", "FLOPs", "share"], rows)


_UPDATE = {
    "adamw_flops": "AdamW",
    "muon_flops": "Muon",
    "average_flops": "averages",
    "clipping_flops": "clipping",
}


def _training(facts: dict[str, Any]) -> str:
    training, optimizer = facts["training"], facts["optimizer"]
    rows = [
        ["forward and backward, a token", f"{training['flops_per_token']:.4g} FLOPs"],
        [
            f"forward and backward, a step of {training['batch_size']:,} sequences",
            f"{training['flops_per_step']:.4g} FLOPs",
        ],
        *(
            [f"{label}, a step", f"{optimizer[key]:.4g} FLOPs"]
            for key, label in _UPDATE.items()
            if key in optimizer
        ),
        [f"{training['steps']:,} steps", f"{training['tokens']:.4g} tokens"],
        ["", f"{training['flops']:.4g} FLOPs"],
    ]
    if "days" in training:
        rate = f"at {training['mfu']:.0%} of {training['peak_flops']:.4g} FLOP/s"
        rows.append([rate, f"{training['days']:,.2f} days"])
        rows.append(["", f"{24 * training['days']:,.1f} hours"])
    return plain_table(["training", ""], rows)


def _memories(facts: dict[str, Any]) -> str:
    accounts = facts["memory"]
    micro_batch = accounts["torch"]["micro_batch"]
    names = dict.fromkeys(name for a in accounts.values() for name in a["activations_kept"])
    labels = {
        "weights": "weights",
        "gradients": "gradients",
        "optimizer": facts["optimizer"]["state"],
        "activations": "activations kept, a sequence",
    }
    rows = [[label, *(gigabytes(a[key]) for a in accounts.values())] for key, label in labels.items()]
    rows += [
        [f"  {name}", *(gigabytes(a["activations_kept"].get(name)) for a in accounts.values())]
        for name in names
    ]
    rows.append(["many sequences: a, for each", *(gigabytes(a["a"]) for a in accounts.values())])
    rows.append(["many sequences: b, fixed", *(gigabytes(a["b"]) for a in accounts.values())])
    rows.append([f"peak of {micro_batch:,} at once", *(gigabytes(a["peak"]) for a in accounts.values())])
    if "available" in accounts["torch"]:
        label = f"most at once in {gigabytes(accounts['torch']['available'])} GB"
        rows.append([label, *(f"{a['largest_batch']:,}" for a in accounts.values())])
    return plain_table(["memory of a training step, GB", *accounts], rows)


def gigabytes(size: int | None) -> str:
    """Return a number of bytes in GB, or an empty text for None."""
    return "" if size is None else f"{size / 1e9:,.3f}"
