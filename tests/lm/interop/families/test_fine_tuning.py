"""Imported models train in both backends as a plain loop over transformers' model does, and go back to transformers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lm as twinlm
from lm.budgets import BUDGETS, RUN, relative_error
from lm.config import TrainConfig
from lm.data.windows import get_batch
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.metrics import read_metrics
from lm.schedule import learning_rate
from tests.lm.conftest import lm
from tests.lm.interop.families.conftest import Imported, read_weights
from tests.lm.interop.families.float64 import float64
from tests.lm.interop.families.models import IDS, VOCABULARY, in_dtype
from tests.lm.interop.families.numbers import OURS
from tests.lm.interop.models import logits_of

STEPS = 50


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file in which each token depends on the token before it."""
    rng, ids = np.random.default_rng(0), [0]
    likely = rng.integers(0, VOCABULARY, (VOCABULARY, 3))
    ids.extend(0 for _ in range(2000))
    for i in range(2000):
        ids[i + 1] = int(likely[ids[i], rng.integers(3)])
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.array(ids, np.uint16))
    return path


def plain_losses(model: Any, config: TrainConfig, tokens: np.ndarray) -> Iterator[float]:
    """Yield the loss before each step of AdamW (the course's Algorithm 1) over a model of transformers, in float64."""
    o, parameters = config.optimizer, list(model.parameters())
    m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(config.steps):
        batch = get_batch(tokens, config.seed, step, config.batch_size, config.model.context_length)
        with float64():
            logits = model(torch.tensor(batch.inputs[0])).logits
        targets = torch.tensor(batch.targets[0]).long()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        yield loss.item()
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([(g**2).sum() for g in gradients]).sum().sqrt()
        scale = min(1.0, o.max_grad_norm / (norm.item() + 1e-6))
        lr, t = learning_rate(step, config.steps, o), step + 1
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            m[i] = o.beta1 * m[i] + (1 - o.beta1) * g * scale
            v[i] = o.beta2 * v[i] + (1 - o.beta2) * (g * scale) ** 2
            corrected = lr * (1 - o.beta2**t) ** 0.5 / (1 - o.beta1**t)
            p.data -= corrected * m[i] / (v[i].sqrt() + o.eps)
            p.data -= lr * o.weight_decay * p.data


@pytest.mark.parametrize("case", ["gpt2", "gemma3_text"])
def test_fine_tuning_is_the_same_in_torch_in_jax_and_over_transformers_model(
    imported: Callable[..., Imported], transformers: Any, tmp_path: Path, tokens: Path, case: str
) -> None:
    model, losses = imported(case), {}
    for backend in OURS:
        data = ("--train", tokens, "--val", tokens, "--out", tmp_path / backend)
        settings = ("--config", model.run / "config.toml", "--init-from", model.run)
        sizes = ("--steps", STEPS, "--batch-size", 4, "--log-interval", 1, "--eval-windows", 8)
        rate = ("--optimizer.learning-rate", 1e-3, "--optimizer.warmup-steps", 5)
        assert lm("train", "--backend", backend, *data, *settings, *sizes, *rate) == 0
        lines = read_metrics(tmp_path / backend)
        losses[backend] = np.array([line["train_loss"] for line in lines if "train_loss" in line])
    assert len(losses["jax"]) == STEPS
    assert losses["jax"][-1] < losses["jax"][0] - 0.2
    np.testing.assert_allclose(losses["torch"], losses["jax"], rtol=RUN["float32"])
    config, _ = load_facts(checkpoint.latest(tmp_path / "jax"))
    wide = in_dtype(transformers, model.model, "float64")
    first = [loss for loss, _ in zip(plain_losses(wide, config, np.load(tokens)), range(5), strict=False)]
    np.testing.assert_allclose(losses["jax"][:5], first, rtol=RUN["float32"])
    a, b = (read_weights(tmp_path / backend)[1] for backend in OURS)
    for name in a:
        # Without RoPE a bias of the keys has no gradient, and AdamW scales rounding errors up to full steps.
        if not (case == "gpt2" and name.endswith("k_proj.bias")):
            assert relative_error(a[name], b[name]) < RUN["float32"], name

    assert lm("export", "--format", "hf", tmp_path / "jax", tmp_path / "hf") == 0
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    tuned = twinlm.load(tmp_path / "jax", "torch").logits(IDS)
    assert relative_error(tuned, logits_of(loaded, IDS)) < BUDGETS["float32"].model_forward
    assert relative_error(tuned, logits_of(model.model, IDS)) > 0.05
