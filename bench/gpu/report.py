"""The results as tables in Markdown."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np

from bench.children import quartiles
from bench.train_step import compare, parse_work
from lm.accounting.hardware import HARDWARE
from lm.tables import markdown_table

CHIPS = {
    "NVIDIA A100-SXM4-40GB": "a100",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}
"""Names of chips, as torch and JAX report them, in `lm.accounting.hardware.HARDWARE`."""
BASELINE = "baseline compiled"
Results = Mapping[str, Any]


def peak(chip: str | None, dtype: str) -> float | None:
    """Return the dense peak of a chip in operations per second, or None for an unknown chip."""
    if chip not in CHIPS:
        return None
    flops = HARDWARE[CHIPS[chip]].peak_flops
    # By NVIDIA's data sheets, the dense peak in TF32 is half of the peak in bfloat16 on all of these.
    return (
        flops["bfloat16"] / 2 if dtype == "tf32" else flops["bfloat16" if dtype == "bfloat16" else "float32"]
    )


def text(results: Results) -> str:
    """Return all tables."""
    parts, machine = results["parts"], results["machine"]
    chip = next((p["name"] for n, p in parts.items() if n.startswith("device ") and "name" in p), None)
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "jax", "numpy") if machine[name])
    lines = [
        f"{chip or results['device']}; {machine['processor']}, {results['threads']} threads; Python "
        f"{machine['python']}, {versions}; {results['time']}" + ("; TINY MODELS" if results["tiny"] else ""),
        "",
        markdown_table(("check", "", "", "s"), list(_checks(parts))),
    ]
    if chip not in CHIPS:
        lines += ["", f"MFU is not given: the dense peak of {chip or 'this device'} is not known."]
    works = dict.fromkeys(name.split(" ")[1] for name in parts if name.startswith("step "))
    for work in works:
        lines += ["", *_steps(work, parts, chip)]
    lines += ["", *_decoding(parts), *_blocks(parts)]
    if results.get("left_out"):
        lines += ["", f"The time did not suffice for: {', '.join(results['left_out'])}."]
    return "\n".join(lines)


def _checks(parts: Results) -> Iterator[tuple[str, ...]]:
    for name, part in parts.items():
        if part["status"] != "measured":
            yield name, part["status"], _detail(part), f"{part['seconds']:.1f}"


def _detail(part: Results) -> str:
    if part["status"] == "unavailable":
        return str(part["reason"])
    if part["status"] in ("crashed", "out of time"):
        return part["said"][-1] if part["said"] else f"exit code {part['exit_code']}"
    if "worst" in part:
        failed = [f"{n}: {w['array']} {w['error']:.0e} > {w['budget']:.0e}" for n, w in part["worst"].items()]
        failed = [said for said, w in zip(failed, part["worst"].values(), strict=True) if not w["passed"]]
        ratio = max(w["error"] / w["budget"] for w in part["worst"].values())
        more = f", {len(part['left_out'])} left out for time" if part.get("left_out") else ""
        return "; ".join(failed) or f"{len(part['worst'])} compared, worst {ratio:.0%} of its budget{more}"
    if "errors" in part:
        return f"worst {max(part['errors']):.0e} <= {part['budget']:.0e} in {len(part['errors'])} steps"
    return str(part.get("name", ""))


def _steps(work: str, parts: Results, chip: str | None) -> Iterator[str]:
    """Yield the table of a row of training steps, and whether the first steps agree."""
    prefix = f"step {work} "
    found = {name.removeprefix(prefix): p for name, p in parts.items() if name.startswith(prefix)}
    measured = {name: p for name, p in found.items() if p["status"] == "measured"}
    dtype = work.rpartition("/")[2]
    chip_peak = peak(chip, dtype)
    products = [p["flops"] for n, p in parts.items() if n.startswith("product ") and p.get("dtype") == dtype]
    base = median(measured[BASELINE]["samples"]["seconds"]) if BASELINE in measured else None
    rows = []
    for name, part in found.items():
        if name not in measured:
            rows.append((f"{work} {name}", *[""] * 7, f"{part['status']}: {_detail(part)}"))
            continue
        low, middle, high = quartiles(part["samples"]["seconds"])
        rows.append(
            (
                f"{work} {name}",
                f"{1e3 * middle:.4g} ({1e3 * low:.4g}-{1e3 * high:.4g})",
                f"{middle / base:.2f}" if base else "",
                f"{part['tokens'] / middle:,.0f}",
                f"{part['flops'] / middle / chip_peak:.1%}" if chip_peak else "",
                f"{part['flops'] / middle / products[0]:.0%}" if products else "",
                f"{part['first_seconds']:.1f}",
                f"{(part['device_memory'] or part['peak_memory']) / 2**20:,.0f}",
                "",
            )
        )
    head = ("step", "ms (quartiles)", f"/ {BASELINE}", "tokens/s", "MFU", "of product", "first s", "MiB", "")
    yield markdown_table(head, rows)
    first = {name: {**p, "update": np.array(p["update"])} for name, p in measured.items()}
    failures: list[str] = []
    compare(parse_work(work, "cpu", 1), first, failures)
    if first:
        yield ""
        yield "\n".join(failures) or f"{work}: the first steps of {len(first)} contenders agree."


def _decoding(parts: Results) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        if name.startswith("decode ") and part["status"] == "measured":
            for prompts, speed in part.items():
                if isinstance(speed, dict):
                    first = f"{1e3 * speed['first_token_seconds']:.1f}"
                    rows.append((f"{name}, {prompts} at once", f"{speed['tokens_per_second']:,.0f}", first))
    if rows:
        yield markdown_table(("decoding", "tokens/s", "first token, ms"), rows)


def _blocks(parts: Results) -> Iterator[str]:
    part = parts.get("attention blocks torch", {})
    rows = [(size, f"{1e3 * s:.2f}") for size, s in part.items() if " x " in size]
    if rows:
        yield ""
        yield markdown_table(("torch's blocks of queries x keys", "ms"), rows)
