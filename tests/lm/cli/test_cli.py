"""The command: what it prints, and that every mistake is answered in one line, with nothing overwritten."""

import importlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.cli.commands import COMMANDS
from lm.files import file_sha256, json_text
from lm.run import checkpoint
from tests.lm.conftest import lm, train_command
from tokenizer import InputError, Tokenizer, train_bpe

Capture = pytest.CaptureFixture[str]


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder, to see that nothing has changed."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, file_sha256(p)) for p in files}


def refused(capsys: Capture, *command: object) -> str:
    """The one line in which the command is refused."""
    capsys.readouterr()
    assert lm(*command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    # A progress bar may have come before; it ends in a carriage return or a new line.
    line = re.split(r"[\r\n]", printed.err.rstrip("\n"))[-1]
    assert line.startswith("lm: ")
    assert "Traceback" not in printed.err
    return line


def test_the_whole_pipeline_speaks_plainly(pipeline: Path, capsys: Capture) -> None:
    assert lm("eval", "--checkpoint", pipeline / "jax", "--tokens", pipeline / "val.npy") == 0
    jax = capsys.readouterr().out
    names = [line[:13].strip() for line in jax.splitlines()]
    assert names == ["loss", "entropy floor", "perplexity", "bits per byte", "accuracy"]
    facts = json.loads((pipeline / "val.npy.json").read_text())
    assert f"{facts['nats'] / facts['tokens']:.4f} nats per token" in jax
    assert (
        lm("eval", "--backend", "torch", "--checkpoint", pipeline / "jax", "--tokens", pipeline / "val.npy")
        == 0
    )
    torch = capsys.readouterr().out
    numbers = [[float(n.replace(",", "")) for n in re.findall(r"\d[\d.,]*", text)] for text in (torch, jax)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_eval_prints_the_same_for_every_batch_size(made_pipeline: Path, capsys: Capture) -> None:
    command = ("eval", "--checkpoint", made_pipeline / "torch", "--tokens", made_pipeline / "val.npy")
    printed = []
    for flags in ((), ("--batch-size", 1), ("--batch-size", 3), ("--batch-size", 10**6)):
        assert lm(*command, *flags) == 0
        printed.append([float(n) for n in re.findall(r"\d+\.\d+", capsys.readouterr().out)])
    assert printed == [pytest.approx(printed[0], rel=1e-4)] * 4
    for batch_size in (0, -1, 2**63):
        assert f"batch_size is {batch_size}: give" in refused(capsys, *command, "--batch-size", batch_size)


def test_sidecars_name_what_a_file_is_of(made_pipeline: Path) -> None:
    text = json.loads((made_pipeline / "val.txt.json").read_text())
    tokens = json.loads((made_pipeline / "val.npy.json").read_text())
    assert tokens["tokens"] == len(np.load(made_pipeline / "val.npy"))
    assert tokens["bytes"] == text["bytes"] == (made_pipeline / "val.txt").stat().st_size
    assert tokens["nats"] == text["nats"]
    assert (made_pipeline / tokens["tokenizer"] / "vocab.json").is_file()


def test_a_text_that_was_changed_has_no_known_nats(pipeline: Path) -> None:
    text = pipeline / "val.txt"
    text.write_text(text.read_text().replace("a", "o", 1))
    out = pipeline / "changed.npy"
    assert (
        lm("tokenizer", "encode", "--tokenizer", pipeline / "tokenizer", "--input", text, "--out", out) == 0
    )
    assert "nats" not in json.loads((pipeline / "changed.npy.json").read_text())


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
    """Prompts from flags, a file and standard input; each continuation is the one it gets alone."""
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


def test_ctrl_c_keeps_what_was_written(
    made_pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm.text import generate

    command = ("generate", "--checkpoint", made_pipeline / "torch", "--prompt", "One", "--json")
    assert lm(*command, "--max-new-tokens", 4) == 0
    first_four = json.loads(capsys.readouterr().out)
    draw, calls = generate.choose_token, itertools.count()

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return draw(*arguments, **settings)

    monkeypatch.setattr(generate, "choose_token", interrupted)
    assert lm(*command, "--max-new-tokens", 100) == 0
    assert json.loads(capsys.readouterr().out) == first_four | {"ending": "interrupted"}
    calls = itertools.count()
    assert lm(*command[:-1], "--max-new-tokens", 100) == 0
    assert capsys.readouterr().out == f"One{first_four['text']}\n"


def test_a_flag_overrides_the_config(pipeline: Path) -> None:
    command = train_command(pipeline, "torch", pipeline / "new", "--steps", 2, "--model.d-model", 32)
    assert lm(*command, "--model.num-heads", 4, "--optimizer.learning-rate", 0.02) == 0
    state = json.loads((checkpoint.latest(pipeline / "new") / "state.json").read_text())
    config = state["config"]
    assert (config["steps"], config["optimizer"]["learning_rate"]) == (2, 0.02)
    # What the file leaves open follows the flags too.
    assert (config["model"]["d_model"], config["model"]["d_ff"]) == (32, 64)
    assert config["model"]["num_kv_heads"] == 4


@pytest.mark.parametrize(
    "words", [[], ["tokenizer"], ["nonsense"], ["train"], ["eval", "--nonsense"], ["train", "--config"]]
)
def test_a_wrong_command_line_is_one_line(capsys: Capture, words: list[str]) -> None:
    assert "see lm --help" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.d-model", 18, "--model.num-heads", 4], "d_model 18 is not divisible by num_heads 4"),
        (["--model.d-model", 6], "odd, but RoPE rotates pairs"),
        (["--model.vocab-size", 290], r"train.npy: token id \d+ is outside 0 .. 289"),
        (["--model.context-length", 100_000], "tokens are fewer than one window"),
        (["--steps", 0], "steps is 0"),
        (["--steps", "many"], "'many' is no whole number"),
        (["--batch-size", 3, "--grad-accumulation", 2], "not divisible by grad_accumulation"),
        (["--device", "abacus"], "device 'abacus' is not supported: give cpu, cuda, or cuda:N"),
        (["--threads", 0], "threads is 0"),
        (["--optimizer.beta2", 1], "beta2 is 1"),
        (["--optimizer.schedule", "wild"], "schedule"),
        (["--optimizer.decay", "some"], "decay"),
        *(
            ([f"--{name}", 0], f"{name.replace('-', '_')} is 0")
            for name in ("keep-last", "patience", "eval-windows")
        ),
        (["--init-from", "none"], "none: holds no checkpoint"),
        (["--compute-dtype", "int8"], "compute-dtype"),
        (["--train", "none.npy"], "none.npy: No such file"),
        (["--val", "empty.npy"], "empty.npy: not a"),
        (["--config", "unknown.toml"], "unknown.toml: unknown key 'stepz'"),
        (["--config", "broken.toml"], "broken.toml: not a TOML file"),
        (["--config", "none.toml"], "none.toml: .*No such file"),
        (["--out", "jax"], "jax exists already: choose another"),
        (["--out", "tiny.toml"], "tiny.toml exists already: choose another"),
        (["--out", "new", "--resume"], "new: holds no checkpoint"),
        (
            ["--out", "torch", "--resume", "--model.d-model", 32],
            r"run.json: model.d_model is 16 in this run and 32",
        ),
    ],
)
def test_what_lm_train_refuses(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, flags: list[object], message: str
) -> None:
    monkeypatch.chdir(pipeline)
    Path("empty.npy").touch()
    Path("unknown.toml").write_text("stepz = 1\n[model]\n")
    Path("broken.toml").write_text("steps = \n")
    before = snapshot(pipeline)
    assert re.search(message, refused(capsys, *train_command(pipeline, "torch", pipeline / "new", *flags)))
    assert snapshot(pipeline) == before


def test_other_data_is_no_resumption(pipeline: Path, capsys: Capture) -> None:
    command = train_command(
        pipeline, "torch", pipeline / "torch", "--resume", "--train", pipeline / "val.npy"
    )
    assert "train_sha256 differs" in refused(capsys, *command)


def test_token_files_of_another_tokenizer_are_refused(pipeline: Path, capsys: Capture) -> None:
    sidecar = pipeline / "val.npy.json"
    sidecar.write_text(json_text({**json.loads(sidecar.read_text()), "tokenizer_sha256": "0" * 64}))
    message = "val.npy: was encoded with another tokenizer than"
    assert message in refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    command = ("eval", "--checkpoint", pipeline / "torch", "--tokens", pipeline / "val.npy")
    assert message in refused(capsys, *command)


def test_a_corpus_of_several_files(pipeline: Path, capsys: Capture) -> None:
    files = ("--train", pipeline / "t*.npy", pipeline / "val.npy", "--weights")
    command = train_command(pipeline, "torch", pipeline / "new", *files)
    assert lm(*command, 3, 1) == 0
    assert json.loads((pipeline / "new" / "run.json").read_text())["weights"] == [3.0, 1.0]
    assert "train_sha256 differs" in refused(capsys, *command, 1, 1, "--resume")
    assert "give one number above 0 for each of the 2" in refused(capsys, *command, 1, "--resume")


def test_a_tokenizer_that_was_changed_is_noticed(pipeline: Path, capsys: Capture) -> None:
    old = Tokenizer.load(pipeline / "tokenizer")
    merges = [old.merges[1], old.merges[0], *old.merges[2:]]
    Tokenizer(old.vocab, merges, old.special_tokens).save(pipeline / "tokenizer")
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    assert "not what" in line
    assert "encode the text again" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file|cannot read"),
        (b"", "empty"),
        (b"good \xff bad", r"not UTF-8.*byte 5|byte 5.*not UTF-8"),
    ],
)
@pytest.mark.parametrize("step", ["train", "encode"])
def test_texts_that_cannot_be_read(
    pipeline: Path, capsys: Capture, content: bytes | None, message: str, step: str
) -> None:
    text = pipeline / "text.txt"
    if content is not None:
        text.write_bytes(content)
    flags = {"train": ["--vocab-size", 300], "encode": ["--tokenizer", pipeline / "tokenizer"]}[step]
    before = snapshot(pipeline)
    line = refused(capsys, "tokenizer", step, "--input", text, "--out", pipeline / "new", *flags)
    assert re.search(message, line)
    assert "text.txt" in line
    assert snapshot(pipeline) == before
    assert not (pipeline / "new").exists()


