"""Encoders and encoder-decoders by the command: they learn, stop, resume, write, and report errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.run import checkpoint
from lm.run.facts import read_facts
from lm.run.report import list_runs
from lm.text.generate import generate_after_prefixes
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import lm, refused
from tests.lm.run.test_report import page_data
from tests.lm.run.test_train import leaves, numbers
from tokenizer import InputError

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
Capture = pytest.CaptureFixture[str]
CONFIG = """
steps = 6
batch_size = 4
log_interval = 1
eval_interval = 3
save_interval = 3

[model]
vocab_size = {vocab_size}
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
architecture = "{architecture}"
{more}

[optimizer]
learning_rate = 5e-2
warmup_steps = 2
"""
PAIRS = 'norm = "layernorm"\nposition = "learned"\nffn = "gelu"\nbias = true\nprefix_length = 10'


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make token files, pairs, configs, and a run of either architecture in each backend. Do not change them."""
    folder = tmp_path_factory.mktemp("sequences")
    (folder / "encoder.toml").write_text(CONFIG.format(architecture="encoder", vocab_size=300, more=""))
    (folder / "encoder_decoder.toml").write_text(
        CONFIG.format(architecture="encoder_decoder", vocab_size=257, more=PAIRS)
    )
    for name, size, held_out in (("train", 20_000, []), ("val", 3_001, ["--held-out"])):
        assert lm("stories", "--out", folder / f"{name}.txt", "--bytes", size, "--seed", len(held_out)) == 0
        pairs = ("--out", folder / f"{name}.jsonl", "--count", size // 100)
        assert lm("pairs", "reverse", *pairs, *held_out) == 0
    for name, size, special in (("words", 300, ["<|mask|>"]), ("bytes", 257, [])):
        tokens = ("--special-tokens", "<|endoftext|>", *special)
        files = ("--input", folder / "train.txt", "--out", folder / name)
        assert lm("tokenizer", "train", *files, "--vocab-size", size, *tokens) == 0
    for name in ("train", "val"):
        for tokenizer, suffix, out in (("words", "txt", "encoder"), ("bytes", "jsonl", "encoder_decoder")):
            files = ("--input", folder / f"{name}.{suffix}", "--out", folder / f"{out}.{name}.npy")
            assert lm("tokenizer", "encode", "--tokenizer", folder / tokenizer, *files) == 0
    for architecture in ("encoder", "encoder_decoder"):
        for backend in BACKENDS:
            assert (
                lm(*train_command(folder, architecture, backend, folder / f"{architecture}.{backend}")) == 0
            )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a copy of all files that a test may change."""
    return shutil.copytree(made, tmp_path / "sequences")


def train_command(folder: Path, architecture: str, backend: str, out: Path, *more: object) -> list[object]:
    """Return the command that trains on the architecture's files, or on the files in `more`."""
    names = [name for name in ("train", "val") if f"--{name}" not in more]
    data = [word for name in names for word in (f"--{name}", folder / f"{architecture}.{name}.npy")]
    config = folder / f"{architecture}.toml"
    return ["train", "--backend", backend, "--config", config, *data, "--out", out, *more]


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_both_backends_learn_the_same(made: Path, architecture: str) -> None:
    torch, jax = (numbers(made / f"{architecture}.{name}") for name in BACKENDS)
    losses = [m["train_loss"] for m in torch if "train_loss" in m]
    assert losses[-1] < losses[0] - 0.2
    for a, b in zip(torch, jax, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    evaluated = [m for m in torch if "val_loss" in m]
    assert len(evaluated) == 2
    assert all(0 < m["accuracy"] < 1 for m in evaluated)
    # Neither predicts a text's tokens from those before: no floor, no bits per byte.
    assert not any("bits_per_byte" in m for m in evaluated)
    facts = read_facts(made / f"{architecture}.torch")
    assert facts is not None
    assert facts["floor"] is None
    mask = json.loads((made / "words" / "vocab.json").read_text())["<|mask|>"]
    assert facts["config"]["mask_token"] == (mask if architecture == "encoder" else None)


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_stopping_and_resuming_changes_no_bit(folder: Path, architecture: str, backend: str) -> None:
    whole, stopped = folder / f"{architecture}.{backend}", folder / "stopped"
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000006")
    assert lm(*train_command(folder, architecture, backend, stopped, "--resume")) == 0
    assert leaves(stopped) == leaves(whole)
    assert numbers(stopped) == numbers(whole)


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_evaluation_in_the_other_backend(made: Path, capsys: Capture, architecture: str) -> None:
    last = numbers(made / f"{architecture}.torch")[-1]
    for backend in BACKENDS:
        command = ("eval", "--checkpoint", made / f"{architecture}.torch", "--backend", backend)
        capsys.readouterr()
        assert lm(*command, "--tokens", made / f"{architecture}.val.npy") == 0
        printed = capsys.readouterr().out
        assert f"loss           {last['val_loss']:.4f}" in printed
        assert f"accuracy       {last['accuracy']:.2%}" in printed
        assert "floor" not in printed


def test_accuracy_is_reported(made: Path, tmp_path: Path) -> None:
    runs = [made / f"encoder_decoder.{name}" for name in BACKENDS]
    assert lm("report", *runs, "--out", tmp_path / "report.html") == 0
    data = page_data((tmp_path / "report.html").read_text())
    expected = [m["accuracy"] for m in numbers(runs[0]) if "accuracy" in m]
    assert data["runs"][0]["val"]["accuracy"] == expected
    rows = {row[0]: row[1:] for row in data["numbers"]}
    assert float(rows["accuracy"][0]) == pytest.approx(expected[-1], rel=1e-3)
    assert "encoder_decoder.torch" in list_runs(made)


def test_generation_by_the_command(made: Path, capsys: Capture) -> None:
    written = []
    for trained, backend in (("torch", "torch"), ("torch", "jax")):
        command = ["generate", "--checkpoint", made / f"encoder_decoder.{trained}", "--backend", backend]
        capsys.readouterr()
        assert lm(*command, "--prompt", "abc", "wxyz", "--max-new-tokens", 5, "--json") == 0
        written.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for a, b in zip(*written, strict=True):
        assert (a["prompt"], a["token_ids"], a["ending"]) == (b["prompt"], b["token_ids"], b["ending"])
    # The prefix is not the start of the text.
    assert lm(*command, "--prompt", "abc", "--max-new-tokens", 5) == 0
    assert capsys.readouterr().out == written[0][0]["text"] + "\n"


def test_samples_follow_from_their_prefix(folder: Path) -> None:
    flags = ("--sample-every", 3, "--sample-prompt", "abc")
    assert lm(*train_command(folder, "encoder_decoder", "jax", folder / "out", *flags)) == 0
    samples = [m["sample"] for m in numbers(folder / "out") if "sample" in m]
    assert len(samples) == 2


def test_what_is_refused(folder: Path, capsys: Capture) -> None:
    def refuse(*command: object) -> str:
        return refused(capsys, *command)

    said = refuse("generate", "--checkpoint", folder / "encoder.torch", "--prompt", "a")
    assert "an encoder writes no text; give the run of" in said
    run_of_pairs = ("generate", "--checkpoint", folder / "encoder_decoder.torch", "--prompt")
    assert "the prefix has 0 tokens; give from 1 to the model's prefix_length 10" in refuse(*run_of_pairs, "")
    assert "the prefix has 11 tokens" in refuse(*run_of_pairs, "abcdefghijk")
    out = folder / "new"

    def pairs(*more: object) -> list[object]:
        return train_command(folder, "encoder_decoder", "torch", out, *more)

    def masked(*more: object) -> list[object]:
        return train_command(folder, "encoder", "torch", out, *more)

    assert "the longest prefix takes 10 tokens" in refuse(*pairs("--model.prefix-length", 9))
    assert "writes no text without" not in refuse(*pairs("--train", folder / "train.jsonl"))
    said = refuse(*pairs("--train", folder / "train.jsonl"))
    assert "train.jsonl: not a file of encoded pairs; make one: lm tokenizer encode" in said
    assert "not a file of encoded pairs" in refuse(*pairs("--train", folder / "encoder.train.npy"))
    assert "sample_prompt is empty" in refuse(*pairs("--sample-every", 2))
    # An encoder without a mask token: of another tokenizer, or of none.
    files = ("--train", folder / "encoder_decoder.train.npy", "--val", folder / "encoder_decoder.val.npy")
    assert "its tokenizer has no <|mask|>" in refuse(*masked(*files))
    for name in ("train", "val"):
        (folder / f"encoder.{name}.npy.json").unlink()
    assert "names no tokenizer, and an encoder trains with <|mask|>" in refuse(*masked())
    assert not out.exists()
    assert lm(*masked("--mask-token", 1)) == 0
    # Other bounds of the same ids are other data.
    trained = train_command(folder, "encoder_decoder", "torch", folder / "encoder_decoder.torch", "--resume")
    offsets = folder / "encoder_decoder.train.npy.offsets"
    bounds = np.load(offsets)
    bounds[1] -= 1
    with offsets.open("wb") as file:
        np.save(file, bounds)
    assert "train_sha256 differs" in refuse(*trained, "--steps", 8)


MODEL = ModelConfig(
    vocab_size=24,
    context_length=8,
    d_model=16,
    num_layers=2,
    num_heads=4,
    architecture="encoder_decoder",
    prefix_length=6,
)
PREFIXES = [[3], [1, 2, 3, 4, 5, 6], [9, 9, 9]]


def follow(
    backend_name: BackendName, prefixes: list[list[int]], config: TrainConfig, **sampling: Any
) -> tuple[dict[int, list[int]], dict[int, Any]]:
    """Return the tokens that follow each prefix, by row, and why each row ended."""
    backend = load(backend_name, config)
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    state = backend.init_state(config, 0)
    endings: dict[int, Any] = {}
    rules = SamplingConfig(max_new_tokens=20, seed=1, **sampling)
    tokens: dict[int, list[int]] = {row: [] for row in range(len(prefixes) * rules.samples)}
    for drawn in generate_after_prefixes(*steps, state, config, prefixes, rules, 0, (), endings):
        tokens[drawn.row].append(drawn.token)
    return tokens, endings


@pytest.mark.parametrize("position", ["rope", "learned", "none"])
def test_prefixes_of_different_lengths_share_a_batch(position: Any) -> None:
    """With RoPE or without positions the cache slides far beyond the context of 8. Learned positions end there."""
    config = TrainConfig(MODEL.__class__(**{**vars(MODEL), "position": position}), compute_dtype="float64")
    torch, endings = follow("torch", PREFIXES, config, samples=2)
    assert (torch, endings) == follow("jax", PREFIXES, config, samples=2)
    assert max(map(len, torch.values())) == (8 if position == "learned" else 20)
    assert len({tuple(tokens) for tokens in torch.values()}) > 2  # the prefix matters, not the draws alone
    for i, prefix in enumerate(PREFIXES):
        alone, _ = follow("torch", [prefix], config, samples=2)
        assert [alone[0], alone[1]] == [torch[2 * i], torch[2 * i + 1]]


@pytest.mark.parametrize("prefix", [[], [0] * 7])
def test_a_prefix_must_fit_the_model(prefix: list[int]) -> None:
    with pytest.raises(InputError, match=f"the prefix has {len(prefix)} tokens; give from 1 to .* 6"):
        follow("torch", [[1], prefix], TrainConfig(MODEL))


def test_a_checkpoint_names_both_halves(made: Path) -> None:
    path = checkpoint.latest(made / "encoder_decoder.jax") / "model.safetensors"
    data = path.read_bytes()
    names = set(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])) - {"__metadata__"}
    halves = {name.partition(".")[0] for name in names}
    assert halves == {"encoder", "decoder"}
    assert "decoder.lm_head.weight" in names
    assert "encoder.lm_head.weight" not in names
