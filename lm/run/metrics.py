"""The lines of a run's metrics.jsonl."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of a run that is not long.

    Raises:
        InputError: as `metric_lines` does.
    """
    return [record for record, _ in metric_lines(run)]


def metric_lines(run: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line of metrics.jsonl, and the place in the file where it ends; none where there is no such file.

    A last line that a crash tore, or that is being written, is left out.

    Raises:
        InputError: another line is no record of a step.
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
                record = _JSON.decode(line.decode())
            except (ValueError, RecursionError):
                record = None
            numbers = isinstance(record, dict) and [record.get(key) for key in ("step", "tokens", "seconds")]
            if (
                not numbers
                or not all(isinstance(n, int | float) and 0 <= n < 2**63 for n in numbers)
                or any(isinstance(v, int | float) and not abs(v) <= _LARGEST for v in record.values())
            ):
                raise InputError(f"{path}, line {number}: not a record of a step; delete the line")
            end += len(line)
            yield record, end


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)  # has no NaN
_LONGEST_LINE, _LARGEST = 1 << 24, sys.float_info.max
