"""The tests of functions check types and shapes of every call, also if a function is defined again and again."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, jaxtyped

from jax_impl.layers import linear
from tests.conftest import checked


def nested(annotation: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Define a function whose argument has this annotation."""

    @jaxtyped(typechecker=checked)
    def same(x: annotation) -> np.ndarray:
        return x

    return same


def test_a_layer_refuses_what_is_no_array() -> None:
    with pytest.raises(TypeCheckError):
        linear({"weight": jnp.zeros((3, 4), np.float32)}, "no array")  # type: ignore[arg-type]


def test_every_definition_is_checked_by_its_own_annotations() -> None:
    vector, matrix = np.zeros(3), np.zeros((3, 3))
    for _ in range(2):
        assert nested(Float[np.ndarray, "n"])(vector) is vector
        assert nested(Float[np.ndarray, "n n"])(matrix) is matrix
        for annotation, x in ((Float[np.ndarray, "n"], matrix), (Float[np.ndarray, "n n"], vector)):
            with pytest.raises(TypeCheckError):
                nested(annotation)(x)
