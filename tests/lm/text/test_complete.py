"""Completions: whole characters, stop texts, reasons to end; and samples during training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lm as twinlm
from lm.config import ModelConfig, TrainConfig
from lm.run import checkpoint
from lm.text.complete import Completion, complete
from lm.text.generate import Drawn
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import lm, refused, train_command
from tests.lm.text.models import TOKENIZER, fake_steps
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


def draw(token: int) -> Drawn:
    return Drawn(0, token, 0.0, None)


@given(st.binary(max_size=20))
def test_text_is_given_out_in_whole_characters(data: bytes) -> None:
    completion = Completion("", TOKENIZER)
    given_out = [completion.add(draw(byte)) for byte in data]
    given_out.append(completion.finish("length"))
    assert "".join(given_out) == completion.text == data.decode("utf-8", "replace")
    for n, text in enumerate(given_out[:-1]):
        # No later byte can change the text that was given out so far.
        certain = len("".join(given_out[: n + 1]))
        assert all(
            (data[: n + 1] + more).decode("utf-8", "replace")[:certain] == completion.text[:certain]
            for more in (b"", b"a", b"\x80", data[n + 1 :])
        )
        assert text == "" or text in completion.text


@given(st.text("abé", max_size=12), st.lists(st.text("abé", min_size=1, max_size=3), max_size=3))
def test_a_text_ends_before_the_first_stop_text(text: str, stop: list[str]) -> None:
    completion = Completion("", TOKENIZER, tuple(stop))
    given_out = ""
    for byte in text.encode():
        given_out += completion.add(draw(byte))
        assert not any(s in given_out for s in stop)
        if completion.ending:
            break
    given_out += completion.finish("length")
    # A stop text is found at the first end of any; the text is cut at the first start of those found.
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(s) for s in stop)]
    if not ends:
        assert (given_out, completion.ending) == (text, "length")
    else:
        cut = min(text[: ends[0]].find(s) for s in stop if s in text[: ends[0]])
        assert (given_out, completion.ending) == (text[:cut], "stop")


def test_each_completion_ends_for_its_own_reason() -> None:
    logits = np.zeros((2, 257))
    logits[0, ord("x")] = logits[1, TOKENIZER.special_tokens["<|endoftext|>"]] = 50.0
    config = TrainConfig(ModelConfig(257, 8, 16, 1, 2))
    for stop, texts, reasons in (
        ((), ["xxx", ""], ["length", "stop"]),
        (("xx",), ["", ""], ["stop", "stop"]),
    ):
        sampling = SamplingConfig(max_new_tokens=3, stop=stop)
        completions = [Completion(prompt, TOKENIZER, stop) for prompt in ("a", "")]
        pieces = list(complete(fake_steps(logits), None, config, TOKENIZER, completions, sampling))
        for completion, text, reason in zip(completions, texts, reasons, strict=True):
            assert "".join(piece for c, piece in pieces if c is completion) == completion.text == text
            assert completion.ending == reason


def test_a_failed_sample_does_not_end_training(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [InputError("no\nluck"), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED")]

    def broken(_: Any) -> str:
        raise errors.pop(0)

    monkeypatch.setattr("lm.run.opening.make_sampler", lambda *_: broken)
    command = train_command(pipeline, "torch", pipeline / "new", "--sample-every", 2)
    assert lm(*command) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no sample" in line]
    assert [line.split("sample after ")[1] for line in warnings] == [
        "step 2: no luck",
        "step 4: MemoryError",
        "step 6: RESOURCE_EXHAUSTED",
    ]
    assert checkpoint.latest(pipeline / "new").name == "step-00000006"


def test_a_sample_that_cannot_begin_is_refused_before_training(pipeline: Path, capsys: Capture) -> None:
    plain = Tokenizer.load(pipeline / "tokenizer")
    Tokenizer(plain.vocab, plain.merges).save(pipeline / "tokenizer")
    for name in ("train", "val"):
        files = ("--input", pipeline / f"{name}.txt", "--out", pipeline / f"{name}.plain.npy")
        assert lm("tokenizer", "encode", "--tokenizer", pipeline / "tokenizer", *files) == 0
    data = ("--train", pipeline / "train.plain.npy", "--val", pipeline / "val.plain.npy")
    command = [
        "train",
        "--backend",
        "torch",
        "--config",
        pipeline / "tiny.toml",
        *data,
        "--out",
        pipeline / "n",
    ]
    line = refused(capsys, *command, "--sample-every", 3)
    assert "no token that begins or ends a text; give a prompt" in line
    assert lm(*command, "--sample-every", 3, "--sample-prompt", "Once", "--steps", 3) == 0
    # A trained model refuses too. It must not read the letters of <|endoftext|> instead.
    assert "no token that begins or ends" in refused(capsys, "generate", "--checkpoint", pipeline / "n")
    with pytest.raises(InputError, match="no token that begins or ends"):
        twinlm.load(pipeline / "n").generate()
    assert "is not one of the model's special tokens: it has none" in refused(
        capsys, "generate", "--checkpoint", pipeline / "n", "--prompt", "a", "--stop-token", "<|endoftext|>"
    )
