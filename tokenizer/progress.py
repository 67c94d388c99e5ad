"""A progress bar on stderr, or none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int], object]  # its argument: the amount done since the last call


@contextmanager
def progress_bar(shown: bool, what: str, total: int, unit: str) -> Iterator[Progress]:
    """Give a function to call with the amount done since the last call."""
    if not shown:
        yield lambda amount: None
        return
    from tqdm import tqdm  # imported here, as most uses of the tokenizer show no bar

    with tqdm(total=total, desc=what, unit=unit, unit_scale=True) as bar:
        yield bar.update
