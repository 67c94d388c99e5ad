"""The results of `bench scaling` as tables."""

from statistics import median
from typing import Any

from bench import report
from bench.children import quartiles
from lm.tables import markdown_table


def text(result: dict[str, Any]) -> str:
    """Return all tables, in Markdown that is readable in a terminal."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "jax", "numpy"))
    on_cpu = result["device"] == "cpu"
    lines = [
        f"{machine['processor']}, {result['threads']} threads in total, device {result['device']}; "
        f"Python {machine['python']}, {versions}; {result['time']}",
        f"`{result['command'].strip()}`: {result['work']}, remat {result['remat']}",
        "",
        markdown_table(
            ("mesh", "ms a step (quartiles)", "tokens/s", "x one device", "efficiency", "first s", ""),
            [_time(row, result, on_cpu) for row in result["rows"]],
        ),
        "",
        "On a CPU all devices share the same cores, so efficiency is the rate divided by that of one device."
        if on_cpu
        else "Efficiency is the rate divided by the number of devices and by the rate of one device.",
    ]
    programs = [row for row in result["rows"] if "sent" in row]
    if programs:
        sent = ("sends, MB", "formula", "XLA / formula")
        held = ("holds, MB", "formula", "XLA / formula")
        each = [line for row in programs for line in _collectives(row)]
        lines += ["", markdown_table(("a device of JAX", *sent, *held), [_program(row) for row in programs])]
        lines += ["", markdown_table(("collectives", "XLA, MB", "formula, MB"), each)]
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    axes = [part for part in row["mesh"].split(",") if not part.endswith("=1")]
    return f"{row['backend']} {','.join(axes) or 'one device'}"


def _time(row: dict[str, Any], result: dict[str, Any], on_cpu: bool) -> tuple[str, ...]:
    one = next(r for r in result["rows"] if r["backend"] == row["backend"])
    if "rounds" not in row or "rounds" not in one:
        return (_name(row), *[""] * 5, row.get("unavailable", "no parity"))
    low, middle, high = quartiles(report.seconds(row))
    times = report.ratios(one, row)[1]
    efficiency = times if on_cpu else times / row["devices"]
    return (
        _name(row),
        f"{1e3 * middle:.4g} ({1e3 * low:.4g}-{1e3 * high:.4g})",
        f"{result['tokens'] / median(report.seconds(row)):,.0f}",
        f"{times:.2f}",
        f"{efficiency:.0%}",
        f"{row['first_seconds']:.1f}",
        "",
    )


def _program(row: dict[str, Any]) -> tuple[str, ...]:
    by_xla, formula = sum(row["sent"].values()), sum(row["sent_by_formula"].values())
    return (
        _name(row),
        f"{by_xla / 1e6:,.2f}",
        f"{formula / 1e6:,.2f}",
        f"{by_xla / formula:.3f}",
        f"{row['memory'] / 1e6:,.1f}",
        f"{row['memory_by_formula'] / 1e6:,.1f}",
        f"{row['memory'] / row['memory_by_formula']:.3f}",
    )


def _collectives(row: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{_name(row)}: {what}",
            *(f"{row[key].get(what, 0) / 1e6:,.3f}" for key in ("sent", "sent_by_formula")),
        )
        for what in sorted(row["sent"] | row["sent_by_formula"])
    ]
