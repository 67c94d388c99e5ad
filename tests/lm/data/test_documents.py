"""Where documents start, and which token files have documents to pack."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import ModelConfig, TrainConfig
from lm.data.documents import document_starts, last_document
from lm.data.sources import add_token_ids, evaluation_batches, open_source
from tests.lm.text.models import BYTES, TOKENIZER
from tokenizer import InputError, Tokenizer

END, T = 256, 8
PACKED = TrainConfig(ModelConfig(300, T, 16, 1, 2), batch_size=4, documents="packed", end_token=END)
JOINED = TrainConfig(PACKED.model, batch_size=4)
IDS = np.random.default_rng(0).choice([1, 2, 3, END], 100).astype(np.uint16)


@given(st.lists(st.sampled_from([1, 2, END]), min_size=2 * 3 * 5, max_size=2 * 3 * 5))
def test_a_document_starts_at_its_end_token(ids: list[int]) -> None:
    windows = np.array(ids, np.int32).reshape(2, 3, 5)
    starts = document_starts(windows, PACKED)
    assert starts is not None
    assert starts.dtype == np.int32
    for window, row in zip(windows.reshape(-1, 5), starts.reshape(-1, 5), strict=True):
        start = 0
        for t, token in enumerate(window):
            start = t if token == END else start
            assert row[t] == start
    assert document_starts(windows, JOINED) is None


@given(st.lists(st.sampled_from([1, 2, END]), max_size=9))
def test_the_last_document_begins_with_the_last_end_token(ids: list[int]) -> None:
    last = last_document(ids, PACKED)
    assert ids[len(ids) - len(last) :] == last
    assert END not in last[1:]
    assert last == ids or last[0] == END
    assert last_document(ids, JOINED) == ids


def test_batches_have_starts_if_documents_are_packed(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", IDS)
    for config in (PACKED, JOINED):
        source = open_source(config, [tmp_path / "tokens.npy"], ())
        batches = [source.batch(config, 0), *evaluation_batches(IDS, config)]
        assert len(batches) > 3
        for batch in batches:
            expected = document_starts(batch.inputs, config)
            assert (batch.starts is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(batch.model_inputs["starts_BT"], expected)


def test_the_end_token_is_the_given_one_or_the_tokenizers(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", IDS)
    np.save(tmp_path / "none.npy", IDS[IDS != END])
    open_ = TrainConfig(PACKED.model, documents="packed")
    source = open_source(open_, [tmp_path / "none.npy", tmp_path / "tokens.npy"], ())
    assert add_token_ids(open_, TOKENIZER, source).end_token == END
    assert add_token_ids(PACKED, None, source) == PACKED
    assert add_token_ids(JOINED, None, source) == JOINED
    with pytest.raises(InputError, match=r"none.npy: names no tokenizer, .* or give --end-token ID"):
        add_token_ids(open_, None, source)
    with pytest.raises(
        InputError, match=r"none.npy: its tokenizer has no <\|endoftext\|>, .* --end-token ID"
    ):
        add_token_ids(open_, Tokenizer(BYTES, []), source)
    none = open_source(open_, [tmp_path / "none.npy"], ())
    with pytest.raises(
        InputError, match=r"none.npy: has no end token 256, so there are no documents to pack"
    ):
        add_token_ids(open_, TOKENIZER, none)
