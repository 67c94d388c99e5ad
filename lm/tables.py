"""Tables of text, for a terminal and in Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def plain_table(head: Row, rows: Sequence[Row], left: int = 1) -> str:
    """Return a table for a terminal. The first `left` columns are aligned left, the others right.

    >>> print(plain_table(["backend", "loss"], [["torch", "1.5"], ["jax", "12.25"]]))
    backend   loss
    torch      1.5
    jax      12.25
    """
    return "\n".join("  ".join(row).rstrip() for row in _aligned([head, *rows], left))


def markdown_table(head: Row, rows: Sequence[Row]) -> str:
    """Return a table in Markdown. The first column is aligned left, the others right.

    >>> print(markdown_table(["backend", "loss"], [["torch", "1.5"], ["jax", "12.25"]]))
    | backend |  loss |
    | ------- | ----: |
    | torch   |   1.5 |
    | jax     | 12.25 |
    """
    first, *others = _aligned([head, *rows], left=1, narrowest=3)
    rule = ["-" * len(first[0]), *("-" * (len(cell) - 1) + ":" for cell in first[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, rule, *others))


def _aligned(rows: Sequence[Row], left: int, narrowest: int = 0) -> list[list[str]]:
    """Pad the cells of each column to one width."""
    widths = [max(narrowest, *map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
