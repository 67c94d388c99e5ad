"""Files of pairs: JSON lines such as {"prefix": "abc", "target": "cba"}; other names in them are ignored."""

from collections.abc import Iterator
from io import BufferedReader

from tokenizer.errors import InputError
from tokenizer.files.sources import open_source
from tokenizer.files.strict_json import parse_json


def read_pairs(path: str, start: int = 0, end: int | None = None) -> Iterator[tuple[str, str, int]]:
    """Yield prefix and target of each line from byte `start` on, and the number of bytes up to its end.

    Args:
        path: the file.
        start: the byte at which a line starts.
        end: the byte at which a line ends; without it, all lines are read.

    Raises:
        InputError: a line is not an object whose prefix and target are texts that are not empty; the message names it.
    """
    with BufferedReader(open_source(path)) as file:  # type: ignore[type-var]
        file.seek(start)
        while (end is None or file.tell() < end) and (line := file.readline()):
            match _parse(line):
                case {"prefix": str(prefix), "target": str(target)} if prefix and target:
                    yield prefix, target, len(line)
                case _:
                    raise InputError(
                        f"{path}, line {line_number(path, file.tell())}: not a pair; each line must be UTF-8 JSON "
                        'such as {"prefix": "some text", "target": "what follows"}, neither of them empty'
                    )


def _parse(line: bytes) -> object:
    try:
        return parse_json(line.decode("utf-8-sig"), "the line")
    except ValueError:
        return None


def line_number(path: str, end: int) -> int:
    """Return the number of the line that ends at byte `end`, or that holds the file's last byte there."""
    number = 1
    with open_source(path) as file:
        left = end - 1
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            number += data.count(b"\n")
            left -= len(data)
    return number
