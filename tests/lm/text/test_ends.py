"""The tokens that begin and end a model's texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import ModelConfig, TrainConfig
from lm.text.complete import Completion, complete
from lm.text.ends import Ends, choose_ends, read_ends
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import lm
from tests.lm.text.models import BYTES, fake_steps
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


def test_ends_are_chosen_by_their_names() -> None:
    def stop(*special: str) -> tuple[int, ...]:
        return choose_ends(Tokenizer(BYTES, [], special)).stop

    assert stop("<|mask|>", "<|endoftext|>", "</s>") == (257,)
    assert stop("<s>", "</s>") == (257,)
    assert stop("<fin>", "<|mask|>") == (256,)
    assert stop("<a>", "<b>") == stop("<|mask|>") == stop() == ()
    assert choose_ends(None) == Ends()
    assert choose_ends(None, Ends(3, [4, 5])).stop == (4, 5)
    assert (Ends(3, 4).start, Ends(None, [4, 5]).start, Ends().start) == (3, 4, None)
    for bad in ("2", True, 2.0, -1, 9, [], [1, 9], [None], {"a": 1}):
        with pytest.raises(InputError, match=r"here: eos_token_id is .* 0 to 8"):
            read_ends({"eos_token_id": bad}, 9, "here")
    with pytest.raises(InputError, match="here: bos_token_id is"):
        read_ends({"bos_token_id": [1]}, 9, "here")


def test_each_end_stops_and_an_empty_prompt_begins_with_the_start() -> None:
    tokenizer = Tokenizer(BYTES, [], ["<s>", "</s>", "<|eot|>"])
    config = TrainConfig(ModelConfig(259, 8, 16, 1, 2))
    asked: list[list[int]] = []
    for ends, first in ((Ends(256, [257, 258]), 256), (Ends(None, [258, 257]), 258)):
        for end in (257, 258):
            logits = np.zeros((1, 259))
            logits[0, end] = 99.0
            prefill, step = fake_steps(logits)

            def noting(
                state: Any, ids: np.ndarray, lengths: np.ndarray, slots: int | None = None, *more: Any
            ) -> Any:
                asked.append(ids[0, : lengths[0]].tolist())
                return prefill(state, ids, lengths, slots, *more)  # noqa: B023

            completion = Completion("", tokenizer)
            sampling = SamplingConfig(max_new_tokens=3)
            for _ in complete((noting, step), None, config, tokenizer, [completion], sampling, ends=ends):
                pass
            assert (completion.text, completion.ending) == ("", "stop")
            assert asked.pop() == [first]


def test_a_prompt_begins_with_the_token_that_begins_the_models_texts() -> None:
    """An imported Llama 3 has that token in its ends. A run with only its tokenizer has not."""
    special = ["<s>", "</s>"]
    plain, begins = Tokenizer(BYTES, [], special), Tokenizer(BYTES, [], special, bos_token="<s>")
    imported, own = Ends(256, [257]), choose_ends(begins)
    assert own == choose_ends(plain) == Ends(257, 257)
    assert imported.begin([1], begins) == [256, 1]
    assert imported.begin([256, 1], begins) == [256, 256, 1]  # as transformers
    assert imported.begin([], begins) == [256]
    assert imported.begin([1], plain) == imported.begin([1]) == own.begin([1], begins) == [1]
    assert own.begin([], begins) == [257]


def test_pairs_end_with_the_end_of_their_tokenizer(tmp_path: Path) -> None:
    Tokenizer(BYTES, [], ["<s>", "</s>"]).save(tmp_path / "tokenizer")
    (tmp_path / "pairs.jsonl").write_text('{"prefix": "a", "target": "b"}\n')
    files = ("--input", tmp_path / "pairs.jsonl", "--out", tmp_path / "pairs.npy")
    assert lm("tokenizer", "encode", "--tokenizer", tmp_path / "tokenizer", *files) == 0
    assert np.load(tmp_path / "pairs.npy").tolist() == [97, 257, 98, 257]
