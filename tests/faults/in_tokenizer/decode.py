"""Faults in decoding: which ids have text, and the bytes of many tokens side by side."""

from typing import Any

from tests.faults.fault import fault, inside

TOKENIZER = "tests/tokenizer/test_tokenizer.py"


@fault(
    "an id beyond the vocabulary is its last token",
    "tokenizer.token_table.TokenTable._join",
    f"{TOKENIZER}::test_an_unknown_id_is_named_wherever_it_stands",
)
def _(original: Any) -> Any:
    return lambda self, ids: original(self, ids.clip(max=len(self._lengths) - 1))


@fault(
    "a long token has its first bytes only",
    "tokenizer.token_table.TokenTable._join",
    f"{TOKENIZER}::test_every_id_sequence_decodes",
)
def _(original: Any) -> Any:
    return inside(
        "tokenizer.token_table.runs", lambda runs: lambda starts, lengths: runs(starts, 0 * lengths), original
    )
