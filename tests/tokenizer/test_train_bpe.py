"""Training equals the naive trainer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer import naive
from tokenizer import InputError, train_bpe

SPECIAL_SETS = [[], ["<|endoftext|>"], ["<|", "<|end|>", "ab"], [" ", "\n\n", "é"], ["a", "aa", "aab"]]
TEXTS = st.one_of(
    st.text(alphabet="ab", max_size=60),
    st.text(alphabet="ab c'ds<|end>\n\té\u3000.1", max_size=80),
    st.text(max_size=60).filter(
        lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text
    ),
)


@given(text=TEXTS.filter(bool), specials=st.sampled_from(SPECIAL_SETS), extra=st.integers(0, 30))
def test_equals_naive(
    tmp_path_factory: pytest.TempPathFactory, text: str, specials: list[str], extra: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_bytes(text.encode())
    vocab_size = 256 + len(specials) + extra
    assert train_bpe(path, vocab_size, specials) == naive.train(text, vocab_size, specials)


@pytest.mark.parametrize(
    ("content", "vocab_size", "message"),
    [
        (b"", 300, "empty"),
        (b"good\xff", 300, "byte 4"),
        (b"text", 256, "257"),
    ],
)
def test_bad_input(tmp_path: Path, content: bytes, vocab_size: int, message: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        train_bpe(path, vocab_size, ["<|endoftext|>"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        train_bpe(tmp_path / "none.txt", 300, [])
