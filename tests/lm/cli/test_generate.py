"""`lm generate`: prompts, JSON, Ctrl-C and what it refuses."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lm.text.sampling import choose_token
from tests.lm.conftest import lm, refused

Capture = pytest.CaptureFixture[str]


def test_both_backends_generate_the_same_text(made_pipeline: Path, capsys: Capture) -> None:
    for run in ("torch", "jax"):
        texts = []
        for backend in ("torch", "jax"):
            command = (
                "generate",
                "--backend",
                backend,
                "--checkpoint",
                made_pipeline / run,
                "--prompt",
                "One é day",
            )
            assert lm(*command, "--max-new-tokens", 40, "--seed", 3) == 0
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1]
        assert texts[0].startswith("One é day")
        assert len(texts[0]) > 20


def test_an_empty_prompt_starts_a_text(made_pipeline: Path, capsys: Capture) -> None:
    texts = []
    for prompt in (["--prompt", ""], []):
        assert lm("generate", "--checkpoint", made_pipeline / "torch", *prompt, "--max-new-tokens", 5) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != "\n"
    assert "<|endoftext|>" not in texts[0]


def test_many_prompts_in_json(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts come from flags, a file and standard input. Each is continued as if it were alone."""
    command = ("generate", "--checkpoint", made_pipeline / "torch", "--max-new-tokens", 8, "--seed", 5)
    (tmp_path / "prompt.txt").write_text("Once\nmore\n")
    file = ("--prompt-file", tmp_path / "prompt.txt", "--json", "--explain-ties")
    assert lm(*command, "--prompt", "One day", "é", "--samples", 2, *file) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [(line["prompt"], line["sample"]) for line in lines] == [
        (prompt, sample) for prompt in ("One day", "é", "Once\nmore") for sample in (0, 1)
    ]
    for line in lines:
        assert len(line["token_ids"]) == len(line["log_probabilities"])
        assert all(x < 0 for x in line["log_probabilities"])
        assert line["ending"] in ("length", "stop")
    assert "within rounding" in said.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Once\nmore\n")))
    assert lm(*command, "--prompt-file", "-") == 0
    assert capsys.readouterr().out == f"Once\nmore{lines[4]['text']}\n"


def test_ctrl_c_keeps_the_text_so_far(
    made_pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("generate", "--checkpoint", made_pipeline / "torch", "--prompt", "One", "--json")
    assert lm(*command, "--max-new-tokens", 4) == 0
    first_four = json.loads(capsys.readouterr().out)
    calls = itertools.count()

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return choose_token(*arguments, **settings)

    monkeypatch.setattr("lm.text.generate.choose_token", interrupted)
    assert lm(*command, "--max-new-tokens", 100) == 0
    assert json.loads(capsys.readouterr().out) == first_four | {"ending": "interrupted"}
    calls = itertools.count()
    assert lm(*command[:-1], "--max-new-tokens", 100) == 0
    assert capsys.readouterr().out == f"One{first_four['text']}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "word " * 200], r"the prompt has \d+ tokens; give from 1 to .* 16"),
        (["--prompt", "a", "--temperature", "-1"], "temperature is -1"),
        (["--prompt", "a", "--top-p", "0"], "top_p is 0"),
        (["--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--prompt", "a", "--checkpoint", "none"], "none: holds no checkpoint"),
        (["--stop-token", "<|end|>"], r"--stop-token '<\|end\|>' is not one of .*: <\|endoftext\|>"),
        (["--prompt-file", "none"], "none: No such file"),
        (["--prompt-file", "/bin/true"], "/bin/true: not UTF-8 at byte"),
    ],
)
def test_what_lm_generate_refuses(
    made_pipeline: Path, capsys: Capture, flags: list[str], message: str
) -> None:
    command = ("generate", "--checkpoint", made_pipeline / "torch", *flags)
    assert re.search(message, refused(capsys, *command))
