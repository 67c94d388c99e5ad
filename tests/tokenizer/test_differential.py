"""Random texts get the ids of tiktoken, for several vocabularies. `python -m tests.tokenizer.differential` has more."""

from pathlib import Path

import pytest

from bench.web import write_web
from tests.tokenizer.differential import different, texts, trained
from tokenizer import END_OF_TEXT, Tokenizer
from tokenizer.pretokenize import PATTERNS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_web(path, 300_000)
    return path


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [300, 3000])
def test_own_vocabularies(corpus: Path, pattern: str, size: int) -> None:
    tokenizer = trained(corpus, size, pattern)
    assert tokenizer.vocab_size == size
    assert different(tokenizer, list(texts(corpus.read_text("utf-8"), 1500, size))) == []


def test_gpt2s_vocabulary(corpus: Path, test_data: Path) -> None:
    folder = test_data / "gpt2"
    tokenizer = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt", [END_OF_TEXT])
    assert different(tokenizer, list(texts(corpus.read_text("utf-8"), 3000))) == []
