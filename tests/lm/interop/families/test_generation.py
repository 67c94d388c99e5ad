"""Both backends write transformers' greedy text, with their caches, alone and in a batch, beyond a sliding window."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from lm.backend import BackendName, load
from lm.run import checkpoint
from lm.run.loading import load_state
from lm.text.generate import generate
from lm.text.sampling import SamplingConfig
from tests.lm.interop.families.conftest import Imported
from tests.lm.interop.families.models import CONTEXT, FAMILIES, VOCABULARY, WINDOW
from tests.lm.interop.families.numbers import OURS

NEW = 20
LENGTHS = 3, WINDOW + 1, CONTEXT - NEW - 1
PROMPTS = [np.random.default_rng(n).integers(0, VOCABULARY, n).tolist() for n in LENGTHS]


@pytest.fixture(scope="module")
def expected(imported: Callable[..., Imported]) -> Callable[[str], list[list[int]]]:
    """Return a function that gives transformers' greedy tokens after each prompt."""

    @cache
    def expected(case: str) -> list[list[int]]:
        texts, model = [], imported(case).model
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            text = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
            texts.append(text[0, len(prompt) :].tolist())
        return texts

    return expected


def write(model: Imported, backend: BackendName, prompts: list[list[int]]) -> list[list[int]]:
    """Return our greedy tokens after each prompt."""
    module = load(backend, model.config)
    state = load_state(checkpoint.latest(model.run), model.config, module, with_optimizer=False)
    steps = module.make_prefill(model.config), module.make_decode_step(model.config)
    drawn = list(generate(*steps, state, model.config, prompts, SamplingConfig(NEW, temperature=0.0)))
    return [[d.token for d in drawn if d.row == row] for row in range(len(prompts))]


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("case", FAMILIES)
def test_greedy_tokens_of_a_batch_are_those_of_transformers(
    imported: Callable[..., Imported],
    expected: Callable[[str], list[list[int]]],
    case: str,
    backend: BackendName,
) -> None:
    assert write(imported(case), backend, PROMPTS) == expected(case)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("case", ["gemma3_text"])
def test_a_prompt_alone_is_continued_as_in_the_batch(
    imported: Callable[..., Imported],
    expected: Callable[[str], list[list[int]]],
    case: str,
    backend: BackendName,
) -> None:
    assert write(imported(case), backend, PROMPTS[:1]) == expected(case)[:1]
