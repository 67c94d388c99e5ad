"""Names of Llama's parameters, and the order of their rows."""

import numpy as np
import pytest

from lm.init import parameter_shapes
from lm.interop.llama import interleave_halves, llama_name, split_halves
from tests.lm.interop.models import MODEL

Capture = pytest.CaptureFixture[str]


def test_interleaving_undoes_splitting() -> None:
    rows = np.arange(2 * 6)
    assert split_halves(rows, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    np.testing.assert_array_equal(interleave_halves(split_halves(rows, 6), 6), rows)


def test_every_parameter_has_a_llama_name() -> None:
    names = [llama_name(name) for name in parameter_shapes(MODEL)]
    assert len(set(names)) == len(names)
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "lm_head.weight"
    assert "model.layers.1.mlp.gate_proj.weight" in names
