"""A JSON reader that accepts the standard only, for files that anybody may have written."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from tokenizer.errors import InputError

MAX_DIGITS = 20  # of a whole number; the largest 64-bit number has 20


def parse_json(text: str, where: str | Path) -> Any:
    """Return the value that `text` spells.

    Python's own reader accepts more than JSON, and some JSON breaks that reader or the code after it. This one
    refuses NaN and infinity, a name that occurs twice in an object, numbers of more than 20 digits, lone surrogates
    and deep nesting.

    Args:
        text: the JSON.
        where: the name of the file, for the message.

    Raises:
        InputError: the text is not JSON by these rules.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where} is not JSON: it has a lone surrogate, which UTF-8 cannot express"
        ) from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply; give the file as the program wrote it") from None
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!a} occurs twice in one object")
    return found


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
