"""Hold a function to the oracle, case by case."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from lm.budgets import BUDGETS, Dtype, relative_error
from parity.case import Case, Given
from parity.case import array_dtype as mixed_dtype
from parity.check.answer import Answer, Failure, Finding
from parity.check.process import Child
from parity.check.subjects import Call, Subject
from parity.problem import Problem

NARROW = 4.0
"""Factor of bfloat16's budget if the weights are bfloat16, too: the budget is for weights in float32."""


@dataclass
class Comparison:
    """A function of the file that is compared as one subject."""

    child: Child
    subject: Subject
    call: Call
    dtype: Dtype
    mixed: bool = False
    """Whether weights are float32 beside bfloat16 activations."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def ask(self, given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        """Call the function, as an `Ask` does."""
        dtypes = {name: self.dtype_of(name, dtype) for name in given.arrays}
        wanted = list(given.arrays) if cotangent is not None and self.subject.layer.differentiable else []
        answer = self.child.call(self.call, given, dtypes, cotangent if wanted else None, wanted)
        self.seconds += answer.seconds
        return answer

    def try_out(self, case: Case) -> Failure | None:
        """Return how a call fails on a case, or None."""
        given = self.problem(case, self.dtype).given
        return self.child.call(
            self.call, given, {n: self.dtype_of(n, self.dtype) for n in given.arrays}
        ).failure

    def dtype_of(self, name: str, dtype: Dtype) -> Dtype:
        """Return the type in which an array is given."""
        return mixed_dtype(name, dtype) if self.mixed else dtype

    def problem(self, case: Case, dtype: Dtype) -> Problem:
        """Return a case with the oracle's answers."""
        return Problem(case, dtype, self.subject.layer, self.dtype_of)

    def compare(self, case: Case, dtype: Dtype, beyond: bool = False) -> tuple[Answer, list[Finding]]:
        """Return the answer to a case, and what is wrong with it."""
        problem = self.problem(case, dtype)
        answer = self.ask(problem.given, problem.cotangent, dtype)
        return answer, [replace(f, beyond=beyond) for f in self._findings(problem, answer)]

    def _findings(self, problem: Problem, answer: Answer) -> Iterator[Finding]:
        case, dtype = problem.case, problem.dtype
        if answer.failure:
            yield Finding("failure", self._failure(problem, answer.failure), case, dtype)
            return
        assert answer.output is not None
        for name in answer.changed:
            yield Finding("changed input", f"it changes {name} in place", case, dtype, name)
        output = (
            answer.output.reshape(problem.output.shape) if _is_one_number(answer, problem) else answer.output
        )
        if output.shape != problem.output.shape:
            message = f"it returns the shape {output.shape}, not {problem.output.shape}{_shapes(problem)}"
            yield Finding("shape", message, case, dtype)
            return
        if np.isnan(output).any() and not np.isnan(problem.output).any():
            message = f"{np.isnan(output).sum()} of {output.size} numbers are NaN{_shapes(problem)}"
            yield Finding("nan", message, case, dtype)
            return
        # What comes in float32 cannot be nearer than float32.
        judged: Dtype = "float32" if dtype == "float64" and answer.dtype == "float32" else dtype
        slack = NARROW if dtype == "bfloat16" and not self.mixed else 1.0
        yield from self._over(
            "forward", "output", relative_error(output, problem.output), problem, judged, slack
        )
        for name, gradient in answer.gradients.items():
            if gradient is None:
                continue
            right = problem.gradients[name]
            if np.isnan(gradient).any() and not np.isnan(right).any():
                yield Finding("nan", f"the gradient of {name} has NaN", case, dtype, name)
                continue
            error = relative_error(gradient, right, problem.flow, right, problem.zero)
            yield from self._over("gradient", name, error, problem, judged, slack)

    def _failure(self, problem: Problem, failure: Failure) -> str:
        """Say how a call failed, with the shapes, or with the arguments if the function does not take them."""
        if re.match(r"TypeError: \S+\(\) (takes|missing|got)", failure.message):
            names = ", ".join(self.call.arguments(problem.given))
            return f"{failure.message}; lm check calls {self.call.function}({names})"
        return f"{failure.message}{_shapes(problem)}" if failure.kind == "raised" else failure.message

    def _over(
        self, kind: str, array: str, error: float, problem: Problem, judged: Dtype, slack: float
    ) -> Iterator[Finding]:
        table = BUDGETS[judged]
        forward, gradient = table[2:] if self.subject.layer.whole_model else table[:2]
        budget = slack * max(
            problem.bound(None if kind == "forward" else array), forward if kind == "forward" else gradient
        )
        if problem.dtype == self.dtype and problem.case in self.subject.cases:
            self._note_error(kind, error, budget)
        if not error <= budget:
            what = "" if kind == "forward" else f" of {array}"
            message = f"{kind}{what} {error:.0e} (budget {budget:.0e})"
            yield Finding(
                "forward" if kind == "forward" else "gradient",
                message,
                problem.case,
                problem.dtype,
                array,
                error,
                budget,
            )

    def _note_error(self, kind: str, error: float, budget: float) -> None:
        worst = self.errors.get(kind, -1.0) / self.budgets.get(kind, 1.0)
        if not error / budget <= worst:
            self.errors[kind], self.budgets[kind] = error, budget


def _shapes(problem: Problem) -> str:
    arrays = {**problem.given.arrays, **problem.given.constants}
    name = next((name for name in ("x", "Q", "logits", "token_ids") if name in arrays), None)
    return f", for {name} {arrays[name].shape}" if name else ""


def _is_one_number(answer: Answer, problem: Problem) -> bool:
    return answer.output is not None and answer.output.size == problem.output.size == 1