def test_a_vocabulary_holds_at_least_the_bytes(pipeline: Path, capsys: Capture) -> None:
    flags = ("--input", pipeline / "val.txt", "--out", pipeline / "new", "--vocab-size", 256)
    assert "257" in refused(capsys, "tokenizer", "train", *flags)


def test_nothing_is_overwritten(pipeline: Path, capsys: Capture) -> None:
    before = snapshot(pipeline)
    text, tokens, tokenizer = pipeline / "val.txt", pipeline / "val.npy", pipeline / "tokenizer"
    for command in (
        ("stories", "--out", text, "--bytes", 100),
        ("tokenizer", "train", "--input", text, "--vocab-size", 300, "--out", tokenizer),
        ("tokenizer", "encode", "--tokenizer", tokenizer, "--input", text, "--out", tokens),
        ("demo", "--out", pipeline),
    ):
        assert "exists" in refused(capsys, *command)
    assert snapshot(pipeline) == before


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


def test_a_checkpoint_of_another_shape(pipeline: Path, capsys: Capture) -> None:
    other = train_command(pipeline, "torch", pipeline / "other", "--steps", 1, "--model.d-model", 32)
    assert lm(*other) == 0
    ours, theirs = checkpoint.latest(pipeline / "torch"), checkpoint.latest(pipeline / "other")
    (ours / "model.safetensors").write_bytes((theirs / "model.safetensors").read_bytes())
    command = ("eval", "--checkpoint", ours, "--tokens", pipeline / "val.npy")
    assert "model.safetensors: differs from the manifest" in refused(capsys, *command)
    files = {p.name: p for p in ours.iterdir() if p.name != "manifest.json"}
    names = json.loads((ours / "manifest.json").read_text())
    manifest = {n: {"size": files[n].stat().st_size, "sha256": file_sha256(files[n])} for n in names}
    (ours / "manifest.json").write_text(json_text(manifest))
    line = refused(capsys, *command)
    assert "'token_embeddings.weight' is float32 (300, 32), and this model has float32 (300, 16)" in line


