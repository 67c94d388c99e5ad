"""A function under check without a process of its own: an injected implementation, asked as `lm check` asks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lm.budgets import Dtype, as_dtype
from parity.case import Given
from parity.check.answer import Answer, Ask, Failure
from tests.check.injected.arrays import Framework, Tree, run

Implementation = Callable[[Any, Tree, Given, str], Any]
"""(namespace, the Given's arrays in the framework, the Given, the mistake's name or "") -> output.

Each module of this folder has a table of them by the subject's name, INJECTED.
"""


def ask(framework: Framework, implementation: Implementation, wrong: str = "") -> Ask:
    """Return an `Ask` that calls the implementation, with this mistake if it is named."""

    def call(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        arrays = {name: as_dtype(x, dtype) for name, x in given.arrays.items()}
        try:
            output, gradients = run(
                framework, lambda xp, tree: implementation(xp, tree, given, wrong), arrays, dtype, cotangent
            )
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # sizes that do not fit
            return Answer(failure=Failure("raised", str(error)))
        return Answer(output, gradients, dtype, framework)

    return call
