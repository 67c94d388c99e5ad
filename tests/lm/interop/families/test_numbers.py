"""Both backends compute what transformers computes: logits, all hidden states, and every weight's gradient."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from lm.backend import BackendName
from lm.budgets import BUDGETS, Dtype, relative_error
from lm.config import ModelConfig
from lm.init import parameter_shapes
from lm.interop import families as interop_families
from tests.lm.interop.families.conftest import Imported
from tests.lm.interop.families.models import CASES, FAMILIES, IDS, in_dtype
from tests.lm.interop.families.numbers import LOGITS, OURS, Numbers, theirs
from tokenizer.errors import InputError


def errors(a: Numbers, b: Numbers) -> dict[str, float]:
    """Return the largest norm-wise errors of logits, hidden states and gradients."""
    assert len(a.hidden) == len(b.hidden)
    assert a.gradients.keys() == b.gradients.keys()
    # Without RoPE a bias of the keys changes no weight of attention, so its gradient is zero.
    flow = float(np.linalg.norm([np.linalg.norm(g) for g in b.gradients.values()]))
    return {
        "logits": relative_error(a.logits, b.logits),
        "hidden": max(relative_error(x, y) for x, y in zip(a.hidden, b.hidden, strict=True)),
        "gradients": max(relative_error(a.gradients[name], g, flow) for name, g in b.gradients.items()),
    }


RUNS: list[tuple[str, Dtype]] = [(case, "float64") for case in CASES]
RUNS += [(case, "float32") for case in FAMILIES]


def test_each_family_has_a_case() -> None:
    assert set(FAMILIES) == set(interop_families.FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_each_option_of_a_case_changes_its_logits(imported: Callable[..., Imported], case: str) -> None:
    model = imported(case)
    config = model.config.model
    sizes = (config.vocab_size, config.context_length, config.d_model, config.num_layers, config.num_heads)
    plain = ModelConfig(*sizes, config.d_ff, num_kv_heads=config.num_kv_heads, d_head=config.d_head)
    others = {name: value for name, value in asdict(plain).items() if value != getattr(config, name)}
    if config.sliding_window is not None:
        others["sliding_window"] = config.sliding_window + 1
    for name, value in others.items():
        try:
            other = replace(config, **{name: value})
        except InputError:  # another option needs this one
            continue
        if parameter_shapes(other) == parameter_shapes(config):
            logits = LOGITS["torch"](other, model.weights, IDS, "float64")
            assert relative_error(logits, model.truth.logits) > 1e-4, name


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_a_family_has_the_numbers_of_transformers(
    imported: Callable[..., Imported], case: str, backend: BackendName, dtype: Dtype
) -> None:
    model = imported(case)
    found = errors(OURS[backend](model.config.model, model.weights, IDS, dtype), model.truth)
    budget = BUDGETS[dtype]
    assert found["logits"] < budget.model_forward
    assert found["hidden"] < budget.model_forward
    assert found["gradients"] < budget.model_gradient


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma3_text"])
def test_outliers_of_trained_models_cost_no_more_digits_than_in_transformers(
    imported: Callable[..., Imported], transformers: Any, case: str, backend: BackendName, dtype: Dtype
) -> None:
    model = imported(case, outliers=True)
    stream = np.abs(model.truth.hidden[1]).mean((0, 1))
    assert np.sum(stream > 40 * np.median(stream)) == 2
    found = errors(OURS[backend](model.config.model, model.weights, IDS, dtype), model.truth)
    if dtype == "float64":
        assert max(found.values()) < BUDGETS[dtype].model_gradient
    else:
        copy = theirs(in_dtype(transformers, model.model, "float32"), IDS)
        wide = theirs(in_dtype(transformers, model.model, "float64"), IDS)
        expected = errors(copy, wide)
        # Two orders of summation differ by a factor of 3 on one text.
        assert all(found[what] < 4 * expected[what] for what in found), (found, expected)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("case", FAMILIES)
def test_bfloat16_is_as_near_to_the_truth_as_in_transformers(
    imported: Callable[..., Imported], transformers: Any, case: str, backend: BackendName
) -> None:
    model = imported(case)
    with torch.no_grad():
        copy = in_dtype(transformers, model.model, "bfloat16")
        logits = copy(torch.tensor(IDS[:, :-1])).logits.double().numpy()
    found = LOGITS[backend](model.config.model, model.weights, IDS, "bfloat16")
    error = relative_error(found, model.truth.logits)
    assert error < BUDGETS["bfloat16"].model_forward
    assert error < 1.5 * relative_error(logits, model.truth.logits)


def test_transformers_needs_its_float64_mode(imported: Callable[..., Imported], transformers: Any) -> None:
    model = imported("llama")
    ours = OURS["torch"](model.config.model, model.weights, IDS, "float64").logits
    without = in_dtype(transformers, model.model, "float32").double()
    with torch.no_grad():
        logits = without(torch.tensor(IDS[:, :-1])).logits.numpy()
    assert logits.dtype == np.float64
    assert relative_error(logits, ours) > 1e-8
    assert relative_error(model.truth.logits, ours) < 1e-13
