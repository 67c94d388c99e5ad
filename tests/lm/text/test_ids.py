"""Token ids instead of texts: the same numbers as with the tokenizer, and no need of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.text.ids import read_ids, show_ids
from tests.lm.conftest import lm, refused, train_command
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]
PROMPT = "One day"


@pytest.fixture(scope="module")
def alone(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run, without the run's tokenizer."""
    folder = tmp_path_factory.mktemp("alone") / "a" / "b" / "x"
    return shutil.copytree(made_pipeline / "torch" / "checkpoints" / "step-00000006", folder)


def test_ids_as_users_write_them() -> None:
    assert read_ids(" 1 2\n3 ") == read_ids("[1, 2, 3]") == read_ids("1,2,3") == [1, 2, 3]
    assert read_ids(show_ids([0, 7])) == [0, 7]
    assert read_ids("") == read_ids("[]") == []


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_generate_continues_ids(made_pipeline: Path, alone: Path, capsys: Capture, backend: str) -> None:
    ids = show_ids(Tokenizer.load(made_pipeline / "tokenizer").encode(PROMPT))
    settings = ("--backend", backend, "--max-new-tokens", 5, "--seed", 3)
    command = ("generate", "--checkpoint", alone, *settings, "--ids")
    with_text = ("generate", "--checkpoint", made_pipeline / "torch", *settings)
    assert lm(*with_text, "--prompt", PROMPT, "", "--json") == 0
    texts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lm(*command, "--prompt", ids, "[]", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, text, prompt in zip(lines, texts, (read_ids(ids), []), strict=True):
        assert line.pop("prompt") == prompt
        text.pop("prompt"), text.pop("text")
        assert line == text
    assert lm(*command, "--prompt", ids) == 0
    assert read_ids(capsys.readouterr().out) == [*read_ids(ids), *lines[0]["token_ids"]]


def test_score_of_ids(made_pipeline: Path, alone: Path, capsys: Capture) -> None:
    run = twinlm.load(made_pipeline / "torch")
    ids = run.tokenizer.encode(PROMPT)
    ours, whole = twinlm.load(alone).score(ids), run.score(PROMPT)
    assert (ours.token_ids, ours.nats) == (ids, whole.nats)
    assert ours.tokens == []
    assert ours.num_bytes is ours.bits_per_byte is None
    command = ("score", "--checkpoint", alone, "--ids")
    assert lm(*command, show_ids(ids), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [token["id"] for token in facts["tokens"]] == ids
    assert facts["nats"] == whole.total_nats
    assert facts["bits_per_byte"] is facts["predicted_bytes"] is None
    assert lm(*command, show_ids(ids)) == 0
    shown = capsys.readouterr().out
    assert str(ids[0]) in shown.splitlines()[0]
    assert "bits per byte" not in shown


def test_completions_of_ids_in_python(made_pipeline: Path, alone: Path) -> None:
    run, without = twinlm.load(made_pipeline / "torch"), twinlm.load(alone)
    ids = run.tokenizer.encode(PROMPT)
    settings: dict[str, Any] = {"max_new_tokens": 4, "seed": 2}
    of_text, of_ids = run.complete([PROMPT, ids], **settings)
    (alone_ids,) = without.complete([ids], **settings)
    assert of_text.text == of_ids.text == run.tokenizer.decode([d.token for d in of_text.drawn])
    assert (
        [d.token for d in of_ids.drawn]
        == [d.token for d in of_text.drawn]
        == [d.token for d in alone_ids.drawn]
    )
    assert alone_ids.text == ""
    assert without.ends == run.ends


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["generate", "--prompt", "a"], "tokenizer=FOLDER in Python; or give token ids, not text: --ids"),
        (["score", "a b"], "or give token ids, not text: --ids"),
        (
            ["generate", "--ids", "--prompt", "1 a"],
            "'a' is not a token id; give whole numbers, such as 1 2 3",
        ),
        (["generate", "--ids", "--prompt", "1 -2"], "'-2' is not a token id"),
        (["generate", "--ids", "--prompt", "300"], "token id 300 is outside 0 .. 299"),
        (["score", "--ids", "1 300"], "token id 300 is outside 0 .. 299"),
        (["generate", "--ids", "--prompt", "1", "--stop", "x"], "no text can stop it; give no stop text"),
        (["generate", "--ids", "--prompt", "1", "--stop-token", "<x>"], "without a tokenizer it has none"),
    ],
)
def test_what_is_refused_without_a_tokenizer(
    alone: Path, capsys: Capture, command: list[str], message: str
) -> None:
    assert message in refused(capsys, command[0], "--checkpoint", alone, *command[1:])


def test_token_files_of_another_tokenizer_as_the_page_makes_them(
    made_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The code of docs/tokenizer.md makes a file that lm train takes. The run continues ids."""
    page = (Path(__file__).parents[3] / "docs" / "tokenizer.md").read_text()
    code = page.partition("**Other tokenizers.**")[2].partition("```python\n")[2].partition("```")[0]
    ours = Tokenizer.load(made_pipeline / "tokenizer")
    monkeypatch.chdir(tmp_path)
    ours.save_tokenizers_json("tokenizer.json")
    text = "Once upon a time.\nThere was a frog.\n" * 9
    Path("stories.txt").write_text(text)
    exec(code, {})
    ids = np.load("stories.npy")
    assert ids.tolist() == ours.encode(text)
    assert (
        lm(*train_command(made_pipeline, "torch", Path("run"), "--train", "stories.npy", "--steps", 1)) == 0
    )
    assert "token ids, not text: --ids" in refused(capsys, "generate", "--checkpoint", "run", "--prompt", "a")
    command = (
        "generate",
        "--checkpoint",
        "run",
        "--ids",
        "--prompt",
        "1 2",
        "--max-new-tokens",
        2,
        "--stop-token",
        "",
    )
    assert lm(*command) == 0
    assert len(read_ids(capsys.readouterr().out)) == 4
