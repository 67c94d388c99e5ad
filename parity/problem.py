"""A case with its arguments, the oracle's answers, and the budget of another implementation's error."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from lm.budgets import BUDGETS, EPSILON, SPREAD, ZERO, Dtype, as_dtype, relative_error
from parity import oracle
from parity.case import Arrays, Case, Layer, array_dtype
from parity.layers import LAYERS


class Problem:
    """A case whose arguments `dtype` holds exactly, with the oracle's answers."""

    def __init__(
        self,
        case: Case,
        dtype: Dtype,
        layer: Layer | None = None,
        dtype_of: Callable[[str, Dtype], Dtype] = array_dtype,
    ) -> None:
        """
        Args:
            layer: Default: the case's layer of LAYERS.
            dtype_of: From an array's name and `dtype` to the array's type.
        """
        self.case, self.dtype, self.layer = case, dtype, layer or LAYERS[case.layer]
        rng = np.random.default_rng(case.seed)
        given = self.layer.draw(rng, case)
        arrays = {name: as_dtype(array, dtype_of(name, dtype)) for name, array in given.arrays.items()}
        self.given = given._replace(arrays=arrays)
        self.output = np.asarray(self.layer.oracle(self.given))
        self.cotangent = as_dtype(np.asarray(rng.standard_normal(self.output.shape)), dtype)
        self.flow = float(np.linalg.norm(self.cotangent))
        self.zero = ZERO if case.spread <= SPREAD else 1.0
        """A gradient below this share of the cotangent's norm is compared with that norm, not with itself."""

    @cached_property
    def gradients(self) -> Arrays:
        """Gradients with respect to every array; none if the layer is not differentiable."""
        return self._gradients(self.given.arrays, self.cotangent) if self.layer.differentiable else {}

    def gradient(self, name: str) -> np.ndarray:
        """Return the gradient with respect to one array."""
        return self._gradients(self.given.arrays, self.cotangent, only=name)[name]

    def _gradients(self, arrays: Arrays, cotangent: np.ndarray, only: str | None = None) -> Arrays:
        wanted = arrays if only is None else {only: arrays[only]}
        return oracle.gradient(
            lambda a: self.layer.oracle(self.given._replace(arrays={**arrays, **a})), wanted, cotangent
        )

    def bound(self, gradient_of: str | None = None) -> float:
        """Return the budget of the output, or of a gradient. Beyond SPREAD it is epsilon times the condition number."""
        table = BUDGETS[self.dtype]
        forward, gradient = table[2:] if self.layer.whole_model else table[:2]
        budget = forward if gradient_of is None else gradient
        if self.case.spread <= SPREAD:
            return budget
        return max(budget, EPSILON[self.dtype] * self.condition(gradient_of))

    def condition(self, gradient_of: str | None = None, draws: int = 8, step: float = 1e-7) -> float:
        """Return the component-wise condition number of the output, or of a gradient (Gohberg and Koltracht, 1993).

        It is the relative change of the result for a relative change of each input element, measured in random
        directions.
        """
        rng = np.random.default_rng(0)

        def moved(array: np.ndarray) -> np.ndarray:
            return array * (1 + step * rng.choice([-1, 1], array.shape))

        worst = 0.0
        for _ in range(draws):
            arrays = {name: moved(array) for name, array in self.given.arrays.items()}
            if gradient_of is None:
                error = relative_error(self.layer.oracle(self.given._replace(arrays=arrays)), self.output)
            else:
                gradient = self._gradients(arrays, moved(self.cotangent), only=gradient_of)[gradient_of]
                error = relative_error(gradient, self.gradients[gradient_of], self.flow)
            worst = max(worst, error)
        return worst / step
