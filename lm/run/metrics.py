"""Read the lines of a run's metrics.jsonl."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files.strict_json import parse_json

_LONGEST_LINE = 1 << 24


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return all lines of metrics.jsonl, for runs that are not long.

    Raises:
        InputError: as `metric_lines`.
    """
    return [record for record, _ in metric_lines(run)]


def metric_lines(run: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each line of metrics.jsonl and the byte at which it ends. Without the file, yield nothing.

    A last line without its end is left out: a crash tore it, or a run is writing it.

    Raises:
        InputError: a line is not a record of a step.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_LINE)
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                return
            try:
                record = parse_json(line.decode(), path)
            except (InputError, UnicodeDecodeError):
                record = None
            if not isinstance(record, dict) or not all(
                isinstance(n := record.get(key), int | float) and 0 <= n < 2**63
                for key in ("step", "tokens", "seconds")
            ):
                raise InputError(f"{path}, line {number}: not a record of a step; delete the line")
            end += len(line)
            yield record, end
