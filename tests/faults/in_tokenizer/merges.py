"""Faults in merging words that lie in one flat array."""

from typing import Any

from tests.faults.fault import fault

LEARN, APPLY = "tests/tokenizer/test_train_bpe.py", "tests/tokenizer/test_tokenizer.py::test_long_pieces"


@fault(
    "pairs with what stands before a merge are lost",
    "tokenizer.merges.token_array.TokenArray.merge",
    LEARN,
    APPLY,
)
def _(original: Any) -> Any:
    """Return the new pairs (new, other) only. Their symbols are positive."""

    def broken(*args: Any) -> Any:
        others, at = original(*args)
        if isinstance(others, list):
            kept = [(other, place) for other, place in zip(others, at, strict=True) if other > 0]
            return [other for other, _ in kept], [place for _, place in kept]
        return others[others > 0], at[others > 0]

    return broken
