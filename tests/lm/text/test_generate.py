"""The same text from both backends, cached or not, batched or alone; and text given out in whole characters."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.backend import load
from lm.config import ModelConfig, TrainConfig
from lm.text.complete import Completion, complete
from lm.text.generate import Drawn, Ending, generate
from lm.text.sampling import SamplingConfig
from tokenizer import InputError, Tokenizer

CONFIG = TrainConfig(ModelConfig(32, 8, 16, 2, 2), compute_dtype="float64")
PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7, 8], [9, 9]]


def write(
    backend_name: str,
    prompts: list[list[int]],
    sampling: SamplingConfig,
    stop: set[int] | None = None,
    config: TrainConfig = CONFIG,
) -> tuple[dict[int, list[int]], dict[int, Ending]]:
    """The tokens of each row, and why it ended."""
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
def test_a_stop_token_ends_its_row_only(backend_name: str) -> None:
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
    # The token after the last position is told by it, and not read.
    assert [len(prompt) + len(tokens[row]) for row, prompt in enumerate(PROMPTS)] == [9, 9, 9]
    assert set(endings.values()) == {"context"}


def test_the_caller_may_end_a_row() -> None:
    backend = load("torch", CONFIG)
    steps = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    endings: dict[int, Ending] = {}
    seen = []
    sampling = SamplingConfig(max_new_tokens=5)
    for drawn in generate(*steps, backend.init_state(CONFIG, 0), CONFIG, PROMPTS, sampling, (), endings):
        seen.append(drawn.row)
        if drawn.row == 1:
            endings[1] = "stop"
    assert seen == [0, 1, 2] + [0, 2] * 4


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
    # Two prompts of different lengths in one batch, padded with what must not be seen.
    lengths = np.array([2, 5])
    logits, cache = prefill(state, ids, lengths)
    for _ in range(3):
        logits, cache = decode_step(state, cache, ids[[0, 1], lengths], lengths)
        lengths = lengths + 1
        whole, _ = prefill(state, ids, lengths)
        np.testing.assert_allclose(logits, whole, rtol=1e-12)


@pytest.mark.parametrize(("prompt_tokens", "new_tokens"), [(17, 4), (3, 70)])
def test_the_cache_has_room_for_the_prompt_and_for_what_follows(prompt_tokens: int, new_tokens: int) -> None:
    """Of 17 and 4 tokens it once had 24 slots, and the prompt's pass wrote 32; 70 are beyond the context."""
    config = dataclasses.replace(CONFIG, model=ModelConfig(32, 64, 16, 2, 2))
    prompts, sampling = [[5] * prompt_tokens, [7, 1]], SamplingConfig(max_new_tokens=new_tokens)
    torch, _ = write("torch", prompts, sampling, config=config)
    assert torch == write("jax", prompts, sampling, config=config)[0]
    assert torch[1] == write("torch", prompts[1:], sampling, config=config)[0][0]


def fake_steps(logits: np.ndarray) -> tuple[Any, Any]:
    """A model that says the same at every step."""
    return lambda state, ids, lengths, slots=None: (logits, None), lambda state, cache, ids, positions: (
        logits,
        None,
    )


def test_log_probabilities_and_ties() -> None:
    """Log-probabilities are the model's own; two tokens within rounding are reported, others are not."""
    near = np.array([[5.0, 5.0 - 1e-5, -5.0]])
    for logits, tied in ((near, True), (near.round(2) - [[0, 1, 0]], False)):
        config = dataclasses.replace(CONFIG, compute_dtype="float32")
        sampling = SamplingConfig(max_new_tokens=1, temperature=0.0, top_k=1)
        (drawn,) = generate(*fake_steps(logits), None, config, [[1]], sampling, log_probabilities=True)
        assert drawn.token == 0
        assert drawn.log_probability == pytest.approx(5.0 - np.log(np.exp(logits).sum()), rel=1e-12)
        assert (drawn.tie is not None) == tied
        if drawn.tie:
            assert (drawn.tie.runner_up, drawn.tie.gap) == (1, pytest.approx(1e-5))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    sampling = SamplingConfig(max_new_tokens=1, temperature=temperature)
    with pytest.raises(InputError, match="logits are not finite"):
        list(generate(*fake_steps(np.array([[0.0, bad]])), None, CONFIG, [[1]], sampling))


BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])


def drawn(token: int) -> Drawn:
    return Drawn(0, token, 0.0, None)


@given(st.binary(max_size=20))
def test_characters_are_never_halved(data: bytes) -> None:
    completion = Completion("", BYTES)
    given_out = [completion.add(drawn(byte)) for byte in data]
    given_out.append(completion.finish("length"))
    assert "".join(given_out) == completion.text == data.decode("utf-8", "replace")
    for n, text in enumerate(given_out[:-1]):
        # So far exactly what no later byte can change.
        certain = len("".join(given_out[: n + 1]))
        assert all(
            (data[: n + 1] + more).decode("utf-8", "replace")[:certain] == completion.text[:certain]
            for more in (b"", b"a", b"\x80", data[n + 1 :])
        )
        assert text == "" or text in completion.text


@given(st.text("abé", max_size=12), st.lists(st.text("abé", min_size=1, max_size=3), max_size=3))
def test_stop_texts(text: str, stop: list[str]) -> None:
    completion = Completion("", BYTES, tuple(stop))
    given_out = ""
    for byte in text.encode():
        given_out += completion.add(drawn(byte))
        assert not any(s in given_out for s in stop)
        if completion.ending:
            break
    given_out += completion.finish("length")
    # The first end of a stop text is where it is noticed; the text goes up to the first start.
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(s) for s in stop)]
    if not ends:
        assert (given_out, completion.ending) == (text, "length")
    else:
        cut = min(text[: ends[0]].find(s) for s in stop if s in text[: ends[0]])
        assert (given_out, completion.ending) == (text[:cut], "stop")


def test_completions_end_each_for_its_own_reason() -> None:
    logits = np.zeros((2, 257))
    logits[0, ord("x")] = logits[1, BYTES.special_tokens["<|endoftext|>"]] = 50.0
    config = TrainConfig(ModelConfig(257, 8, 16, 1, 2))
    for stop, texts, reasons in (
        ((), ["xxx", ""], ["length", "stop"]),
        (("xx",), ["", ""], ["stop", "stop"]),
    ):
        sampling = SamplingConfig(max_new_tokens=3, stop=stop)
        completions = [Completion(prompt, BYTES, stop) for prompt in ("a", "")]
        pieces = list(complete(fake_steps(logits), None, config, BYTES, completions, sampling))
        for completion, text, reason in zip(completions, texts, reasons, strict=True):
            assert "".join(piece for c, piece in pieces if c is completion) == completion.text == text
            assert completion.ending == reason
