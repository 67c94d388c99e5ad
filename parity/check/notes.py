"""Notes: what happens outside the course's contract, in a sentence for each kind of case."""

import math
import re

from parity.check.answer import Finding
from parity.check.optimizers import OUTSIDE
from parity.check.subjects import Subject

BATCHES, ROWS, ABSENT = "two batch axes", "positions of each row", "no positions given"
REFUSED = {
    BATCHES: "it takes one batch axis only",
    ROWS: "it takes one row of positions for all sequences",
    ABSENT: "it needs token_positions",
}
"""How a note begins about a call that fails outside the course's contract."""


def in_words(where: str, findings: list[Finding]) -> str:
    """Return one sentence about what happens outside the contract: the worst number, or what is not taken."""
    first = findings[0]
    if first.kind == "failure":
        error, _, text = first.message.partition(":")
        line = re.search(r"\([^()]+:\d+\)", text)
        cause = f"{error} {line.group()}" if line else first.message
        return f"{REFUSED[where]}: {cause}" if where in REFUSED else f"{where}: {cause}"
    if where == ABSENT and first.kind == "forward":
        return (
            f"without token_positions its output is another ({first.error:.0e}): does it leave out RoPE then?"
        )
    numbers = [finding for finding in findings if finding.kind == first.kind]
    return f"{where}: {max(numbers, key=lambda f: f.error if math.isfinite(f.error) else -1.0).message}"


def place(finding: Finding, subject: Subject) -> str:
    """Say what is special about a case outside the contract."""
    case = finding.case
    special: list[str] = []
    if finding.dtype != "float32":
        special.append(finding.dtype)
    if case.mask == "empty row":
        special.append(OUTSIDE.get(case.layer, "a query that sees nothing"))
    if case.spread > 10:
        special.append("huge scores" if "attention" in case.layer else "huge logits")
    if case.scale not in (1.0, 100.0):
        what = "hidden states" if subject.layer.whole_model else "inputs"
        special.append(f"{what} of size {case.scale:g}")
    if case.positions == "from 1000":
        special.append("positions from 1000")
    if case.mask == "full" and "rope" in case.layer:
        special.append(ROWS)
    if case.mask == "random" and "rope" in case.layer:
        special.append(ABSENT)
    if case.layer == "scaled_dot_product_attention" and case.mask in ("full", "causal"):
        special.append("no mask" if case.mask == "full" else "one mask for all")
    return ", ".join(special) or (BATCHES if case in subject.beyond else f"shape {case.shape}")
