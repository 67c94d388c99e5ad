"""XLA's defaults for the layers that are compared in float32 as users run them: with their fast forms."""

from typing import Any

import jax
import pytest

from parity import in_jax
from parity.layers import LAYERS
from tests.conftest import USUAL_XLA

_quick = in_jax._jitted
_usual = jax.jit(in_jax._evaluate, static_argnums=(0, 1, 2), compiler_options=USUAL_XLA)


def jitted(layer: str, is_fast: bool, statics: tuple[tuple[str, Any], ...], *arrays: Any) -> Any:
    """Take XLA's defaults for the fast forms in float32, except if each case is a model of its own."""
    is_usual = is_fast and ("compute_dtype", "float32") in statics and not LAYERS[layer].of_variants
    return (_usual if is_usual else _quick)(layer, is_fast, statics, *arrays)


@pytest.fixture(autouse=True)
def usual_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have XLA compile the layers that are compared in float32, with their fast forms, as it does for users."""
    monkeypatch.setattr(in_jax, "_jitted", jitted)
