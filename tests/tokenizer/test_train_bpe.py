"""Training equals the textbook's, in every way of running it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import CORNER_CASES, OWN_PATTERNS, TEXTS, texts_with_specials
from tests.tokenizer.words import pretokens, words_of
from tokenizer import InputError, Tokenizer, textbook, train_bpe
from tokenizer.counts import count_pieces
from tokenizer.merges import learn, token_array
from tokenizer.parallel import ranges
from tokenizer.pretokenize import Pretokenizer
from tokenizer.train_bpe import train

REPEATED = st.tuples(TEXTS, TEXTS, st.integers(1, 5)).map(lambda parts: parts[0] * parts[2] + parts[1])


def write(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_bytes(text.encode())
    return path


@given(text_specials=texts_with_specials(), extra=st.integers(0, 40))
@example(("aaaaaaa aaa aa", []), 20)
@example(("abab baba", []), 20)
def test_equals_textbook(
    tmp_path_factory: pytest.TempPathFactory, text_specials: tuple[str, list[str]], extra: int
) -> None:
    text, specials = text_specials
    path = write(tmp_path_factory, text or "x")
    vocab_size = 256 + len(specials) + extra
    expected = textbook.train(words_of(text or "x", specials), vocab_size, specials)
    assert train_bpe(path, vocab_size, specials) == expected


@pytest.mark.parametrize("pattern", OWN_PATTERNS)
@settings(max_examples=10)
@given(text=REPEATED.filter(bool), extra=st.integers(1, 20))
def test_own_pattern_equals_textbook(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, text: str, extra: int
) -> None:
    """Training, encoding and streaming agree for a pattern that leaves text between matches, or matches nothing."""
    path = write(tmp_path_factory, text)
    vocab, merges = train_bpe(path, 257 + extra, ["a a"], pattern=pattern)
    words = words_of(text, ["a a"], pattern)
    assert (vocab, merges) == textbook.train(words, 257 + extra, ["a a"])
    tokenizer = Tokenizer(vocab, merges, ["a a"], pattern)
    ids = textbook.encode(words, vocab, merges)
    assert tokenizer.encode(text) == list(tokenizer.encode_iterable(text)) == ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("few", [0, 2, 1000])
@given(first_threshold=st.sampled_from([1, 3, 1000]), text=REPEATED.filter(bool), extra=st.integers(0, 40))
def test_arrays_and_loops_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, few: int, first_threshold: int, text: str, extra: int
) -> None:
    """The trainer has a path for few and one for many occurrences, and leaves out rare pairs at first."""
    path = write(tmp_path_factory, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_array, "FEW", few)
        patch.setattr(learn, "first_threshold", lambda weight, num_merges: first_threshold)
        expected = textbook.train(textbook.pretokenize(text), 256 + extra)
        assert train_bpe(path, 256 + extra, []) == expected


@given(text_specials=texts_with_specials(), block_size=st.integers(1, 50), range_size=st.integers(1, 50))
def test_counts_do_not_depend_on_cuts(
    tmp_path_factory: pytest.TempPathFactory,
    text_specials: tuple[str, list[str]],
    block_size: int,
    range_size: int,
) -> None:
    text, specials = text_specials
    path = write(tmp_path_factory, text)
    done: list[int] = []
    pieces = count_pieces([str(path)], Pretokenizer("gpt2", specials), 1, done.append, range_size, block_size)
    assert sum(done) == path.stat().st_size  # what a progress bar shows
    data, counted = pieces.data.tobytes().decode(), {}
    start = 0
    for length, count in zip(pieces.lengths.tolist(), pieces.counts.tolist(), strict=True):
        counted[pieces.data[start : start + length].tobytes().decode()] = count
        start += length
    expected = dict.fromkeys(specials, 0)
    for token in pretokens(text, specials):
        expected[token] = expected.get(token, 0) + 1
    assert counted == expected
    assert len(data) == sum(map(len, expected))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of a few hundred kilobytes, in which all kinds of text occur."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    words = [
        f"{stem}{end}"
        for stem in ("walk", "talk", "jump", "Zoë's", "día", "走")
        for end in ("", "ing", "ed", "s")
    ]
    text = " ".join(words[i * i % 23] + ("\n<|endoftext|>\n" if i % 50 == 0 else "") for i in range(40_000))
    path.write_text(text + "".join(CORNER_CASES))
    return path


def test_equals_serial_in_any_number_of_processes(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = train_bpe(corpus, 400, ["<|endoftext|>"], num_workers=1)
    monkeypatch.setattr(ranges, "SMALL", 0)
    for num_workers in (2, 3):
        assert train_bpe(corpus, 400, ["<|endoftext|>"], num_workers=num_workers) == serial


def test_equals_serial_for_other_patterns(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL", 0)
    for pattern in ("cl100k", r"\w+|\s", r"[^ ]*", [r"\p{N}", "gpt2"]):
        serial = train_bpe(corpus, 300, ["<|endoftext|>"], num_workers=1, pattern=pattern)
        assert train_bpe(corpus, 300, ["<|endoftext|>"], num_workers=2, pattern=pattern) == serial


def test_does_not_depend_on_hash_seed(corpus: Path) -> None:
    code = "import sys; from tokenizer import train_bpe; print(train_bpe(sys.argv[1], 350, [])[1])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(corpus)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


def test_statistics(corpus: Path) -> None:
    result = train(corpus, 400, ["<|endoftext|>"])
    tokenizer = Tokenizer(result.vocab, result.merges, ["<|endoftext|>"])
    text = corpus.read_bytes().decode()
    assert result.num_tokens == len(tokenizer.encode(text))
    assert result.num_bytes == len(text.encode())
    assert set(result.seconds) == {"count", "merge"}
    assert result.peak_memory > 10_000_000


@pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000, "\n" * 200_000, "'" * 200_000, "👩" * 50_000])
def test_monotonous_text_takes_no_time(tmp_path: Path, text: str) -> None:
    """One huge pre-token: quadratic time would be hours. A small one is trained by the oracle, too."""
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    small = tmp_path / "small.txt"
    small.write_text(text[:256])
    vocab, merges = train_bpe(path, 270, [])
    assert len(vocab) == 270
    expected = textbook.train(textbook.pretokenize(text[:256]), 261)[1]
    assert merges[:5] == train_bpe(small, 261, [])[1] == expected


def test_real_text(test_data: Path) -> None:
    path = test_data / "corpora/tinyshakespeare.txt"
    vocab, merges = train_bpe(path, 270, ["<|endoftext|>"])
    text = path.read_text()
    assert (vocab, merges) == textbook.train(textbook.pretokenize(text), 270, ["<|endoftext|>"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "is empty"),
        (b"good\xff", {}, "not UTF-8 at byte 4"),
        ("é ".encode() * 100_000 + b"\xe4 x", {}, "not UTF-8 at byte 300000"),
        (b"text \xc3", {}, "not UTF-8 at byte 5"),
        (b"text", {"vocab_size": 256}, "257"),
        (b"text", {"special_tokens": [""]}, "empty string"),
        (b"text", {"special_tokens": ["\ud800"]}, "lone surrogate"),
        (b"text", {"pattern": "("}, "pattern"),
        (b"text", {"pattern": "(" * 5000}, "pattern"),
        (b"text", {"pattern": "a{1,99999999999999999999}"}, "pattern"),
        (b"text", {"pattern": "\ud800"}, "lone surrogate"),
        (b"text", {"num_workers": 0}, "num_workers"),
    ],
)
def test_bad_input(tmp_path: Path, content: bytes, options: dict[str, object], message: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    arguments: dict[str, object] = {"vocab_size": 300, "special_tokens": ["<|endoftext|>"]} | options
    with pytest.raises(InputError, match=message) as error:
        train_bpe(path, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        train_bpe(tmp_path / "none.txt", 300, [])


def test_bad_utf8_in_a_worker(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL", 0)
    path = tmp_path / "bad.txt"
    path.write_bytes(corpus.read_bytes() + b"\xff")
    with pytest.raises(InputError, match=f"not UTF-8 at byte {corpus.stat().st_size}"):
        train_bpe(path, 300, [], num_workers=2)
