"""Time parts of a step, ours in JAX and torch beside torch's own: `python -m bench layers`.

Attention, SwiGLU, cross-entropy (forward and backward) and AdamW, at the sizes of a batch of tinystories. Each
contender is a process of its own, and they take turns. What they compute is compared first.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import report
from bench.children import Calls, Child, progress, quartiles, take_turns, timed
from bench.machine import describe, flags, thread_count
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.files import refuse_existing
from lm.machine import keep_freed_memory
from lm.tables import markdown_table
from tokenizer.errors import InputError
from tokenizer.machine import num_processors

PARTS = ("attention", "swiglu", "cross_entropy", "adamw")
BASELINE = "parts"
CONTENDERS = ("jax", "torch", BASELINE)
D, F, V, H, T = 512, 1344, 10_000, 16, 256


def main(arguments: list[str]) -> None:
    """Compare, measure, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench layers", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", action=Gather, choices=PARTS, default=list(PARTS))
    parser.add_argument("--batch", type=int, default=8, help="sequences of 256 tokens")
    parser.add_argument("--threads", type=thread_count, default=num_processors())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every sample, the hardware, versions and flags")
    options = parser.parse_args(arguments)
    if options.json:
        refuse_existing(options.json)
    os.environ.update(OMP_NUM_THREADS=str(options.threads), NPROC=str(options.threads))
    rows = {part: measure(part, options.batch, options.threads, options.rounds) for part in options.parts}
    head = ("forward and backward", "ms (quartiles)", "/ parts (quartiles)", "CPU ms", "largest error")
    lines = []
    for part, row in rows.items():
        for name, found in row.items():
            low, middle, high = (1e3 * s for s in quartiles(report.seconds(found)))
            ratio = "{1:.2f} ({0:.2f}-{2:.2f})".format(*report.ratios(found, row[BASELINE]))
            cpu = 1e3 * float(np.median([np.median(sample["cpu_seconds"]) for sample in found["rounds"]]))
            times = f"{middle:.3g} ({low:.3g}-{high:.3g})"
            lines.append((f"{part} {name}", times, ratio, f"{cpu:.3g}", f"{found['error']:.0e}"))
    print(markdown_table(head, lines))
    if options.json:
        about = {
            "machine": describe(("numpy", "torch", "jax", "jaxlib")),
            "flags": flags(),
            "batch": options.batch,
        }
        report.save(about | {"rows": rows}, options.json)


