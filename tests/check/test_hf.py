"""`lm check --hf`: both backends beside transformers."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch_impl.backend
from lm.accounting import limits
from lm.config import ModelConfig, TrainConfig
from lm.run.leaves import Leaves
from parity import oracle
from parity.check.hf import theirs, truth
from parity.check.hf.answer import Texts
from parity.check.hf.folder import Folder
from parity.check.hf.judge import (
    Difference,
    Measured,
    Part,
    find_differences,
    judge_numbers,
    judge_texts,
    measure,
    places,
)
from parity.check.hf.ours import Ours
from parity.check.hf.page import page
from parity.check.hf.run import run_hf
from parity.check.hf.theirs import import_transformers
from parity.check.hf.work import NEW_TOKENS, TEXT, choose_work
from parity.check.models import Precision
from tests.lm.conftest import lm
from tokenizer import Tokenizer, train_bpe

Capture = pytest.CaptureFixture[str]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
LLAMA = SIZES | {"intermediate_size": 24, "num_key_value_heads": 2, "max_position_embeddings": 64}


WINDOW = 9


def save(folder: Path, family: str, **settings: Any) -> Path:
    """Let transformers save a model whose weights are all random, those of norms and biases, too."""
    import torch

    transformers = import_transformers()
    config = transformers.AutoConfig.for_model(family, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, mean=0.0 if p.ndim > 1 else 0.7, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hf") / "llama", "llama", **LLAMA)


def quiet(text: str) -> None:
    """Show no progress."""


def test_gemma_passes_and_the_command_writes_what_it_found(tmp_path: Path, capsys: Capture) -> None:
    gemma = save(
        tmp_path / "gemma",
        "gemma3_text",
        **LLAMA,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=11,
    )
    files = {name: tmp_path / f"found.{name}" for name in ("json", "html", "png")}
    with pytest.raises(SystemExit) as exit:
        lm("check", "--hf", gemma, *(word for name, file in files.items() for word in (f"--{name}", file)))
    assert exit.value.code == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"{gemma}: pass"
    assert f"both backends continue all 2 prompts by transformers' {NEW_TOKENS} tokens" in " ".join(
        out.split()
    )
    assert "random ids alone" in out
    assert "lm: jax_impl in bfloat16" in err
    facts = json.loads(files["json"].read_text())
    parts = {part["part"]: part["status"] for part in facts["parts"]}
    assert parts == {"float32": "pass", "bfloat16": "pass", "text": "pass"}
    assert facts["work"]["reaches_window"]
    single, half = (
        {m["implementation"]: m for m in facts["measured"] if m["dtype"] == dtype}
        for dtype in ("float32", "bfloat16")
    )
    assert single.keys() == {"transformers", "torch_impl, eager", "jax_impl, eager", "jax_impl, jit"}
    assert half.keys() == single.keys() - {"jax_impl, eager"}
    assert all(0 < m["error"] < 2e-6 and m["top1"] == m["top5"] == 1 for m in single.values())
    assert all(len(m["drift"]) == 3 for m in single.values())
    assert all(1e-3 < m["error"] < 0.1 for m in half.values())
    assert facts["differences"] == []
    html = files["html"].read_text()
    assert "both backends agree with transformers" in html
    assert "{{" not in html
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_gpt2_passes_with_its_tokenizer(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "gpt2", "gpt2", n_embd=16, n_layer=2, n_head=4, vocab_size=300, n_positions=64, n_inner=24
    )
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    tokenizer = Tokenizer(*train_bpe(tmp_path / "text", 290, ["<|endoftext|>"]), ["<|endoftext|>"])
    tokenizer.save_tokenizers_json(folder / "tokenizer.json")
    verdict = run_hf(folder, quiet)
    assert [(part.name, part.told) for part in verdict.parts if part.is_off] == []
    assert [part.name for part in verdict.parts] == ["tokenizer", "float32", "bfloat16", "text"]
    assert verdict.differences == ()
    assert verdict.model.startswith("gpt2 of ")
    assert verdict.work.sources == ("a short story", "random ids")
    assert TEXT.startswith(verdict.shown[0][0])
    evil = "<script>alert(1)</script>"
    assert "<script" not in page(replace(verdict, notes=(evil,), shown=((evil, evil),), folder=Path(evil)))


def ask_torch(folder: Path) -> tuple[Part, list[Difference]]:
    """Return what torch's numbers in float32, and its texts, are judged to be."""
    found = Folder(folder)
    questions = choose_work(found.config, None).questions
    model = theirs.load_model(folder, "float32")
    texts = theirs.write_texts(model, questions)
    ours = Ours("torch", TrainConfig(found.config), found.weights)
    exact = truth.compute_truth(found.config, found.weights, questions.ids)
    numbers = [theirs.compute_numbers(model, "float32", questions.ids), *ours.numbers(questions.ids)]
    differences = [
        difference
        for text in ours.texts(questions, texts)
        for difference in find_differences(text, texts, questions.prompts, 0.0)
    ]
    return judge_numbers([measure(n, exact, found.config) for n in numbers]), differences


