"""Files of pairs: encode them, open them, draw from them."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import ModelConfig, TrainConfig
from lm.corpora.pair_tasks import reversed_words, story_pairs
from lm.corpora.stories import iter_stories
from lm.data.pairs import (
    PairCorpus,
    open_pair_corpus,
    open_pairs,
    pair_batch,
    pair_eval_batches,
    pairs_fingerprint,
)
from tests.lm.conftest import lm, refused
from tokenizer import InputError, Tokenizer
from tokenizer.encode_pairs import encode_pairs, offsets_path

Capture = pytest.CaptureFixture[str]
END = "<|endoftext|>"
TOKENIZER = Tokenizer({0: END.encode()} | {i + 1: bytes([i]) for i in range(256)}, [], [END])
MODEL = ModelConfig(
    vocab_size=257,
    context_length=8,
    d_model=8,
    num_layers=1,
    num_heads=2,
    architecture="encoder_decoder",
    prefix_length=6,
)
CONFIG = TrainConfig(MODEL, batch_size=4)
PAIRS = [("abc", "cba"), ("é", "\n"), ("123456", "7654321"), ("x", "y"), ("p q", "r")]


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """Write pairs as JSON lines."""
    path.write_text("".join(json.dumps({"prefix": p, "target": t}) + "\n" for p, t in pairs))
    return path


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """PAIRS, encoded."""
    encode_pairs(write(tmp_path / "pairs.jsonl", PAIRS), TOKENIZER, tmp_path / "pairs.npy", END)
    return tmp_path / "pairs.npy"


def test_encoded_pairs_are_read_back(encoded: Path) -> None:
    pairs = open_pairs(encoded, MODEL)
    assert isinstance(pairs.tokens, np.memmap)
    assert isinstance(pairs.offsets, np.memmap)
    read = [tuple(map(TOKENIZER.decode, pairs[i])) for i in range(len(pairs))]
    assert read == [(p, END + t + END) for p, t in PAIRS]
    # The file is also a token file.
    assert TOKENIZER.decode(np.load(encoded)) == "".join(p + END + t + END for p, t in PAIRS)


def test_the_decoder_reads_an_end_token_and_the_target_and_predicts_the_target_and_an_end_token(
    encoded: Path,
) -> None:
    pairs = open_pairs(encoded, MODEL)
    batch = pair_batch([pairs[i] for i in range(4)], 6, MODEL, micro_batches=3)
    assert batch.inputs.shape == batch.targets.shape == (3, 2, 8)
    assert batch.prefix is not None
    assert batch.num_tokens is not None
    assert batch.loss_mask is not None
    assert batch.prefix.shape == (3, 2, 6)
    assert batch.num_tokens.ravel().tolist() == [3, 2, 6, 1, 0, 0]
    rows = zip(
        *(a.reshape(6, -1) for a in (batch.prefix, batch.inputs, batch.targets, batch.loss_mask)), strict=True
    )
    for (prefix, target), n, (before, inputs, targets, mask) in zip(PAIRS, [3, 2, 6, 1], rows, strict=False):
        assert TOKENIZER.decode(before[:n]) == prefix
        assert TOKENIZER.decode(inputs[mask]) == END + target
        assert TOKENIZER.decode(targets[mask]) == target + END
        assert not before[n:].any()
        assert not mask[len(target) + 1 :].any()
    assert batch.num_targets == sum(len(t) + 1 for _, t in PAIRS[:4])


@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40))
def test_a_batch_is_a_function_of_seed_and_step(corpus: PairCorpus, seed: int, step: int) -> None:
    config = replace(CONFIG, seed=seed)
    batch = corpus.batch(config, step)
    split = corpus.batch(replace(config, grad_accumulation=2), step)
    for name in ("inputs", "targets", "loss_mask", "num_tokens", "prefix"):
        whole, parts = getattr(batch, name), getattr(split, name)
        np.testing.assert_array_equal(whole.reshape(parts.shape), parts)
    assert corpus.places(config, step) == corpus.places(config, step)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PairCorpus:
    """A corpus of two files, 900 pairs and 100."""
    folder = tmp_path_factory.mktemp("pairs")
    words = iter(reversed_words(0, 3, 6))
    for name, count in (("a", 900), ("b", 100)):
        some = list(itertools.islice(words, count))
        encode_pairs(write(folder / f"{name}.jsonl", some), TOKENIZER, folder / f"{name}.npy", END)
    opened, paths = open_pair_corpus([folder / "*.npy"], (), MODEL)
    assert [path.name for path in paths] == ["a.npy", "b.npy"]
    return opened


def test_all_pairs_of_all_files_are_drawn_equally_often(corpus: PairCorpus) -> None:
    places = corpus.places(replace(CONFIG, batch_size=20_000), 0)
    counts = np.bincount([900 * i + k for i, k in places], minlength=1000)
    assert len(counts) == 1000
    # Chi-square with 999 degrees of freedom: 1144 is the 99.9th percentile.
    assert ((counts - 20) ** 2 / 20).sum() < 1144


def test_evaluation_reads_each_pair_once(corpus: PairCorpus) -> None:
    for pairs, batch_size in ((corpus.files[1], 7), (corpus.files[1].take(5), 2)):
        batches = list(pair_eval_batches(pairs, replace(CONFIG, batch_size=batch_size)))
        assert {b.inputs.shape for b in batches} == {(1, batch_size, 8)}
        targets = np.concatenate([b.targets[b.loss_mask] for b in batches])
        np.testing.assert_array_equal(targets, np.concatenate([pairs[i][1][1:] for i in range(len(pairs))]))
        prefixes = np.concatenate([b.prefix[b.prefix > 0] for b in batches if b.prefix is not None])
        np.testing.assert_array_equal(prefixes, np.concatenate([pairs[i][0] for i in range(len(pairs))]))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not JSON",
        b"[1, 2]",
        b'{"prefix": "a"}',
        b'{"prefix": "a", "target": 5}',
        b'{"prefix": "", "target": "a"}',
        b'{"prefix": "a", "target": ""}',
        b'{"prefix": "a", "target": "\xff"}',
        b'{"prefix": "a", "target": "\\ud800"}',
        b"[" * 100_000,
    ],
    ids=[
        "blank",
        "text",
        "list",
        "no target",
        "number",
        "no prefix",
        "empty",
        "latin 1",
        "surrogate",
        "deep",
    ],
)
def test_a_line_that_is_not_a_pair_is_named_and_no_file_is_left(tmp_path: Path, line: bytes) -> None:
    good = b'{"prefix": "a", "target": "b", "id": 7}\n'
    (tmp_path / "pairs.jsonl").write_bytes(good * 2 + line + b"\n" + good)
    with pytest.raises(InputError, match=r"pairs\.jsonl, line 3: "):
        encode_pairs(tmp_path / "pairs.jsonl", TOKENIZER, tmp_path / "pairs.npy", END)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_last_line_without_a_newline_is_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(
        b'\xef\xbb\xbf{"prefix": "a", "target": "b"}\r\n{"prefix":"c","target":"d"}'
    )
    assert encode_pairs(tmp_path / "pairs.jsonl", TOKENIZER, tmp_path / "pairs.npy", END).num_pairs == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prefix_length": 5},
            "the longest prefix takes 6 tokens, and model.prefix_length is 5; set it to 6",
        ),
        (
            {"context_length": 7},
            "the longest target takes 8 tokens, and model.context_length is 7; set it to 8",
        ),
        ({"vocab_size": 190}, "token id 196 is outside 0 .. 189"),
    ],
)
def test_pairs_that_do_not_fit_the_model_are_refused(
    encoded: Path, change: dict[str, int], message: str
) -> None:
    open_pairs(encoded, MODEL)
    with pytest.raises(InputError, match=message):
        open_pairs(encoded, replace(MODEL, **change))  # type: ignore[arg-type]


def test_files_that_are_not_pairs_are_refused(encoded: Path) -> None:
    with pytest.raises(InputError, match="lm tokenizer encode"):
        open_pairs(encoded.with_suffix(".jsonl"), MODEL)
    bounds = np.load(offsets_path(encoded))
    others = [
        bounds[:-1],
        bounds[:-2],
        bounds[1:],
        bounds[:1],
        bounds.astype(float),
        bounds[None],
        bounds[::-1],
    ]
    falling = bounds.copy()
    falling[[2, 3]] = falling[[3, 2]]
    for other in (*others, falling, np.array([{}])):
        with offsets_path(encoded).open("wb") as file:
            np.save(file, other, allow_pickle=True)
        with pytest.raises(InputError, match="encode the pairs again"):
            open_pairs(encoded, MODEL)
    for content in (b"", b"text", b"PK\x05\x06" + bytes(18)):
        offsets_path(encoded).write_bytes(content)
        with pytest.raises(InputError, match="encode the pairs again"):
            open_pairs(encoded, MODEL)
    offsets_path(encoded).unlink()
    with pytest.raises(InputError, match="not a file of encoded pairs"):
        open_pairs(encoded, MODEL)
    with pytest.raises(FileNotFoundError):
        open_pairs(encoded.with_name("none.npy"), MODEL)


def test_the_fingerprint_depends_on_ids_and_bounds(tmp_path: Path) -> None:
    prints = set()
    for i, pairs in enumerate([[("ab", "c")], [("ab", "d")], [("a", "bc")]]):
        encode_pairs(write(tmp_path / f"{i}.jsonl", pairs), TOKENIZER, tmp_path / f"{i}.npy", END)
        prints.add(pairs_fingerprint(tmp_path / f"{i}.npy"))
    np.save(tmp_path / "bounds.npy", np.array([0, 1, 5]))
    (tmp_path / "bounds.npy").rename(offsets_path(tmp_path / "0.npy"))
    prints.add(pairs_fingerprint(tmp_path / "0.npy"))
    assert len(prints) == 4


def test_a_story_is_cut_behind_its_first_sentence() -> None:
    for (prefix, rest), (story, _) in itertools.islice(
        zip(story_pairs(3), iter_stories(3), strict=True), 500
    ):
        assert prefix + rest == story
        assert prefix[-1] in '.!?"”'
        assert rest[0].isspace()
        assert not any(end in prefix for end in (". ", "! ", "? ", "\n"))


def read(path: Path) -> list[tuple[str, str]]:
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    return [(pair["prefix"], pair["target"]) for pair in pairs]


@pytest.mark.parametrize("task", ["reverse", "stories"])
def test_no_pair_is_both_trained_on_and_held_out(tmp_path: Path, task: str) -> None:
    count = 2000 if task == "reverse" else 300
    lengths = ("--word-lengths", 1, 3)
    assert lm("pairs", task, "--out", tmp_path / "train", "--count", count, *lengths) == 0
    assert lm("pairs", task, "--out", tmp_path / "val", "--count", count // 10, "--held-out", *lengths) == 0
    train, val = read(tmp_path / "train"), read(tmp_path / "val")
    assert (len(train), len(val)) == (count, count // 10)
    # The seed is the same, and of so short words most come again and again.
    assert not set(train) & set(val)
    if task == "reverse":
        assert all(target == prefix[::-1] for prefix, target in train + val)
        assert len(set(train)) < count
        assert np.bincount([len(prefix) for prefix, _ in train])[1:] == pytest.approx(count / 3, rel=0.15)
    assert lm("pairs", task, "--out", tmp_path / "again", "--count", count, *lengths) == 0
    assert read(tmp_path / "again") == train
    assert lm("pairs", task, "--out", tmp_path / "other", "--count", count, "--seed", 1, *lengths) == 0
    assert read(tmp_path / "other") != train


def test_the_command(tmp_path: Path, capsys: Capture) -> None:
    assert lm("pairs", "reverse", "--out", tmp_path / "words.jsonl", "--count", 50) == 0
    vocabulary = ("--vocab-size", 257, "--out", tmp_path / "bytes")
    assert lm("tokenizer", "train", "--input", tmp_path / "words.jsonl", *vocabulary) == 0
    encode = ("tokenizer", "encode", "--tokenizer", tmp_path / "bytes", "--input", tmp_path / "words.jsonl")
    capsys.readouterr()
    assert lm(*encode, "--out", tmp_path / "words.npy") == 0
    assert "50 pairs" in capsys.readouterr().out
    facts = json.loads((tmp_path / "words.npy.json").read_text())
    assert facts["tokenizer_sha256"] == Tokenizer.load(tmp_path / "bytes").sha256
    assert facts["pairs"] == 50
    assert "words.npy exists" in refused(capsys, *encode, "--out", tmp_path / "words.npy")
    (tmp_path / "words.jsonl").write_text('{"prefix": "a"}\n')
    assert "words.jsonl, line 1: not a pair" in refused(capsys, *encode, "--out", tmp_path / "more.npy")
    for flags, message in (
        (("--count", 0), "count is 0"),
        (("--seed", -1), "seed is -1"),
        (("--word-lengths", 5, 4), "the word lengths are 5 4"),
        (("--out", tmp_path / "words.jsonl"), "words.jsonl exists already"),
    ):
        assert message in refused(capsys, "pairs", "reverse", "--out", tmp_path / "new", *flags)
    bare = Tokenizer({i: bytes([i]) for i in range(256)}, [], [])
    bare.save(tmp_path / "bare")
    encode_bare = (
        "tokenizer",
        "encode",
        "--tokenizer",
        tmp_path / "bare",
        "--input",
        tmp_path / "words.jsonl",
    )
    assert "no special token <|endoftext|>" in refused(capsys, *encode_bare, "--out", tmp_path / "more.npy")
