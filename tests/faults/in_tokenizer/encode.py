"""Faults in encoding: where pieces are cut, which words are one token, and what a cache keeps."""

from typing import Any

from tests.faults.fault import fault, inside

EDGES, CUTS = "tests/tokenizer/test_token_edges.py", "tests/tokenizer/test_cuts.py"
TOKENIZER = "tests/tokenizer/test_tokenizer.py"


@fault("a space before a word is a token of its own", "tokenizer.token_edges.SPACE", EDGES)
def _(original: Any) -> Any:
    return 0


@fault("letters behind any apostrophe continue it", "tokenizer.token_edges._mark_contractions", EDGES)
def _(original: Any) -> Any:
    """Look for contractions at all apostrophes, not only where a token starts."""

    def broken(code_points: Any, first: Any, starts: Any) -> None:
        everywhere = starts | (code_points == ord("'"))
        original(code_points, first, everywhere)
        at = (code_points == ord("'")).nonzero()[0]
        everywhere[at] = starts[at]
        starts[:] = everywhere

    return broken


@fault("characters beyond the BMP are cut like its last one", "tokenizer.token_edges._FIRST_OF_FOUR", EDGES)
def _(original: Any) -> Any:
    return 0x100


@fault("a run of characters lacks its last one", "tokenizer.characters.runs_of", CUTS, EDGES)
def _(original: Any) -> Any:
    return lambda kind: [(first, last - 1) for first, last in original(kind)]


@fault(
    "re cuts all text that is not ASCII", "tokenizer.pretokenize._BEYOND_BMP", f"{CUTS}::test_any_text_is_cut_as"
    "_the_whole_pattern_cuts_it",
)  # fmt: skip
def _(original: Any) -> Any:
    return lambda text: None


@fault(
    "the table of tokens holds those that merging does not give",
    "tokenizer.short_texts.unmerged",
    f"{TOKENIZER}::test_a_token_that_merging_does_not_give_stays_out_of_the_table",
)
def _(original: Any) -> Any:
    return lambda tokens, merger: {}


@fault(
    "the last byte of a word never merges",
    "tokenizer.short_texts.ShortEncoder._merge",
    f"{TOKENIZER}::test_equals_textbook",
)
def _(original: Any) -> Any:
    """Merge without the last byte, then put it back."""

    def broken(self: Any, data: bytes) -> list[int]:
        if len(data) < 3:
            return original(self, data)
        return [*original(self, data[:-1]), self._byte_ids[data[-1]]]

    return broken


@fault(
    "the cache of pieces grows without a bound",
    "tokenizer.short_texts.ShortEncoder._encode_piece",
    f"{TOKENIZER}::test_caches_are_bounded",
)
def _(original: Any) -> Any:
    return inside("tokenizer.short_texts.MAX_CACHED_PIECES", lambda _: 1 << 62, original)


@fault(
    "all texts of a batch but the first lose an id",
    "tokenizer.batches.BatchEncoder._encode_joined",
    f"{TOKENIZER}::test_a_batch_equals_its_texts",
)
def _(original: Any) -> Any:
    return lambda self, joined: [ids[: len(ids) - (i > 0)] for i, ids in enumerate(original(self, joined))]
