"""Names of the families' tensors, and the order of their rows."""

from dataclasses import replace

import numpy as np
import pytest

from lm.init import parameter_shapes
from lm.interop.families import FAMILIES
from lm.interop.layout import interleave_halves, layouts, split_halves, to_our_names
from tests.lm.interop.models import MODEL, random_weights


def test_interleaving_undoes_splitting() -> None:
    rows = np.arange(2 * 6)
    assert split_halves(rows, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    np.testing.assert_array_equal(interleave_halves(split_halves(rows, 6), 6), rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layouts_of_a_family_cover_each_parameter_once_and_undo_each_other(name: str) -> None:
    family = FAMILIES[name]
    model = family.read(family.write(replace(MODEL, num_kv_heads=2)), name)
    ours = random_weights(model)
    theirs = {tensor: layout.to_theirs(ours) for tensor, layout in layouts(family, model).items()}
    assert {tensor: array.shape for tensor, array in theirs.items()} == {
        tensor: layout.shape for tensor, layout in layouts(family, model).items()
    }
    assert "lm_head.weight" in theirs
    back = to_our_names(family, model, theirs)
    assert back.keys() == parameter_shapes(model).keys()
    for parameter, array in ours.items():
        np.testing.assert_array_equal(back[parameter], array)
