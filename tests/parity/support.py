"""What the tests of all layers share."""

from hypothesis import settings
from hypothesis import strategies as st

from lm.parity.budgets import BUDGETS, Dtype
from lm.parity.cases import LAYERS, MASKS, POSITIONS, SCALES, Case
from lm.parity.run import compare

DTYPES: tuple[Dtype, ...] = tuple(BUDGETS)
THOROUGH = settings.default is not None and settings.default.max_examples > 100
COMPILER = "inductor" if THOROUGH else "aot_eager"


def examples(count: int) -> settings:
    """So many examples in the fast profile, and as much more in the thorough one as its own default is."""
    assert settings.default is not None
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


def cases(layer: str, *shapes: tuple[int, ...]) -> st.SearchStrategy[Case]:
    """Cases of a layer; of these shapes only, where some are given."""
    return st.builds(
        Case,
        st.just(layer),
        st.sampled_from(shapes or LAYERS[layer].shapes),
        st.integers(0, 2**32 - 1),
        st.sampled_from(SCALES),
        st.sampled_from(MASKS),
        st.sampled_from(POSITIONS),
    )


def assert_parity(case: Case, dtype: Dtype, torch_mode: str = "eager", jax_mode: str = "jit") -> None:
    """torch, JAX and the oracle agree, forward and backward, within the budgets."""
    __tracebackhide__ = True
    errors = [error for error in compare(case, dtype, torch_mode, jax_mode) if not error.passed]
    assert not errors, "\n".join(map(str, errors))
