"""A trained model from Python: `lm.load`, and what it can do; and the notebook that shows it."""

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.parity.budgets import BUDGETS, relative_error
from tests.lm.test_train import BACKENDS
from tokenizer import InputError

CONFIG = TrainConfig(ModelConfig(32, 8, 16, 2, 2))
IDS = np.arange(16, dtype=np.int32).reshape(2, 8)


def test_both_backends_give_the_logits_of_every_position() -> None:
    per_backend = []
    for name in BACKENDS:
        backend = load(name, CONFIG)
        state = backend.init_state(CONFIG, 0)
        logits = backend.make_logits(CONFIG)(state, IDS)
        assert (logits.shape, logits.dtype) == ((2, 8, 32), np.float32)
        prefill = backend.make_prefill(CONFIG)
        for T in (3, 8):
            last, _ = prefill(state, IDS, np.array([T, T]))
            assert relative_error(logits[:, T - 1], last) < BUDGETS["float32"].model_forward
        per_backend.append(logits)
    assert relative_error(*per_backend) < BUDGETS["float32"].model_forward


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_logits_of_an_unknown_token_are_refused(backend_name: BackendName) -> None:
    backend = load(backend_name, CONFIG)
    with pytest.raises(InputError, match=r"token id 32 is outside 0 .. 31"):
        backend.make_logits(CONFIG)(backend.init_state(CONFIG, 0), np.array([[32]]))
