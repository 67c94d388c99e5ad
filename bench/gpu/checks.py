"""Parts that check numbers: against the float64 oracle, against the CPU, and against a second run."""

import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np

from bench.children import resolve
from bench.contenders import SIZES, Work, require_compiler
from bench.gpu.parts import Answer, Settings
from bench.train_step import COMPARED, CONTENDERS, token_ids
from lm.budgets import RUN, Dtype, relative_error
from lm.config import ModelConfig, TrainConfig
from lm.init import initial_weights
from parity.backends import Evaluate, evaluator
from parity.case import Case
from parity.layers import LAYERS
from parity.problem import Problem
from parity.run import Error, differences, random_cases

TINY_LAYERS = ("rmsnorm",)


def load_evaluate(device: str, backend: Any) -> Evaluate:
    """Return the backend's layers as functions of named arrays, which compute on the device from now on."""
    config = TrainConfig(ModelConfig(1, 1, 2, 1, 1), compute_dtype="float64", device=device)
    evaluate = evaluator(backend, config)
    if backend == "torch":
        import torch

        torch.set_default_device(None if device == "cpu" else device)
    return evaluate


def errors_of(
    case: Case, dtype: Dtype, backend: str, evaluate: Evaluate, modes: Iterable[str]
) -> Iterator[Error]:
    """Yield the errors of a case against the oracle, which takes most of the time, in each mode."""
    problem = Problem(case, dtype)
    oracle = problem.output, problem.gradients
    for mode in modes:
        answer = evaluate(case.layer, problem.given, problem.cotangent, dtype, mode)
        yield from differences(problem, f"{backend}-oracle", answer, oracle)


def parity(settings: Settings, backend: str, dtype: Dtype, mode: str | None = None) -> Answer:
    """Compare every layer with the oracle: with the fast forms and without, or in one mode.

    A layer that the time does not suffice for is left out, and the answer says so.
    """
    if mode is not None:
        require_compiler(settings.device)
    end = time.monotonic() + 0.8 * settings.seconds
    evaluate = load_evaluate(settings.device, backend)
    modes = (mode,) if mode else ("eager", "plain") if backend == "torch" else ("jit", "plain")
    names = TINY_LAYERS if settings.tiny else [name for name in LAYERS if dtype in LAYERS[name].dtypes]
    # One case of every layer, then the second cases. Models come first: the layers they consist of are checked in them.
    cases: list[tuple[int, Case]] = []
    for name in reversed(names):
        count = 1 if LAYERS[name].whole_model or mode else len(LAYERS[name].shapes)
        cases += enumerate(random_cases(name, count, 0))
    found: dict[str, list[Error]] = {}
    for _, case in sorted(cases, key=lambda numbered: numbered[0]):
        if found and settings.seconds and time.monotonic() > end:
            break
        found.setdefault(case.layer, []).extend(errors_of(case, dtype, backend, evaluate, modes))
    worst = {name: _worst(errors) for name, errors in found.items()}
    left_out = [name for name in names if name not in worst]
    return _verdict(worst) | {"left_out": left_out, "modes": modes}


def gradients(settings: Settings, backend: str) -> Answer:
    """Compare the loss of a whole model with the oracle, and all its gradients, over several blocks of attention.

    The gradients are compared with those of the backend's own formulas in float64 on the CPU. The oracle computes the
    model once for each weight, which would take hours.
    """
    shape = LAYERS["training loss"].shapes[-1] if settings.tiny else (2, 600, 2, 4, 32, 172, 500)
    case = Case("training loss", shape, 0)
    worst: dict[str, dict[str, Any]] = {}
    dtypes: tuple[Dtype, ...] = ("bfloat16",) if settings.tiny else ("float32", "bfloat16")
    for dtype in dtypes:
        problem = Problem(case, dtype)
        arguments = case.layer, problem.given, problem.cotangent
        _, problem.gradients = load_evaluate("cpu", backend)(*arguments, "float64", "plain")
        evaluate = load_evaluate(settings.device, backend)
        answer = evaluate(*arguments, dtype, "eager" if backend == "torch" else "jit")
        exact = problem.output, problem.gradients
        worst[dtype] = _worst(list(differences(problem, f"{backend}-float64", answer, exact)))
    return _verdict(worst)


def _worst(errors: list[Error]) -> dict[str, Any]:
    worst = max(errors, key=lambda e: e.error / e.budget if e.error == e.error else np.inf)
    found = {"error": worst.error, "budget": worst.budget, "array": worst.array, "case": worst.case.label}
    return found | {"passed": worst.passed, "direction": worst.direction}


def _verdict(worst: dict[str, dict[str, Any]]) -> Answer:
    passed = all(found["passed"] for found in worst.values())
    return {"status": "passed" if passed else "failed", "worst": worst}


def steps(settings: Settings, backend: Any) -> Answer:
    """Compare the weights after each of 20 steps with those of the same backend on the CPU."""
    from parity.divergence import weights_of_run

    runs = [weights_of_run(backend, "float32", 1e-3, device) for device in (settings.device, "cpu")]
    errors = [relative_error(a, b) for a, b in islice(zip(*runs, strict=True), 2 if settings.tiny else 20)]
    budget = RUN["float32"]
    return {"status": "passed" if max(errors) <= budget else "failed", "errors": errors, "budget": budget}


def bits(settings: Settings, backend: str) -> Answer:
    """Take three steps twice, in float32 and in bfloat16, and compare losses and some weights bit by bit."""
    size, batch = ("nano", 8) if settings.tiny else ("tinystories", 8)
    answer: Answer = {"status": "passed"}
    for dtype in ("float32",) if settings.tiny else ("float32", "bfloat16"):
        work = Work(f"{size}/{batch}/{dtype}", SIZES[size], batch, dtype, settings.device, settings.threads)
        first, second = (_hash_of_run(backend, work) for _ in range(2))
        answer[dtype] = first == second
        if first != second:
            answer["status"] = "failed"
    return answer


def _hash_of_run(backend: str, work: Work) -> str:
    weights = {name: leaf[...] for name, leaf in initial_weights(work.model, 0, "float32")}
    step, read, _ = resolve(CONTENDERS[backend])(work, weights)
    ids, found = token_ids(work), sha256()
    for _ in range(3):
        found.update(np.array(step(ids[:, :-1].copy(), ids[:, 1:].copy())).tobytes())
    for name in (COMPARED, "token_embeddings.weight", "lm_head.weight"):
        found.update(read(name).tobytes())
    return found.hexdigest()


def greedy(settings: Settings, backend: str) -> Answer:
    """Compare a greedy text with the text that the same backend writes on the CPU."""
    from bench.generate import MODEL, make_ours

    model, count = (SIZES["nano"], 8) if settings.tiny else (MODEL, 64)
    prompt = np.random.default_rng(0).integers(0, model.vocab_size, (1, 16)).tolist()
    texts = {}
    for device in (settings.device, "cpu"):
        texts[device] = make_ours(backend, "", settings.threads, device, model)["greedy"](prompt, count)
    same = texts[settings.device] == texts["cpu"]
    return {"status": "passed" if same else "failed", "texts": texts}
