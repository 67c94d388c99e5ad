"""Encoding equals the naive encoder, tiktoken and tokenizers; decoding gives the text back."""

from pathlib import Path

import pytest
import tiktoken

from tokenizer import InputError, Tokenizer
from tokenizer.pretokenize import PATTERNS


def test_gpt2_files_encode_as_tiktoken(test_data: Path) -> None:
    tokenizer = Tokenizer.from_files(
        test_data / "gpt2/vocab.json", test_data / "gpt2/merges.txt", ["<|endoftext|>"]
    )
    ranks = {token: i for i, token in tokenizer.vocab.items() if i != 50256}
    reference = tiktoken.Encoding(
        "gpt2", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    text = (test_data / "corpora/tinyshakespeare.txt").read_text() + "<|endoftext|> \u3000é 's <|endoftext|>"
    assert tokenizer.encode(text) == reference.encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_save_and_load(tmp_path: Path) -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"he"}
    tokenizer = Tokenizer(vocab, [(b"h", b"e")], ["<a b>", "é"])
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.vocab == tokenizer.vocab
    assert loaded.merges == tokenizer.merges
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.sha256 == tokenizer.sha256


def test_lone_surrogate_is_an_error() -> None:
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("a\ud800")
