"""Time single layers and the optimizer in both backends beside torch's own: `python -m bench layers`.

It times attention, SwiGLU and cross-entropy (forward and backward) and AdamW, at the sizes of a batch of tinystories.
Each contender is a process of its own, and they take turns. Their results are compared first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import options, report
from bench.children import Calls, Child, quartiles, show_progress, take_turns, time_runs
from bench.machine import describe, flags
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.machine import keep_freed_memory
from lm.tables import markdown_table
from tokenizer.errors import InputError

PARTS = ("attention", "swiglu", "cross_entropy", "adamw")
BASELINE = "baseline"
CONTENDERS = ("jax", "torch", BASELINE)
D, F, V, H, T = 512, 1344, 10_000, 16, 256


def main(arguments: list[str]) -> None:
    """Compare, measure, print a table, and write JSON on demand."""
    parser = options.new_parser("layers", str(__doc__), rounds=7)
    parser.add_argument(
        "--parts",
        nargs="+",
        action=Gather,
        choices=PARTS,
        default=list(PARTS),
        help="what to time (default: everything)",
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences of 256 tokens (default: 8)")
    options.add_json(parser)
    given = options.parse(parser, arguments)
    options.set_threads(given.threads)
    rows = {part: measure(part, given.batch, given.threads, given.rounds) for part in given.parts}
    head = ("forward and backward", "ms (quartiles)", "/ baseline (quartiles)", "CPU ms", "largest error")
    lines = []
    for part, row in rows.items():
        for name, found in row.items():
            low, middle, high = (1e3 * s for s in quartiles(report.seconds(found)))
            ratio = "{1:.2f} ({0:.2f}-{2:.2f})".format(*report.ratios(found, row[BASELINE]))
            cpu = 1e3 * float(np.median([np.median(sample["cpu_seconds"]) for sample in found["rounds"]]))
            times = f"{middle:.3g} ({low:.3g}-{high:.3g})"
            lines.append((f"{part} {name}", times, ratio, f"{cpu:.3g}", f"{found['error']:.0e}"))
    print(markdown_table(head, lines))
    if given.json:
        about = {"machine": describe(("numpy", "torch", "jax", "jaxlib")), "flags": flags()}
        report.save(about | {"batch": given.batch, "rows": rows}, given.json)


def measure(part: str, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return the errors and samples of each contender.

    Raises:
        InputError: Two contenders disagree.
    """
    children = {name: Child(make, name, part, batch, threads) for name in CONTENDERS}
    try:
        answers = {}
        for name, child in children.items():
            show_progress(f"{part}: first run of {name}")
            answers[name] = child.ask("answers")
        errors = {
            name: max(relative_error(a, b) for a, b in zip(found, answers[BASELINE], strict=True))
            for name, found in answers.items()
        }
        for name, error in errors.items():
            if not error <= BUDGETS["float32"].model_gradient:
                raise InputError(
                    f"{part}: {name} differs from torch's own by {error:.0e}: nothing is timed without parity"
                )
        samples = take_turns({n: partial(c.ask, "run") for n, c in children.items()}, rounds, 0.2, part)
        return {name: {"error": errors[name], "rounds": samples[name]} for name in children}
    finally:
        for child in children.values():
            child.close()


def make(name: str, part: str, batch: int, threads: int) -> Calls:
    """Return the functions of a contender: what it computes, and how long that takes."""
    if name != BASELINE:
        keep_freed_memory()  # as the command `lm` does. The baseline runs with torch's own defaults
    arrays = draw(part, batch)
    run = (make_jax if name == "jax" else make_torch)(part, arrays, name, threads)

    def answers() -> list[np.ndarray]:
        return [np.asarray(a, np.float64) for a in run()]

    return {"answers": answers, "run": lambda count: time_runs(run, count)}


def draw(part: str, batch: int) -> dict[str, np.ndarray]:
    """Draw the inputs of a part. `flow` is the gradient of its output, or the gradient that AdamW receives."""
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
    """Return a run of `jax_impl`'s part under jit. It waits for outputs and gradients."""
    import jax
    import jax.numpy as jnp

    from jax_impl import attention, functional, layers, masks, optimizer

    a = {key: jnp.array(value) for key, value in arrays.items()}
    if part == "adamw":
        params, state = {"w": a["weight"]}, optimizer.adamw_init({"w": a["weight"]})
        update = jax.jit(partial(optimizer.adamw_update, lr=1e-3, eps=1e-3), donate_argnums=(1, 2))

        def step() -> tuple[Any, ...]:
            nonlocal params, state
            params, state = update({"w": a["flow"]}, state, params)
            return (jax.block_until_ready(params)["w"],)

        return step
    mask = masks.causal_mask(T).pairs(T)
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
    """Return a run of `torch_impl`'s part in eager mode, or of torch's own."""
    import torch
    import torch.nn.functional as functions

    from torch_impl import attention, functional, layers, masks, optimizer

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
        # Heads lie side by side in memory, as the projections leave them.
        inputs = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    mask = masks.causal_mask(T).pairs(T)

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