def test_a_wrong_layer_is_found_there(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, differences = ask_torch(llama)
    assert not part.is_off
    assert not differences
    load = torch_impl.backend.load_state

    def load_wrong(config: Any, weights: Leaves, *args: Any) -> Any:
        wrong = ((n, leaf[...] * (2 if n == "layers.1.ln1.weight" else 1)) for n, leaf in weights)
        return load(config, wrong, *args)

    monkeypatch.setattr(torch_impl.backend, "load_state", load_wrong)
    part, differences = ask_torch(llama)
    assert part.told.startswith("torch_impl, eager is off from layer 2 and the final norm on: ")
    assert {d.name for d in differences if not d.is_tie} == {
        f"torch_impl, {how}" for how in ("with a cache", "in a batch", "without a cache")
    }


def test_a_cache_that_keeps_a_wrong_place_is_found_in_the_text(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = torch_impl.backend.make_decode_step

    def make_wrong(config: TrainConfig) -> Any:
        step = make(config)
        return lambda state, cache, ids, positions: step(state, cache, ids, positions + 1)

    monkeypatch.setattr(torch_impl.backend, "make_decode_step", make_wrong)
    part, differences = ask_torch(llama)
    assert not part.is_off
    assert {d.name for d in differences} == {"torch_impl, with a cache", "torch_impl, in a batch"}


def measured(name: str, dtype: Any, *errors: float) -> Measured:
    """Return errors of the embeddings, of two layers and of the logits."""
    threshold = 1e-5 if dtype == "float32" else 3e-2
    return Measured(name, Precision(dtype, errors[-1], threshold, 0.0, 1.0, 1.0, errors[:-1]))


def test_the_side_that_is_off_is_named_with_its_first_layer() -> None:
    right, wrong = (0.0, 1e-6, 1e-6, 1e-6), (0.0, 1e-6, 2e-3, 1e-3)

    def told(transformers: tuple[float, ...], torch: tuple[float, ...], jax: tuple[float, ...]) -> str:
        names = ("transformers", "torch_impl, eager", "jax_impl, jit")
        part = judge_numbers(
            [measured(name, "float32", *e) for name, e in zip(names, (transformers, torch, jax), strict=True)]
        )
        return f"{part.is_off}: {part.told}"

    assert told(right, right, right).startswith("False")
    assert told(right, right, wrong).startswith(
        "True: jax_impl, jit is off from layer 2 and the final norm on"
    )
    assert told(wrong, right, right).startswith(
        "True: transformers is off from layer 2 and the final norm on"
    )
    # Rounding that weights amplify is in all of them.
    assert told(wrong, wrong, wrong).startswith("False")
    large, nan = (0.0, 1e-6, 0.5, 0.5), (0.0, 1e-6, np.nan, np.nan)
    assert told(large, large, large).startswith("True: torch_impl, eager is off")
    assert told(right, nan, right).startswith("True: torch_impl, eager is off from layer 2")
    assert places(1) == ["embeddings", "layer 1 and the final norm", "logits"]


def test_in_bfloat16_ours_must_be_as_near_as_transformers_is() -> None:
    other = measured("transformers", "bfloat16", 0.0, 0.1, 0.1, 0.1)
    for error, is_off in ((0.39, False), (0.41, True)):
        part = judge_numbers([other, measured("torch_impl, eager", "bfloat16", 0.0, 0.1, 0.1, error)])
        assert part.is_off == is_off
    assert "off from logits on" in part.told


def test_a_text_differs_unless_rounding_may_have_decided() -> None:
    logits = np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 2.0 - 1e-6], [5.0, 1.0, 0.0]], np.float32)
    right = Texts("transformers", [[1, 0, 0]], [logits])

    def differences(*tokens: int) -> Any:
        return find_differences(Texts("ours", [list(tokens)]), right, [(7, 7)], 0.0)

    assert differences(1, 0, 0) == []
    (tie,) = differences(1, 2, 1)
    assert (tie.prompt, tie.step, tie.is_tie) == (2, 2, True)
    (wrong,) = differences(2, 0, 0)
    assert (wrong.ours, wrong.theirs, wrong.gap, wrong.is_tie) == (2, 1, 2.0, False)
    assert not judge_texts([tie], 1, 3).is_off
    assert (
        "token 1 after the prompt of 2 tokens is 2; transformers has 1"
        in judge_texts([tie, wrong], 1, 3).told
    )


def test_texts_reach_over_the_window_if_the_model_is_small_enough() -> None:
    small = ModelConfig(300, 512, 16, 2, 4, sliding_window=100)
    work = choose_work(small, None)
    short, long = map(len, work.questions.prompts)
    assert work.reaches
    assert work.questions.ids.shape[1] > 100
    assert short < 100 < short + NEW_TOKENS
    assert long > 100
    large = replace(small, d_model=4096, num_layers=100, num_heads=32, d_ff=None, d_head=None)
    told = choose_work(replace(large, sliding_window=500), None).lines()
    assert "the sliding window of 500 tokens is not reached: texts that long would take minutes" in told
    # A window that no text within the context exceeds.
    assert choose_work(replace(small, context_length=100), None).window is None
    for context_length in (1, 2, 30):
        questions = choose_work(ModelConfig(300, context_length, 16, 2, 4), None).questions
        assert max(map(len, questions.prompts)) + questions.new_tokens <= max(context_length, 2)


def test_looking_rows_up_is_the_oracles_embedding() -> None:
    weight, ids = np.random.default_rng(0).normal(size=(5, 6)), np.array([[0, 4], [4, 1]])
    np.testing.assert_array_equal(truth.embedding(weight, ids), oracle.embedding(weight, ids))


def test_bad_input_is_exit_code_2(
    llama: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(folder: Path) -> str:
        assert lm("check", "--hf", folder) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "config.json" in told(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    assert "no model.safetensors" in told(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "total_memory", lambda: 10**6)
        assert "parameters takes" in told(llama)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'twinlm[hf]'" in told(llama)
