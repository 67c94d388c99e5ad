"""`--exact`: a token's log-probability has the same bits, scored or generated, alone or in any batch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm as twinlm
from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.init import initial_weights
from lm.text.exact import ROWS, Exact, make_exact
from lm.text.generate import generate, log_probability
from lm.text.sampling import SamplingConfig
from tests.conftest import USUAL_XLA
from tests.lm.conftest import lm
from tests.lm.run.test_train import BACKENDS
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]
END = 7
MODEL = ModelConfig(vocab_size=300, context_length=24, d_model=128, num_layers=2, num_heads=4, num_kv_heads=2)
PACKED = TrainConfig(
    dataclasses.replace(MODEL, layer_types=("sliding", "full"), sliding_window=9),
    documents="packed",
    end_token=END,
    threads=2,  # so that products are split
)
LEARNED = TrainConfig(dataclasses.replace(MODEL, position="learned"), threads=1)


@pytest.fixture(scope="module", params=[(b, c) for b in BACKENDS for c in (PACKED, LEARNED)])
def exact(request: pytest.FixtureRequest) -> tuple[Exact, Any, TrainConfig]:
    backend_name, config = request.param
    backend = load(backend_name, config)
    state = backend.load_state(config, initial_weights(config.model, 0, "float32"), None)
    with pytest.MonkeyPatch.context() as patch:
        # Compile as for users: bits are the law here.
        patch.setattr("jax_impl.sharding.same_bits", lambda config: USUAL_XLA)
        return make_exact(backend, config), state, config


def write(
    exact: tuple[Exact, Any, TrainConfig], prompts: list[list[int]], new_tokens: int
) -> list[list[tuple[int, float | None]]]:
    """Return the tokens that continue each prompt, all at once, with their log-probabilities."""
    functions, state, config = exact
    written: list[list[tuple[int, float | None]]] = [[] for _ in prompts]
    for drawn in generate(
        functions.prefill,
        functions.decode_step,
        state,
        config,
        prompts,
        SamplingConfig(max_new_tokens=new_tokens),
        log_probabilities=True,
    ):
        written[drawn.row].append((drawn.token, drawn.log_probability))
    return written


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_text_has_the_same_bits_scored_or_written_in_a_batch_of_any_size(
    exact: tuple[Exact, Any, TrainConfig],
) -> None:
    functions, state, config = exact
    rng = np.random.default_rng(0)
    # No prompt holds the end of a document: the model would read only what follows it.
    prompts = [rng.integers(END + 1, 300, rng.integers(1, 15)).tolist() for _ in range(32)]
    for count, rows in ((ROWS, [ROWS - 1]), (32, [0, 17, 31])):
        written = write(exact, prompts[:count], 16)  # some go beyond the context
        for row in rows:
            assert write(exact, [prompts[row]], 16) == [written[row]]
            tokens = [token for token, _ in written[row]]
            text = (prompts[row] + tokens)[: config.model.context_length]
            (logits_TV,) = functions.logits(state, np.array([text]))
            start = len(prompts[row]) - 1
            scored = [log_probability(*pair) for pair in zip(logits_TV[start:], tokens, strict=False)]
            assert len(scored) > 5
            assert scored == [log_p for _, log_p in written[row][: len(scored)]]


def test_the_logits_of_a_text_have_the_same_bits_in_a_batch_of_any_size(
    exact: tuple[Exact, Any, TrainConfig],
) -> None:
    functions, state, config = exact
    ids_BT = np.random.default_rng(1).integers(0, 300, (ROWS + 1, config.model.context_length))
    ids_BT[::2, 11] = END
    together = functions.logits(state, ids_BT)
    for part in (slice(0, 1), slice(3, 5), slice(ROWS, ROWS + 1)):
        assert np.array_equal(functions.logits(state, ids_BT[part]), together[part])


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_logits_are_those_of_the_model(made_pipeline: Path, backend: BackendName) -> None:
    exact, plain = (twinlm.load(made_pipeline / "jax", backend, exact=is_exact) for is_exact in (True, False))
    ids = np.random.default_rng(0).integers(0, plain.config.model.vocab_size, (3, 16))
    np.testing.assert_allclose(exact.logits(ids), plain.logits(ids), rtol=1e-4, atol=1e-4)
    assert (
        exact.complete(["Once"], temperature=0.0)[0].text == plain.complete(["Once"], temperature=0.0)[0].text
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_commands_agree_on_every_bit(pipeline: Path, capsys: Capture, backend: str) -> None:
    start = twinlm.load(pipeline / "torch").ends.start
    model = "--checkpoint", pipeline / "torch", "--backend", backend, "--ids", "--exact", "--json"
    length = "--max-new-tokens", 6, "--stop-token", ""
    prompts = [f"{start} 5", f"{start} 9 8 7", f"{start}"]
    assert lm("generate", *model, "--prompt", *prompts, *length) == 0
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        assert lm("generate", *model, "--prompt", " ".join(map(str, line["prompt"])), *length) == 0
        assert json.loads(capsys.readouterr().out) == line
        text = [*line["prompt"][1:], *line["token_ids"]]  # a score begins with the token that begins a text
        assert lm("score", *model, " ".join(map(str, text))) == 0
        nats = [token["nats"] for token in json.loads(capsys.readouterr().out)["tokens"]]
        assert [-log_p for log_p in line["log_probabilities"]] == nats[-6:]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compute_dtype": "bfloat16"}, "computes in bfloat16"),
        ({"device": "cuda"}, "cuda may take another kernel"),
        (
            {"model": dataclasses.replace(MODEL, architecture="encoder_decoder", prefix_length=8)},
            "only a decoder is exact",
        ),
    ],
)
def test_exact_refuses_what_it_cannot_promise(changes: dict[str, Any], says: str) -> None:
    config = dataclasses.replace(LEARNED, **changes)
    with pytest.raises(InputError, match=says):
        make_exact(load("torch", LEARNED), config)