def test_a_full_disk_is_one_line(pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(pipeline / "new"))

    monkeypatch.setattr("lm.run.checkpoint.save_file", full)
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new"))
    assert line.startswith(f"lm: {pipeline / 'new'}: step 3 cannot be saved (No space left on device)")
    assert not list((pipeline / "new" / "checkpoints").iterdir())


def test_the_command_in_a_process_of_its_own(made_pipeline: Path) -> None:
    """Exit codes, help, and a reader that goes away."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lm", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False
        )

    help_text = run("--help")
    assert help_text.returncode == 0
    names = re.findall(r"^  (\w+)  +[A-Z].*\.$", help_text.stdout, re.MULTILINE)
    assert names[:3] == ["demo", "train", "generate"]
    assert names == list(COMMANDS)
    assert max(map(len, help_text.stdout.splitlines())) <= 80
    wrong = run("eval", "--checkpoint", "none", "--tokens", "none")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        "lm: none: holds no checkpoint; give the folder of a run that lm train has saved to\n"
    )


def test_a_tokenizer_goes_out_and_comes_back(pipeline: Path, capsys: Capture) -> None:
    exported, back = pipeline / "tokenizer.json", pipeline / "back"
    assert lm("tokenizer", "export", "--tokenizer", pipeline / "tokenizer", "--out", exported) == 0
    assert lm("tokenizer", "import", "--input", exported, "--out", back) == 0
    assert Tokenizer.load(back).sha256 == Tokenizer.load(pipeline / "tokenizer").sha256
    assert "exists" in refused(capsys, "tokenizer", "import", "--input", exported, "--out", back)


def test_gpt2s_files_come_in(pipeline: Path, capsys: Capture) -> None:
    ours, gpt2 = Tokenizer.load(pipeline / "tokenizer"), pipeline / "gpt2"
    gpt2.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (gpt2 / name).write_bytes((pipeline / "tokenizer" / name).read_bytes())
    assert lm("tokenizer", "import", "--input", gpt2, "--out", pipeline / "back") == 0
    assert Tokenizer.load(pipeline / "back").sha256 == ours.sha256
    (gpt2 / "merges.txt").unlink()
    line = refused(capsys, "tokenizer", "import", "--input", gpt2, "--out", pipeline / "other")
    assert f"cannot read {gpt2 / 'merges.txt'}" in line
    assert not (pipeline / "other").exists()


def test_tokens_are_shown_with_their_ids(made_pipeline: Path, capsys: Capture) -> None:
    assert lm("tokenizer", "inspect", "Once upon", "--tokenizer", made_pipeline / "tokenizer") == 0
    shown = re.sub(r"\033\[[\d;]*m", " ", capsys.readouterr().out).split()
    ids = [int(word) for word in shown if word.isdigit()]
    assert Tokenizer.load(made_pipeline / "tokenizer").decode(ids) == "Once upon"


@pytest.mark.parametrize(("error", "code"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_parity_over_budget_is_exit_code_1(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: float, code: int
) -> None:
    from parity import run

    case = run.random_cases("softmax", 1, 0)[0]
    found = [run.Error("softmax", "forward", "torch-jax", error, 1e-6, "output", case)]
    monkeypatch.setattr(run, "run_parity", lambda *_, **__: found)
    with pytest.raises(SystemExit) as exit:
        lm("parity", "--json", tmp_path / "parity.json", "--plot", tmp_path / "parity.png")
    assert exit.value.code == code
    assert json.loads((tmp_path / "parity.json").read_text())[0]["passed"] is (code == 0)
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert "exists" in refused(capsys, "parity", "--json", tmp_path / "parity.json")
    assert "cases is 0" in refused(capsys, "parity", "--cases", 0)


@pytest.mark.parametrize("threads", [-1, 0, 1025, 100_000, 2**63])
def test_a_number_of_threads_that_no_machine_has_is_refused_before_a_framework_loads(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("lm.backend.load", load)
    run, tokens = made_pipeline / "torch", made_pipeline / "val.npy"
    for command in (
        train_command(made_pipeline, "jax", tmp_path / "out"),
        ["eval", "--checkpoint", run, "--tokens", tokens],
        ["generate", "--checkpoint", run],
        ["score", "--checkpoint", run, "some text"],
        ["experiment", "silu", "--out", tmp_path / "out"],
    ):
        assert f"threads is {threads}: give 1 to 1024" in refused(capsys, *command, "--threads", threads)
    with pytest.raises(InputError, match=f"num_workers is {threads}; ask for 1 to 1024"):
        train_bpe(made_pipeline / "val.txt", 300, num_workers=threads)
    for benchmark in ("train_step", "layers", "generate", "data", "product"):
        with pytest.raises(SystemExit, match="2"):
            importlib.import_module(f"bench.{benchmark}").main(["--threads", str(threads)])
        assert f"threads is {threads}: give 1 to 1024" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