def measure(part: str, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Errors and samples of each contender.

    Raises:
        InputError: two contenders do not compute the same.
    """
    children = {name: Child(make, name, part, batch, threads) for name in CONTENDERS}
    try:
        answers = {}
        for name, child in children.items():
            progress(f"{part}: first run of {name}")
            answers[name] = child.ask("answers")
        errors = {
            name: max(relative_error(a, b) for a, b in zip(found, answers[BASELINE], strict=True))
            for name, found in answers.items()
        }
        for name, error in errors.items():
            if not error <= BUDGETS["float32"].model_gradient:
                raise InputError(
                    f"{part}: {name} is {error:.0e} away from torch's own part: no parity, nothing timed"
                )
        samples = take_turns({n: partial(c.ask, "run") for n, c in children.items()}, rounds, 0.2, part)
        return {name: {"error": errors[name], "rounds": samples[name]} for name in children}
    finally:
        for child in children.values():
            child.close()


def make(name: str, part: str, batch: int, threads: int) -> Calls:
    """A contender's answers: what it computes, and how long that takes."""
    if name != BASELINE:
        keep_freed_memory()  # as the command `lm` does; the baseline runs with torch's own defaults
    arrays = draw(part, batch)
    run = (make_jax if name == "jax" else make_torch)(part, arrays, name, threads)

    def answers() -> list[np.ndarray]:
        return [np.asarray(a, np.float64) for a in run()]

    return {"answers": answers, "run": lambda count: timed(run, count)}


def draw(part: str, batch: int) -> dict[str, np.ndarray]:
    """The arrays that a part is given; the last one is what flows back, or AdamW's gradient."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, std: float = 1.0) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    if part == "attention":
        return {name: normal(batch, H, T, D // H) for name in ("Q", "K", "V", "flow")}
    if part == "swiglu":
        weights = {"w1": normal(F, D, std=0.03), "w2": normal(D, F, std=0.03), "w3": normal(F, D, std=0.03)}
        return {"x": normal(batch * T, D)} | weights | {"flow": normal(batch * T, D)}
    if part == "cross_entropy":
        return {"logits": normal(batch * T, V), "targets": rng.integers(0, V, batch * T)}
    return {"weight": normal(V, D), "flow": normal(V, D)}


Run = Callable[[], tuple[Any, ...]]


def make_jax(part: str, arrays: dict[str, np.ndarray], name: str, threads: int) -> Run:
    """`jax_impl`'s part under jit; outputs and gradients are waited for."""
    import jax
    import jax.numpy as jnp

    from jax_impl import attention, functional, layers, optimizer

    a = {key: jnp.array(value) for key, value in arrays.items()}
    if part == "adamw":
        params, state = {"w": a["weight"]}, optimizer.adamw_init({"w": a["weight"]})
        update = jax.jit(partial(optimizer.adamw_update, lr=1e-3, eps=1e-3), donate_argnums=(1, 2))

        def step() -> tuple[Any, ...]:
            nonlocal params, state
            params, state = update({"w": a["flow"]}, state, params)
            return (jax.block_until_ready(params)["w"],)

        return step
    mask = attention.causal_mask(T)
    functions: dict[str, Callable[..., Any]] = {
        "attention": lambda Q, K, V: attention.scaled_dot_product_attention(Q, K, V, mask),
        "swiglu": lambda x, w1, w2, w3: layers.swiglu(
            {"w1": {"weight": w1}, "w2": {"weight": w2}, "w3": {"weight": w3}}, x
        ),
        "cross_entropy": lambda logits: functional.cross_entropy(logits, a["targets"]),
    }
    inputs = [value for key, value in a.items() if key not in ("flow", "targets")]

    @jax.jit
    def both(*inputs: Any) -> tuple[Any, ...]:
        output, pull_back = jax.vjp(functions[part], *inputs)
        return output, *pull_back(a.get("flow", jnp.ones(())))

    return lambda: jax.block_until_ready(both(*inputs))


def make_torch(part: str, arrays: dict[str, np.ndarray], name: str, threads: int) -> Run:
    """`torch_impl`'s part in eager mode, or torch's own."""
    import torch
    import torch.nn.functional as functions

    from torch_impl import attention, functional, layers, optimizer

    torch.set_num_threads(threads)
    ours = name == "torch"
    a = {key: torch.tensor(value) for key, value in arrays.items()}
    if part == "adamw":
        weight = torch.nn.Parameter(a["weight"].clone())
        betas = 0.9, 0.999
        adamw: Any = (
            optimizer.AdamW([weight], 1e-3, betas, 1e-3)
            if ours
            else torch.optim.AdamW([weight], 1e-3, betas, 1e-3 / (1 - betas[1]) ** 0.5, 0.01, fused=True)
        )
        weight.grad = a["flow"]

        def step() -> tuple[Any, ...]:
            adamw.step()
            return (weight.detach(),)

        return step
    inputs = [v.requires_grad_() for key, v in a.items() if key not in ("flow", "targets")]
    if part == "attention":
        # As projections leave them: heads side by side.
        inputs = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    mask = attention.causal_mask(T)

    def swiglu(x: Any, w1: Any, w2: Any, w3: Any) -> Any:
        if not ours:
            return (functions.silu(x @ w1.T) * (x @ w3.T)) @ w2.T
        weights = {"w1.weight": w1, "w2.weight": w2, "w3.weight": w3}
        return torch.func.functional_call(module, weights, (x,))

    module = layers.SwiGLU(D, F)
    table: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "attention": (
            lambda q, k, v: attention.scaled_dot_product_attention(q, k, v, mask),
            partial(functions.scaled_dot_product_attention, is_causal=True),
        ),
        "swiglu": (swiglu, swiglu),
        "cross_entropy": (
            lambda logits: functional.cross_entropy(logits, a["targets"]),
            lambda logits: functions.cross_entropy(logits, a["targets"]),
        ),
    }
    function = table[part][0 if ours else 1]

    def both() -> tuple[Any, ...]:
        output = function(*inputs)
        return output.detach(), *torch.autograd.grad(output, inputs, a.get("flow"))

    return both
