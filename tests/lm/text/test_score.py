"""The score of a text: each number is compared with one computed directly from the logits."""

import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.api import Model
from lm.budgets import BUDGETS, relative_error
from lm.data.batch import Batch
from lm.text.score import TextScore, score_text
from tests.lm.conftest import lm, refused
from tests.lm.run.test_train import BACKENDS
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]
T = 16  # the pipeline's context_length
TEXT = "Once upon a time, there was a girl named Zoë, and a frog that sang."
BUDGET = BUDGETS["float32"].model_forward


@pytest.fixture(scope="module")
def model(made_pipeline: Path) -> Model:
    return twinlm.load(made_pipeline / "torch")


def nats_after(model: Model, before: list[int], token: int) -> float:
    """Return -log p of a token after the tokens before it, from its definition."""
    logits = model.logits(before)[-1].astype(np.float64)
    return -math.log(np.exp(logits[token]) / np.exp(logits).sum())


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 5, None, T])
def test_every_token_sees_as_many_tokens_as_the_stride_promises(
    made_pipeline: Path, model: Model, backend: str, stride: int | None
) -> None:
    ours = twinlm.load(made_pipeline / "torch", backend).score(TEXT, stride)  # type: ignore[arg-type]
    sequence = model.tokenizer.encode("<|endoftext|>" + TEXT)
    assert len(sequence) - 1 > 2 * T
    stride = stride or T // 2
    assert ours.stride == stride
    # The first window that has a token as a target scores it. The last window ends with the text.
    starts = [min(start, len(sequence) - 1 - T) for start in range(0, len(sequence), stride)]
    expected = []
    for t in range(1, len(sequence)):
        start = next(start for start in starts if t <= start + T)
        expected.append(nats_after(model, sequence[start:t], sequence[t]))
        assert t - start >= min(t, T - stride)
    assert ours.token_ids == sequence[1:]
    assert relative_error(np.array(ours.nats, float), np.array(expected)) < BUDGET


def test_perplexity_and_bits_per_byte_follow_from_the_nats(model: Model) -> None:
    score = model.score(TEXT)
    assert b"".join(score.tokens).decode() == TEXT
    assert (score.num_predicted, score.num_bytes) == (len(score.token_ids), len(TEXT.encode()))
    total = sum(nats for nats in score.nats if nats is not None)
    assert score.total_nats == pytest.approx(total, rel=1e-12)
    assert score.perplexity == pytest.approx(math.exp(total / len(score.nats)), rel=1e-12)
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / len(TEXT.encode()), rel=1e-12)
    assert TextScore([1], [b"a"], [1e6], 1).perplexity == math.inf


def test_the_score_without_overlap_is_the_loss_of_lm_eval(model: Model) -> None:
    ids = model.tokenizer.encode(TEXT)[: 2 * T]
    sequence = np.array([model.tokenizer.special_tokens["<|endoftext|>"], *ids], np.int32)
    windows = Batch(sequence[:-1].reshape(1, 2, T), sequence[1:].reshape(1, 2, T))
    total, count, _ = model.backend.make_eval_step(model.config)(model.state, windows)
    score = model.score(model.tokenizer.decode(ids), stride=T)
    assert score.num_predicted == count
    assert relative_error(np.array(score.total_nats), np.array(total)) < BUDGET


def test_a_first_token_without_one_before_it_has_no_nats(model: Model) -> None:
    plain = Tokenizer(model.tokenizer.vocab, model.tokenizer.merges)
    logits = model.backend.make_logits(model.config)
    score = score_text(logits, model.state, model.config, plain, TEXT)
    ids = plain.encode(TEXT)
    assert score.token_ids == ids
    assert score.nats[0] is None
    assert (score.num_predicted, score.num_bytes) == (len(ids) - 1, len(TEXT.encode()) - len(score.tokens[0]))
    expected = [nats_after(model, ids[:t], ids[t]) for t in range(1, 8)]
    assert relative_error(np.array(score.nats[1:8], float), np.array(expected)) < BUDGET
    with pytest.raises(InputError, match="the text has 1 tokens, none of them with one before it"):
        score_text(logits, model.state, model.config, plain, "a")


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_only_a_decoder_gives_a_text_a_probability(model: Model, architecture: Any) -> None:
    other = dataclasses.replace(model.config.model, architecture=architecture)
    config = dataclasses.replace(model.config, model=other)
    with pytest.raises(InputError, match=f"architecture is {architecture}, and only a decoder"):
        dataclasses.replace(model, config=config).score(TEXT)
    if architecture == "encoder_decoder":
        with pytest.raises(InputError, match="no logits without a prefix"):
            dataclasses.replace(model, config=config).logits(TEXT)


def test_a_text_a_file_and_standard_input_have_one_score(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    expected = model.score(TEXT)
    for source in (TEXT, file, "-"):
        assert lm("score", "--checkpoint", made_pipeline / "torch", source, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["nats"] == expected.total_nats
        assert facts["perplexity"] == expected.perplexity
        assert facts["bits_per_byte"] == expected.bits_per_byte
        assert [t["nats"] for t in facts["tokens"]] == expected.nats
        assert [t["id"] for t in facts["tokens"]] == expected.token_ids


def test_surprising_tokens_are_coloured(
    made_pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = Tokenizer.load(made_pipeline / "tokenizer").encode("He\nran")
    tokens = [Tokenizer.load(made_pipeline / "tokenizer").vocab[i] for i in ids]
    # Probabilities just above and below one half, then just below a tenth, a hundredth and a thousandth.
    nats = [0.69, 0.7, 2.31, 4.61, 6.91][: len(ids)]
    assert len(nats) == len(ids)
    monkeypatch.setattr("lm.text.score.score_text", lambda *_: TextScore(ids, tokens, nats, 8))  # type: ignore[arg-type]
    assert lm("score", "--checkpoint", made_pipeline / "torch", "He\nran") == 0
    shown = capsys.readouterr().out
    parts = ["H", "\033[30;48;5;230me\033[0m", "\033[30;48;5;221m⏎\033[0m\n"]
    parts += ["\033[30;48;5;208mr\033[0m", "\033[30;48;5;196man\033[0m"]
    assert shown.startswith("".join(parts) + "\n")
    assert "nats            15.2200 in 5 tokens, 6 bytes" in shown
    assert f"perplexity      {math.exp(15.22 / 5):.3f}" in shown
    assert f"bits per byte   {15.22 / math.log(2) / 6:.4f}" in shown
    assert "most surprising 'an' 6.91, 'r' 4.61" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "the text has 0 tokens"),
        (["a", "--stride", 0], "stride is 0: give 1 to the model's context_length 16"),
        (["a", "--stride", 17], "stride is 17"),
        (["latin.txt"], "latin.txt: not UTF-8 at byte 1"),
        ([], "lm score"),
        (["a", "--checkpoint", "none"], "none: holds no checkpoint"),
    ],
)
def test_lm_score_refuses_wrong_arguments(
    made_pipeline: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.txt").write_bytes(b"a\xe9")
    assert re.search(message, refused(capsys, "score", "--checkpoint", made_pipeline / "torch", *words))
