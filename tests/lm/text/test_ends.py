"""A model's own tokenizer and the tokens that begin and end its texts; and models whose numbers are not finite."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.config import ModelConfig, TrainConfig
from lm.interop.llama import llama_name
from lm.run import checkpoint
from lm.text.complete import Completion, complete
from lm.text.ends import Ends, choose_ends, read_ends
from lm.text.generate import drawable_tokens
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.interop import test_hf
from tests.lm.interop.test_hf import MODEL, make_run
from tests.lm.run.test_train import BACKENDS
from tests.lm.text.test_generate import fake_steps
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]
BYTES = {i: bytes([i]) for i in range(256)}


def test_ids_without_text_are_never_drawn(pipeline: Path, capsys: Capture) -> None:
    """A model padded to 320 ids, as nanoGPT pads, over a tokenizer of 300: samples in training, and both backends."""
    new = pipeline / "padded"
    flags = ("--model.vocab-size", 320, "--sample-every", 2, "--steps", 3, "--eval-interval", 3)
    assert lm(*train_command(pipeline, "torch", new, *flags)) == 0
    records = [json.loads(line) for line in (new / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "sample" in r] == [2]
    hot = ("--temperature", 100, "--max-new-tokens", 60, "--samples", 3, "--stop-token", "", "--json")
    written = []
    for backend in BACKENDS:
        capsys.readouterr()
        assert lm("generate", "--checkpoint", new, "--prompt", "Once", *hot, "--backend", backend) == 0
        written.append([json.loads(line)["token_ids"] for line in capsys.readouterr().out.splitlines()])
    assert written[0] == written[1]
    assert [len(ids) for ids in written[0]] == [60] * 3
    assert 250 < max(map(max, written[0])) < 300


def test_holes_in_a_tokenizer_and_ends_without_text() -> None:
    holes = Tokenizer({i + 100 * (i > 5): bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])
    drawable = drawable_tokens(holes, [50, 10**6], 400)
    assert drawable is not None
    assert np.flatnonzero(drawable).tolist() == [*range(6), 50, *range(106, 357)]
    assert drawable_tokens(Tokenizer(BYTES, []), (), 256) is None
    with pytest.raises(InputError, match="has text for none of the model's ids, 0 to 4"):
        drawable_tokens(Tokenizer({i + 9: bytes([i]) for i in range(256)}, []), (), 5)


def test_no_sample_ends_training(pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [InputError("no\nluck"), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED")]

    def broken(_: Any) -> str:
        raise errors.pop(0)

    monkeypatch.setattr("lm.run.opening.make_sampler", lambda *_: broken)
    command = train_command(pipeline, "torch", pipeline / "new", "--sample-every", 2)
    assert lm(*command) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "no sample" in line]
    assert [line.split("sample after ")[1] for line in said] == [
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
    # The same of a trained model: never the letters of <|endoftext|>.
    assert "no token that begins or ends" in refused(capsys, "generate", "--checkpoint", pipeline / "n")
    with pytest.raises(InputError, match="no token that begins or ends"):
        twinlm.load(pipeline / "n").generate()
    assert "is not one of the model's special tokens: it has none" in refused(
        capsys, "generate", "--checkpoint", pipeline / "n", "--prompt", "a", "--stop-token", "<|endoftext|>"
    )


def damage(folder: Path, how: str) -> None:
    """Change a tokenizer so that it still loads."""
    merges = folder / "merges.txt"
    head, *lines = merges.read_text().splitlines()
    if how == "empty":
        merges.write_text("")
    elif how == "exchanged":
        merges.write_text("\n".join([head, lines[1], lines[0], *lines[2:]]) + "\n")
    else:
        Tokenizer(BYTES, [], ["<|endoftext|>"]).save(folder)


@pytest.mark.parametrize("how", ["empty", "exchanged", "another"])
def test_another_tokenizer_is_refused(pipeline: Path, capsys: Capture, how: str) -> None:
    run, ours = pipeline / "torch", pipeline / "tokenizer"
    damage(run / "tokenizer", how)
    before = snapshot(run)
    # Damage is told as such; a whole tokenizer is compared with the checkpoint's.
    what = {
        "empty": "vocab.json has .* line of merges.txt makes",
        "exchanged": "merges.txt makes .* lines were exchanged",
        "another": f"is not the tokenizer that {run}/checkpoints/step-00000006 was trained with",
    }
    told = f"{run}/tokenizer: {what[how]}"
    for name, command in COMMANDS.items():
        assert re.search(told, refused(capsys, *command(run, pipeline / "hf")))
        assert lm(*command(run, pipeline / "hf"), "--tokenizer", ours) == 0, name
        assert re.search(
            told, refused(capsys, *command(run, pipeline / "no"), "--tokenizer", run / "tokenizer")
        )
    model = twinlm.load(run)
    for use in (lambda: model.tokenizer, lambda: model.generate("a"), lambda: model.score("ab")):
        with pytest.raises(InputError, match=told):
            use()  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=told):
        twinlm.load(run, tokenizer=run / "tokenizer")
    assert twinlm.load(run, tokenizer=str(ours)).tokenizer.encode("a") == Tokenizer.load(ours).encode("a")
    assert snapshot(run) == before
    # Training into the run again puts its tokenizer right.
    assert lm(*train_command(pipeline, "torch", run, "--resume", "--steps", 7)) == 0
    assert twinlm.load(run).tokenizer.sha256 == Tokenizer.load(ours).sha256


COMMANDS: dict[str, Any] = {
    "generate": lambda path, out: ["generate", "--checkpoint", path, "--prompt", "a", "--max-new-tokens", 2],
    "score": lambda path, out: ["score", "--checkpoint", path, "a text"],
    "export": lambda path, out: ["export", "--format", "hf", path, out],
}


def test_a_checkpoint_apart_from_its_run(pipeline: Path, capsys: Capture) -> None:
    alone = shutil.copytree(pipeline / "torch" / "checkpoints" / "step-00000006", pipeline / "a" / "b" / "x")
    Tokenizer(BYTES, [], ["<|endoftext|>"]).save(pipeline / "a" / "tokenizer")
    for command in COMMANDS.values():
        assert "a/tokenizer: is not the tokenizer" in refused(capsys, *command(alone, pipeline / "hf"))
    shutil.rmtree(pipeline / "a" / "tokenizer")
    for name in ("generate", "score"):
        line = refused(capsys, *COMMANDS[name](alone, None))
        assert (
            "the tokenizer is missing; give the folder of the model's tokenizer: --tokenizer FOLDER" in line
        )
    assert (
        lm("generate", "--checkpoint", alone, "--tokenizer", pipeline / "tokenizer", "--max-new-tokens", 1)
        == 0
    )
    # Its ends came with it.
    assert lm(*COMMANDS["export"](alone, pipeline / "hf")) == 0
    end = Tokenizer.load(pipeline / "tokenizer").special_tokens["<|endoftext|>"]
    assert json.loads((pipeline / "hf" / "config.json").read_text())["eos_token_id"] == end


def test_what_lies_beside_a_run_without_a_tokenizer_is_not_taken(tmp_path: Path, capsys: Capture) -> None:
    run = make_run(tmp_path / "run", MODEL, None)
    Tokenizer(BYTES, [], ["<|endoftext|>"]).save(run / "tokenizer")
    assert "the tokenizer is missing" in refused(capsys, *COMMANDS["score"](run, None))
    assert lm(*COMMANDS["score"](run, None), "--tokenizer", run / "tokenizer") == 0


def test_the_ends_of_a_tokenizer() -> None:
    def stop(*special: str) -> tuple[int, ...]:
        return choose_ends(Tokenizer(BYTES, [], special)).stop

    assert stop("<|mask|>", "<|endoftext|>", "</s>") == (257,)
    assert stop("<s>", "</s>") == (257,)
    assert stop("<fin>", "<|mask|>") == (256,)
    assert stop("<a>", "<b>") == stop("<|mask|>") == stop() == ()
    assert choose_ends(None) == Ends()
    assert choose_ends(None, Ends(3, [4, 5])).stop == (4, 5)
    assert (Ends(3, 4).start, Ends(None, [4, 5]).start, Ends().start) == (3, 4, None)
    for bad in ("2", True, 2.0, -1, 9, [], [1, 9], [None], {"a": 1}):
        with pytest.raises(InputError, match=r"here: eos_token_id is .* 0 to 8"):
            read_ends({"eos_token_id": bad}, 9, "here")
    with pytest.raises(InputError, match="here: bos_token_id is"):
        read_ends({"bos_token_id": [1]}, 9, "here")


def test_each_of_several_ends_stops_and_an_empty_prompt_begins() -> None:
    tokenizer = Tokenizer(BYTES, [], ["<s>", "</s>", "<|eot|>"])
    config = TrainConfig(ModelConfig(259, 8, 16, 1, 2))
    asked: list[list[int]] = []
    for ends, first in ((Ends(256, [257, 258]), 256), (Ends(None, [258, 257]), 258)):
        for end in (257, 258):
            logits = np.zeros((1, 259))
            logits[0, end] = 99.0
            prefill, step = fake_steps(logits)

            def noting(state: Any, ids: np.ndarray, lengths: np.ndarray, slots: int) -> Any:
                asked.append(ids[0, : lengths[0]].tolist())
                return prefill(state, ids, lengths, slots)  # noqa: B023

            completion = Completion("", tokenizer)
            sampling = SamplingConfig(max_new_tokens=3)
            for _ in complete((noting, step), None, config, tokenizer, [completion], sampling, ends=ends):
                pass
            assert (completion.text, completion.ending) == ("", "stop")
            assert asked.pop() == [first]


def test_pairs_end_with_the_end_of_their_tokenizer(tmp_path: Path) -> None:
    Tokenizer(BYTES, [], ["<s>", "</s>"]).save(tmp_path / "tokenizer")
    (tmp_path / "pairs.jsonl").write_text('{"prefix": "a", "target": "b"}\n')
    files = ("--input", tmp_path / "pairs.jsonl", "--out", tmp_path / "pairs.npy")
    assert lm("tokenizer", "encode", "--tokenizer", tmp_path / "tokenizer", *files) == 0
    assert np.load(tmp_path / "pairs.npy").tolist() == [97, 257, 98, 257]


@pytest.mark.parametrize("eos", [7, [7, 9]])
def test_ends_come_with_an_import_and_go_with_an_export(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, eos: int | list[int]
) -> None:
    tokenizer = Tokenizer.load(made_pipeline / "tokenizer")
    assert lm("export", "--format", "hf", make_run(tmp_path / "run", MODEL, tokenizer), tmp_path / "hf") == 0

    def imported(name: str, **files: dict[str, Any]) -> Ends:
        folder = shutil.copytree(tmp_path / "hf", tmp_path / name)
        for file, changes in files.items():
            path = folder / f"{file}.json"
            facts = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(facts | changes))
        assert lm("import", "--format", "hf", folder, tmp_path / f"{name}.run") == 0
        return twinlm.load(tmp_path / f"{name}.run").ends

    none = {"bos_token_id": None, "eos_token_id": None}
    end = tokenizer.special_tokens["<|endoftext|>"]
    assert imported("as-it-is") == Ends(end, end)
    assert imported("generation", generation_config={"bos_token_id": 3, "eos_token_id": eos}) == Ends(3, eos)
    assert imported(
        "config", generation_config=none, config={"bos_token_id": 3, "eos_token_id": eos}
    ) == Ends(3, eos)
    texts = {"bos_token": None, "eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    assert imported("texts", generation_config=none, config=none, tokenizer_config=texts) == Ends(None, end)
    for file in ("config", "generation_config"):
        assert lm("export", "--format", "hf", tmp_path / "generation.run", tmp_path / f"{file}.out") == 0
        facts = json.loads((tmp_path / f"{file}.out" / f"{file}.json").read_text())
        assert (facts["bos_token_id"], facts["eos_token_id"]) == (3, eos)
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "hf" / "config.json").read_text()) | {"eos_token_id": 300})
    )
    line = refused(capsys, "import", "--format", "hf", tmp_path / "hf", tmp_path / "bad")
    assert "hf/config.json: eos_token_id is 300, and the model has the token ids 0 to 299" in line
    # They stop the text, of themselves; and a run that starts from the model keeps them.
    model = twinlm.load(tmp_path / "generation.run")
    flat = np.zeros((1, 300), np.float32)
    flat[0, 7] = 99.0
    model.__dict__["_steps"] = fake_steps(flat)
    assert [c.ending for c in model.complete(["a"], max_new_tokens=2)] == ["stop"]
    assert [c.ending for c in model.complete(["a"], "", max_new_tokens=2)] == ["length"]
    with pytest.raises(InputError, match=r"stop-token '<end>' is not one of .*: <\|endoftext\|>"):
        model.generate("a", "<end>")
    data = (
        "--train",
        made_pipeline / "train.npy",
        "--val",
        made_pipeline / "val.npy",
        "--out",
        tmp_path / "tuned",
    )
    settings = ("--config", tmp_path / "generation.run" / "config.toml", "--steps", 1, "--batch-size", 2)
    command = ("train", "--backend", "torch", *settings, *data)
    assert lm(*command, "--init-from", tmp_path / "generation.run") == 0
    assert twinlm.load(tmp_path / "tuned").ends == Ends(3, eos)


@pytest.fixture
def broken(made_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with NaN among its weights."""
    weights = test_hf.weights_of(MODEL)
    weights["ln_final.weight"][3] = np.nan
    monkeypatch.setattr(test_hf, "weights_of", lambda _: weights)
    return make_run(tmp_path / "run", MODEL, Tokenizer.load(made_pipeline / "tokenizer"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error")
def test_a_model_that_is_not_finite(made_pipeline: Path, broken: Path, capsys: Capture, backend: str) -> None:
    for command in (
        ("score", "a text"),
        ("score", "a text", "--json"),
        ("generate", "--prompt", "a"),
        ("generate", "--prompt", "a", "b", "--json"),
        ("eval", "--tokens", made_pipeline / "val.npy"),
    ):
        said = refused(capsys, command[0], "--checkpoint", broken, "--backend", backend, *command[1:])
        assert "logits are not finite" in said
        assert "an earlier checkpoint" in said
    assert not capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_exchanged(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    from safetensors.numpy import load_file, save_file

    line = refused(capsys, "export", "--format", "hf", broken, tmp_path / "hf")
    assert "'ln_final.weight' holds numbers that are not finite" in line
    assert not (tmp_path / "hf").exists()
    test_hf.weights_of(MODEL)["ln_final.weight"][3] = 1.0
    whole = make_run(tmp_path / "whole", MODEL, None)
    assert lm("export", "--format", "hf", whole, tmp_path / "hf") == 0
    file = tmp_path / "hf" / "model.safetensors"
    intact = load_file(file)
    for ours in ("lm_head.weight", "layers.1.attn.q_proj.weight"):
        name = llama_name(ours)
        for bad in (np.nan, np.inf):
            tensor = intact[name].copy()
            tensor[1, 2] = bad
            save_file(intact | {name: tensor}, file)
            line = refused(capsys, "import", "--format", "hf", tmp_path / "hf", tmp_path / "in")
            assert f"{tmp_path / 'hf'}: '{ours}' holds numbers that are not finite" in line
            assert not (tmp_path / "in").exists()


def test_overflow_is_not_nan(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits so large that the perplexity overflows still give a loss, and valid JSON."""
    weights = test_hf.weights_of(MODEL)
    weights["lm_head.weight"] *= 1e5
    monkeypatch.setattr(test_hf, "weights_of", lambda _: weights)
    run = make_run(tmp_path / "run", MODEL, Tokenizer.load(made_pipeline / "tokenizer"))
    assert lm("score", "--checkpoint", run, "a text of some length", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["perplexity"] is None
    assert facts["nats"] > 1e4
    assert lm("eval", "--checkpoint", run, "--tokens", made_pipeline / "val.npy") == 0
    assert "perplexity     inf" in capsys.readouterr().out
