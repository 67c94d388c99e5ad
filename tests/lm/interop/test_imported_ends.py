"""The tokens that begin and end texts, in an import, in the runs that start from it, and in an export."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.text.ends import Ends
from tests.lm.conftest import lm, refused
from tests.lm.interop.models import MODEL, make_run, read_json
from tests.lm.text.models import fake_steps
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


def test_a_prompt_begins_as_in_transformers(made_pipeline: Path, tmp_path: Path) -> None:
    """Its tokenizer puts a token in front of each text, whatever config.json says about it."""
    transformers = pytest.importorskip("transformers")
    plain = Tokenizer.load(made_pipeline / "tokenizer")
    vocab = {i: token for i, token in plain.vocab.items() if i not in plain.special_tokens.values()}
    special = [*plain.special_tokens, "<|begin|>"]
    tokenizer = Tokenizer(vocab, plain.merges, special, bos_token="<|begin|>")
    model = dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size)
    assert lm("export", "--format", "hf", make_run(tmp_path / "run", model, tokenizer), tmp_path / "hf") == 0
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "imported") == 0
    imported = twinlm.load(tmp_path / "imported")
    begin = tokenizer.special_tokens["<|begin|>"]
    assert imported.ends.bos_token_id == begin
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("Once", return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [begin, *tokenizer.encode("Once")]
    greedy = theirs.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    ours = imported.complete(["Once"], max_new_tokens=8, temperature=0.0)[0]
    assert [drawn.token for drawn in ours.drawn] == greedy.tolist()[: len(ours.drawn)]
    # The score of a text, too, is that after the token.
    logits = imported.logits([begin, *tokenizer.encode("Once")])[0].astype(np.float64)
    nats = np.log(np.exp(logits).sum()) - logits[tokenizer.encode("Once")[0]]
    assert imported.score("Once").nats[0] == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("eos", [7, [7, 9]])
def test_ends_are_imported_kept_and_exported(
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
    assert imported("unchanged") == Ends(end, end)
    assert imported("generation", generation_config={"bos_token_id": 3, "eos_token_id": eos}) == Ends(3, eos)
    assert imported(
        "config", generation_config=none, config={"bos_token_id": 3, "eos_token_id": eos}
    ) == Ends(3, eos)
    texts = {"bos_token": None, "eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    assert imported("texts", generation_config=none, config=none, tokenizer_config=texts) == Ends(None, end)
    assert lm("export", "--format", "hf", tmp_path / "generation.run", tmp_path / "out") == 0
    for file in ("config.json", "generation_config.json"):
        assert read_json(tmp_path / "out" / file) == read_json(tmp_path / "generation" / file)
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "hf" / "config.json").read_text()) | {"eos_token_id": 300})
    )
    line = refused(capsys, "import", "--format", "hf", tmp_path / "hf", tmp_path / "bad")
    assert "hf/config.json: eos_token_id is 300, and the model has the token ids 0 to 299" in line
    # They stop a text without a --stop-token, and a run that starts from the model keeps them.
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
