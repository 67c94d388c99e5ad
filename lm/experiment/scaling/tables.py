"""Tables of the facts that `fit_points` returns."""

import math
import re
from typing import Any

from lm.tables import markdown_table

Fact = dict[str, Any]


def tables(facts: Fact) -> list[str]:
    """Return blocks of Markdown: the points, the constants, E against the truth, the optima and the residuals."""
    methods = facts["methods"]
    blocks = [_points(facts)]
    blocks.append(_constants(methods, "law, ", "L(N, D) = E + A / N^a + B / D^b", ("E", "A", "B", "a", "b")))
    blocks.append(_residuals(facts))
    if facts["budgets"]:
        blocks.append(_budgets(facts))
        blocks.append(_constants(methods, "parabolas, ", "L(C) = E + k / C^g", ("E", "k", "g")))
    if facts["floor"] is not None:
        blocks.append(_floors(facts))
    blocks.append(_exponents(methods))
    blocks += [_predictions(methods, budget) for budget in facts["predict"]]
    if facts["notes"]:
        blocks.append("\n".join(f"- {note}" for note in facts["notes"]))
    return blocks


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in few digits, with a short exponent.

    >>> number(1.23456e5), number(2e-7), number(0.5), number(None)
    ('1.235e5', '2e-7', '0.5', '-')
    """
    return "-" if value is None else re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{digits}g}")


def interval(fact: Fact) -> str:
    """Return a number with its interval, if it was fitted."""
    if fact["low"] is None or fact["low"] == fact["high"]:
        return number(fact["value"])
    return f"{number(fact['value'])} [{number(fact['low'])}, {number(fact['high'])}]"


def _points(facts: Fact) -> str:
    points, flops = facts["points"], facts["flops"]
    columns = {
        "points": str(len(points)),
        "sizes": str(len({point["parameters"] for point in points})),
        "budgets with a parabola": str(sum(fact["parabola"] is not None for fact in facts["budgets"])),
        "FLOPs": f"{number(points[0]['flops'])} to {number(points[-1]['flops'])}",
        "FLOPs are about": f"{flops['coefficient']:.3g} N^{flops['exponent']:.3f} D",
        "bootstrap samples": str(facts["resamples"]),
    }
    return markdown_table(list(columns), [list(columns.values())])


def _constants(methods: Fact, prefix: str, formula: str, names: tuple[str, ...]) -> str:
    rows = [
        [method.removeprefix(prefix), *(interval(numbers[name]) for name in names)]
        for method, numbers in methods.items()
        if method.startswith(prefix)
    ]
    return markdown_table([formula, *names], rows)


def _residuals(facts: Fact) -> str:
    rows = []
    for name, residuals in facts["residuals"].items():
        worst = max(range(len(residuals)), key=lambda i: abs(residuals[i]))
        point = facts["points"][worst]
        where = f"N {number(point['parameters'])}, D {number(point['tokens'])}"
        rms = math.sqrt(sum(r * r for r in residuals) / len(residuals))
        rows.append([f"E {name}", f"{rms:.2%}", f"{residuals[worst]:+.2%}", where])
    return markdown_table(["loss above the law", "root mean square", "largest", "at"], rows)


def _budgets(facts: Fact) -> str:
    rows = []
    for fact in facts["budgets"]:
        lowest, parabola = fact["lowest"], fact["parabola"] or {}
        found = [number(parabola.get(name)) for name in ("parameters", "tokens", "loss")]
        runs = [number(lowest[name]) for name in ("parameters", "tokens", "loss")]
        rows.append([number(fact["flops"]), str(fact["points"]), *found, *runs])
    head = ("FLOPs", "points", *("parabola's N", "D", "loss"), *("lowest run's N", "D", "loss"))
    return markdown_table(head, rows)


def _floors(facts: Fact) -> str:
    rows = []
    for label, method in (("approach 3", "law, E free"), ("approach 2", "parabolas, E free")):
        fact = facts["methods"].get(method, {}).get("E")
        if fact is None or fact["value"] is None:
            continue
        away = fact["value"] - facts["floor"]
        errors = f"{away / fact['error']:+.1f}" if fact["error"] else "-"
        rows.append([label, interval(fact), f"{facts['floor']:.4f}", f"{away:+.4f}", errors])
    return markdown_table(["E", "fitted", "true", "difference, nats", "in standard errors"], rows)


def _exponents(methods: Fact) -> str:
    rows = [
        [_label(method), interval(numbers["N exponent"]), interval(numbers["D exponent"])]
        for method, numbers in methods.items()
        if method != "parabolas, E given"
    ]
    return markdown_table(["optimum over FLOPs", "N ~ C^", "D ~ C^"], rows)


def _predictions(methods: Fact, budget: float) -> str:
    rows = [
        [
            _label(method) if "loss" in method or method != "parabolas, E free" else method,
            *(
                interval(numbers[key]) if (key := f"{name} at {budget:g}") in numbers else "-"
                for name in ("N", "D", "loss")
            ),
        ]
        for method, numbers in methods.items()
    ]
    return markdown_table([f"best at {number(budget)} FLOPs", "N", "D", "loss"], rows)


def _label(method: str) -> str:
    return "parabolas" if method == "parabolas, E free" else method
