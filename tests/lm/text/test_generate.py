"""Generated tokens: equal in both backends, cached or not, batched or alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.config.model import Position
from lm.text.generate import Ending, drawable_tokens, generate
from lm.text.sampling import SamplingConfig
from tests.lm.conftest import lm, train_command
from tests.lm.run.test_train import BACKENDS
from tests.lm.text.models import BYTES, fake_steps
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


CONFIG = TrainConfig(ModelConfig(32, 8, 16, 2, 2), compute_dtype="float64")


PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7, 8], [9, 9]]


def write(
    backend_name: str,
    prompts: list[list[int]],
    sampling: SamplingConfig,
    stop: set[int] | None = None,
    config: TrainConfig = CONFIG,
) -> tuple[dict[int, list[int]], dict[int, Ending]]:
    """Generate, and return the tokens of each row and why each row ended."""
    backend = load(backend_name, config)  # type: ignore[arg-type]
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    endings: dict[int, Ending] = {}
    tokens: dict[int, list[int]] = {row: [] for row in range(len(prompts) * sampling.samples)}
    state = backend.init_state(config, 0)
    for drawn in generate(*steps, state, config, prompts, sampling, stop or set(), endings):
        tokens[drawn.row].append(drawn.token)
    return tokens, endings


def test_both_backends_write_the_same_batched_or_alone() -> None:
    # Far beyond the context of 8, so that the cache slides around more than once.
    sampling = SamplingConfig(max_new_tokens=30, seed=1, samples=2, top_k=20, repetition_penalty=1.2)
    torch, endings = write("torch", PROMPTS, sampling)
    assert (torch, endings) == write("jax", PROMPTS, sampling)
    assert [len(tokens) for tokens in torch.values()] == [30] * 6
    assert set(endings.values()) == {"length"}
    assert len({tuple(tokens) for tokens in torch.values()}) == 6
    for i, prompt in enumerate(PROMPTS):
        alone, _ = write("torch", [prompt], sampling)
        assert [alone[0], alone[1]] == [torch[2 * i], torch[2 * i + 1]]


@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_a_stop_token_ends_only_its_row(backend_name: str) -> None:
    sampling = SamplingConfig(max_new_tokens=12, seed=1)
    free, _ = write(backend_name, PROMPTS, sampling)
    stop = free[1][4]
    stopped, endings = write(backend_name, PROMPTS, sampling, {stop})
    for row, tokens in free.items():
        assert stopped[row] == (tokens[: tokens.index(stop)] if stop in tokens else tokens)
        assert endings[row] == ("stop" if stop in tokens else "length")


@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_learned_positions_end_the_text(backend_name: str) -> None:
    model = dataclasses.replace(CONFIG.model, position="learned")
    tokens, endings = write(
        backend_name,
        PROMPTS,
        SamplingConfig(max_new_tokens=12),
        config=dataclasses.replace(CONFIG, model=model),
    )
    # The last position predicts one more token, which is not read.
    assert [len(prompt) + len(tokens[row]) for row, prompt in enumerate(PROMPTS)] == [9, 9, 9]
    assert set(endings.values()) == {"context"}


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_an_end_token_begins_a_new_document_if_documents_are_packed(
    backend_name: BackendName, position: Position
) -> None:
    """Each token has the probability that a fresh context gives, after an end token in the prompt or a drawn one."""
    model, end = dataclasses.replace(CONFIG.model, position=position), 5
    joined = dataclasses.replace(CONFIG, model=model)
    config = dataclasses.replace(joined, documents="packed", end_token=end)
    backend = load(backend_name, config)
    steps, state = (
        (backend.make_prefill(config), backend.make_decode_step(config)),
        backend.init_state(config, 0),
    )
    fresh_logits = backend.make_logits(joined)
    texts = [[1, 2, 3, 4, 6, 7, 8, 9, end, 3], [4]]
    drawable = np.isin(np.arange(32), [end, 6, 7])
    sampling, ends, compared = SamplingConfig(max_new_tokens=20, seed=1), 0, 0
    for drawn in generate(*steps, state, config, texts, sampling, log_probabilities=True, drawable=drawable):
        text = texts[drawn.row]
        starts = [i for i, token in enumerate(text) if token == end]
        document = text[starts[-1] if starts else 0 :]
        if len(document) <= 8:
            logits = fresh_logits(state, np.array([document]))[0, -1]
            exact = logits[drawn.token] - np.log(np.exp(logits).sum())
            assert drawn.log_probability == pytest.approx(exact, rel=1e-12)
            compared += 1
        text.append(drawn.token)
        ends += drawn.token == end
    assert ends > 3
    assert compared > 15


def test_the_caller_may_end_a_row() -> None:
    backend = load("torch", CONFIG)
    steps = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    endings: dict[int, Ending] = {}
    rows = []
    sampling = SamplingConfig(max_new_tokens=5)
    for drawn in generate(*steps, backend.init_state(CONFIG, 0), CONFIG, PROMPTS, sampling, (), endings):
        rows.append(drawn.row)
        if drawn.row == 1:
            endings[1] = "stop"
    assert rows == [0, 1, 2] + [0, 2] * 4


@pytest.mark.parametrize("prompt", [[], [0] * 9])
def test_a_prompt_must_fit_the_context(prompt: list[int]) -> None:
    with pytest.raises(InputError, match=f"the prompt has {len(prompt)} tokens; give from 1 to .* 8"):
        write("torch", [[1], prompt], SamplingConfig())


@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_within_the_context_the_cache_changes_nothing(backend_name: str) -> None:
    backend = load(backend_name, CONFIG)  # type: ignore[arg-type]
    prefill, decode_step = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    state = backend.init_state(CONFIG, 0)
    ids = np.arange(16, dtype=np.int32).reshape(2, 8)
    # Two prompts of different lengths in one batch. The padding must not be attended to.
    lengths = np.array([2, 5])
    logits, cache = prefill(state, ids, lengths)
    for _ in range(3):
        logits, cache = decode_step(state, cache, ids[[0, 1], lengths], lengths)
        lengths = lengths + 1
        whole, _ = prefill(state, ids, lengths)
        np.testing.assert_allclose(logits, whole, rtol=1e-12)


@pytest.mark.parametrize(("prompt_tokens", "new_tokens"), [(17, 4), (3, 70)])
def test_the_cache_has_room_for_the_prompt_and_the_new_tokens(prompt_tokens: int, new_tokens: int) -> None:
    """For 17 and 4 tokens the cache once had 24 slots, but the prefill wrote 32. 70 tokens exceed the context."""
    config = dataclasses.replace(CONFIG, model=ModelConfig(32, 64, 16, 2, 2))
    prompts, sampling = [[5] * prompt_tokens, [7, 1]], SamplingConfig(max_new_tokens=new_tokens)
    torch, _ = write("torch", prompts, sampling, config=config)
    assert torch == write("jax", prompts, sampling, config=config)[0]
    assert torch[1] == write("torch", prompts[1:], sampling, config=config)[0][0]


def test_log_probabilities_and_ties() -> None:
    """Log-probabilities ignore temperature and top-k. A runner-up is reported if rounding may have decided."""
    near = np.array([[5.0, 5.0 - 1e-5, -5.0]])
    for logits, tied in ((near, True), (near.round(2) - [[0, 1, 0]], False)):
        config = dataclasses.replace(CONFIG, compute_dtype="float32")
        sampling = SamplingConfig(max_new_tokens=1, temperature=0.0, top_k=1)
        (drawn,) = generate(*fake_steps(logits), None, config, [[1]], sampling, log_probabilities=True)
        assert drawn.token == 0
        assert drawn.log_probability == pytest.approx(5.0 - np.log(np.exp(logits).sum()), rel=1e-12)
        assert (drawn.tie is not None) == tied
        if drawn.tie:
            assert drawn.tie.runner_up == 1
            assert drawn.tie.gap == pytest.approx(1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    sampling = SamplingConfig(max_new_tokens=1, temperature=temperature)
    with pytest.raises(InputError, match="logits are not finite"):
        list(generate(*fake_steps(np.array([[0.0, bad]])), None, CONFIG, [[1]], sampling))


def test_gaps_in_a_tokenizer_are_not_drawable_but_stop_tokens_are() -> None:
    gaps = Tokenizer({i + 100 * (i > 5): bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])
    drawable = drawable_tokens(gaps, [50, 10**6], 400)
    assert drawable is not None
    assert np.flatnonzero(drawable).tolist() == [*range(6), 50, *range(106, 357)]
    assert drawable_tokens(Tokenizer(BYTES, []), (), 256) is None
    with pytest.raises(InputError, match="has text for none of the model's ids, 0 to 4"):
        drawable_tokens(Tokenizer({i + 9: bytes([i]) for i in range(256)}, []), (), 5)


def test_ids_without_text_are_never_drawn(pipeline: Path, capsys: Capture) -> None:
    """The model has 320 ids, padded as in nanoGPT, and the tokenizer 300. Samples in training, and both backends."""
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
