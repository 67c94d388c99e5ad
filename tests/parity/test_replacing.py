"""A function of the oracle is replaced everywhere, and comes back."""

import sys

import numpy as np
import pytest

from parity import oracle
from parity.mistakes import MISTAKES

MODULES = [m for name, m in list(sys.modules.items()) if f"{name}.".startswith("parity.oracle.")]
FUNCTIONS = sorted(
    {
        name
        for m in MODULES
        for name, f in vars(m).items()
        if getattr(f, "__module__", "").startswith("parity.")
    }
)


def holders(value: object) -> set[tuple[str, str]]:
    return {(m.__name__, name) for m in MODULES for name, held in vars(m).items() if held is value}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if callable(oracle.function(name))])
def test_every_module_holds_the_variant_and_then_the_original(name: str) -> None:
    def variant() -> None: ...

    original, held = oracle.function(name), holders(oracle.function(name))
    with oracle.replaced(name, variant):
        assert holders(variant) == held
        assert not holders(original)
    assert holders(original) == held


def test_a_table_of_functions_holds_the_variant() -> None:
    with oracle.replaced("silu", lambda x: 3 * x):
        assert oracle.ACTIVATIONS["silu"](np.array(2.0)) == 6
    assert oracle.ACTIVATIONS["silu"](np.array(2.0)) != 6


def test_the_original_comes_back_after_an_error() -> None:
    original = oracle.causal_mask
    with pytest.raises(ZeroDivisionError), oracle.replaced("causal_mask", lambda T: 1 / 0):
        oracle.causal_mask(3)
    assert oracle.causal_mask is original


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(LookupError, match="rms_norm"), oracle.replaced("rms_norm", print):
        pass


def test_every_mistake_replaces_a_function_and_explains_itself() -> None:
    for mistake in MISTAKES:
        assert callable(mistake.variant)
        assert mistake.explanation, mistake.name
