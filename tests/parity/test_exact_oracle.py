"""The oracle of texts and token ids against the tokenizer and the batches of this project."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm.data.windows import get_batch
from parity.oracle import bpe, data
from tokenizer import Tokenizer, train_bpe

SPECIALS = ["<|a|>", "<|a|><|b|>"]
PARTS = [*SPECIALS, *"aabc é\n\n  19'", "'ll", "\U0001f642", "\r\n", "hug hug", "low low"]
texts = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)


@settings(max_examples=60)
@given(text=texts, merges=st.integers(0, 20), specials=st.sampled_from([[], SPECIALS[:1], SPECIALS]))
@example("aaaa aaa abab", 20, [])
def test_texts(tmp_path_factory: pytest.TempPathFactory, text: str, merges: int, specials: list[str]) -> None:
    """Training, encoding and decoding agree with the tokenizer, which has no code in common with the oracle."""
    file, vocab_size = tmp_path_factory.getbasetemp() / "text.txt", 256 + len(specials) + merges
    file.write_bytes((text or "x").encode())
    vocab, learned = bpe.train_bpe(text or "x", vocab_size, specials)
    expected = train_bpe(file, vocab_size, specials)
    assert learned == expected[1]
    assert set(vocab.values()) == set(expected[0].values())
    tokenizer = Tokenizer(vocab, learned, specials)
    ids = tokenizer.encode(text)
    assert bpe.encode_text(text, vocab, learned, specials) == ids
    assert list(bpe.encode_iterable([text[:7], text[7:]], vocab, learned, specials)) == ids
    for some in (ids, ids[:3], ids[1:], ids[::-1]):
        assert bpe.decode_ids(some, vocab) == tokenizer.decode(some)


def test_a_special_token_that_the_vocabulary_lacks_is_added() -> None:
    vocab = {i: bytes([i]) for i in range(256)}
    assert bpe.encode_text("a<|a|>", vocab, [], ["<|a|>"]) == [97, 256]


def test_batches_are_drawn_from_all_places() -> None:
    dataset, rng = np.arange(100, 107, dtype=np.uint16), np.random.default_rng(0)
    ours, oracles = set[int](), set[int]()
    for step in range(30):
        x, y = data.get_batch(dataset, 3, 4, "cpu", rng)
        assert x.dtype == y.dtype == np.int64
        for row, targets in zip(x, y, strict=True):
            assert list(row) == list(range(row[0], row[0] + 4))
            assert list(targets) == list(row + 1)
        oracles |= set(x[:, 0])
        ours |= set(get_batch(dataset, 0, step, 3, 4).inputs[0, :, 0])
    assert oracles == ours == {100, 101, 102}
