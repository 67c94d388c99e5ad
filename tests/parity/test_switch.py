"""One switch turns off every fast form, in both backends."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from types import CellType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_impl.fast
import torch_impl.fast
from jax_impl.attention import grouped_query_attention, scaled_dot_product_attention
from jax_impl.functional import project, silu_gate, token_cross_entropy
from jax_impl.model import transformer_lm
from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from parity import in_jax
from parity.case import Case
from parity.layers import LAYERS
from parity.problem import Problem
from tests.parity.support import assert_close
from torch_impl.fast import product

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
ARRAYS: dict[BackendName, Callable[[np.ndarray], Any]] = {"torch": torch.from_numpy, "jax": jnp.asarray}
CONFIG = TrainConfig(ModelConfig(64, 8, 16, 2, 4, num_kv_heads=2), batch_size=8)
PLAIN = replace(CONFIG, fast=False)
FORMULA_FILES = ("functional", "layers", "attention", "model", "sequences", "optimizer")


@pytest.fixture(autouse=True)
def switched_on_again() -> Iterator[None]:
    """Leave the switches as other tests expect them."""
    yield
    for package in (torch_impl.fast, jax_impl.fast):
        package.use(True)


def variables_of_path(function: Any) -> dict[str, CellType]:
    """Return what `fast.path` keeps for a decorated formula; nothing for another function.

    The checker of shapes wraps the decorated formula, and keeps it as `fn`.
    """
    while inspect.isfunction(function):
        variables = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        if {"form", "formula"} <= variables.keys():
            return variables
        function = variables["fn"].cell_contents if "fn" in variables else None
    return {}


def forms(name: BackendName) -> dict[str, CellType]:
    """Return the cell that holds the form of each formula with `@fast.path`, by the formula's name."""
    cells = {}
    for file in FORMULA_FILES:
        module = import_module(f"{name}_impl.{file}")
        classes = [c for c in vars(module).values() if inspect.isclass(c)]
        for function in [f for owner in (module, *classes) for f in vars(owner).values()]:
            if cell := variables_of_path(function).get("form"):
                cells[function.__qualname__] = cell
    return cells


def use_everything(name: BackendName, config: TrainConfig) -> dict[str, Any]:
    """Train, evaluate and write text with one model; return what each of these computes."""
    backend = load(name, config)
    state = backend.init_state(config, 0)
    ids = np.arange(64, dtype=np.int32).reshape(1, 8, 8)
    state, metrics = backend.make_train_step(config)(state, Batch(ids, ids), 1e-3)
    total, _, _ = backend.make_eval_step(config)(state, Batch(ids, ids))
    first, cache = backend.make_prefill(config)(state, ids[0, :3, :4].astype(int), np.array([4, 4, 4]))
    second, _ = backend.make_decode_step(config)(state, cache, np.array([1, 2, 3]), np.array([4, 4, 4]))
    # Torch's model takes its whole attention from one form; a program may call the function alone.
    x = ARRAYS[name](np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(2, 3, 4))
    attended = import_module(f"{name}_impl.attention").scaled_dot_product_attention(x, x, x)
    # The model's gate is SwiGLU's.
    gated = import_module(f"{name}_impl.functional").gelu_gate(x, x)
    norm = float(metrics["grad_norm"])
    return {
        "loss": float(metrics["loss"]),
        "norm": norm,
        "total": total,
        "prompt": first,
        "token": second,
    } | {"attended": np.asarray(attended), "gated": np.asarray(gated)}


@pytest.mark.parametrize("name", BACKENDS)
def test_no_form_is_called_without_fast_and_every_form_with_it(name: BackendName) -> None:
    called: set[str] = set()
    cells = forms(name)
    assert {"project", "silu_gate", "token_cross_entropy"} < cells.keys()
    before = {formula: cell.cell_contents for formula, cell in cells.items()}

    def record(formula: str) -> Callable[..., Any]:
        def form(*args: Any, **kwargs: Any) -> Any:
            called.add(formula)
            return before[formula](*args, **kwargs)

        return form

    try:
        for formula, cell in cells.items():
            cell.cell_contents = record(formula)
        plain = use_everything(name, PLAIN)
        assert called == set()
        fast = use_everything(name, CONFIG)
        assert called == cells.keys()
    finally:
        for formula, cell in cells.items():
            cell.cell_contents = before[formula]
    for what, value in plain.items():
        assert_close(fast[what], value, kind="model_forward")


def test_torch_without_fast_packs_no_weights_and_measures_no_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_choices", "_measured", "_chosen"):  # other tests have measured products in this process
        monkeypatch.setattr(product, name, type(getattr(product, name))())
    backend = load("torch", PLAIN)
    state = backend.init_state(PLAIN, 0)
    assert len(state.arrays) == len(state.weights)
    use_everything("torch", PLAIN)
    assert backend.choices(only_measured=True) == {}
    state = load("torch", CONFIG).init_state(CONFIG, 0)
    assert len(state.arrays) < len(state.weights)


def test_jax_without_fast_asks_no_options_of_xla_and_pads_no_shape() -> None:
    load("jax", PLAIN)
    assert jax_impl.fast.training_options("cpu") == jax_impl.fast.decoding_options() == {}
    assert jax_impl.fast.few_rows(5) == 5
    assert jax_impl.fast.few_lengths(5, 100) == 5
    load("jax", CONFIG)
    assert jax_impl.fast.training_options("cpu")
    assert jax_impl.fast.decoding_options()
    assert jax_impl.fast.few_rows(5) == 8
    assert jax_impl.fast.few_lengths(5, 100) == 16


X = jnp.ones((2, 3, 4))
FORMULAS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "project": (project, (X, jnp.ones((5, 4)))),
    "silu_gate": (silu_gate, (X, X)),
    "token_cross_entropy": (token_cross_entropy, (X, jnp.zeros((2, 3), int))),
    "scaled_dot_product_attention": (scaled_dot_product_attention, (X, X, X, jnp.ones((3, 3), bool))),
    "grouped_query_attention": (
        grouped_query_attention,
        (jnp.ones((2, 6, 1, 4)), jnp.ones((2, 3, 5, 4)), jnp.ones((2, 3, 5, 4)), jnp.ones((1, 5), bool)),
    ),
}


def traced(function: Callable[..., Any], on: bool, *args: Any) -> str:
    """Return the program of a function and its gradient, traced with fast forms on or off."""

    # A function of its own for each trace: JAX keeps the trace of a function that it has seen.
    def loss(*args: Any) -> jax.Array:
        return function(*args).astype(float).sum()

    with jax_impl.fast.used(on):
        return str(jax.make_jaxpr(jax.value_and_grad(loss))(*args))


@pytest.mark.parametrize("name", FORMULAS)
def test_jax_traces_another_program_after_the_switch(name: str) -> None:
    """Without fast forms the program is exactly the formula's."""
    function, args = FORMULAS[name]
    formula = variables_of_path(function)["formula"].cell_contents
    on, off, on_again = (traced(function, fast, *args) for fast in (True, False, True))
    assert off == traced(formula, False, *args)
    assert on == on_again != off


def test_a_model_that_was_traced_with_fast_forms_is_traced_again_without_them() -> None:
    params = load("jax", CONFIG).init_state(CONFIG, 0).params
    ids = jnp.zeros((2, 8), jnp.int32)

    def model(params: Any) -> jax.Array:
        return transformer_lm(params, ids, CONFIG.model)

    on, off = (traced(model, fast, params) for fast in (True, False))
    assert "custom_vjp" in on or "optimization_barrier" in on
    assert "custom_vjp" not in off
    assert "optimization_barrier" not in off


@pytest.mark.parametrize("layer", sorted(in_jax.WITHOUT_FORMS))
def test_layers_without_forms_have_one_program(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of "plain" is not compared apart, so the switch must change nothing, whatever the shape."""
    traced = jax.make_jaxpr(in_jax._evaluate, static_argnums=(0, 1, 2))

    def trace_both(layer: str, is_fast: bool, *given: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        programs = {str(traced(layer, on, *given)) for on in (False, True)}
        assert is_fast
        assert len(programs) == 1
        return np.zeros(1), {}

    monkeypatch.setattr(in_jax, "_jitted", trace_both)
    for shape in LAYERS[layer].shapes:
        problem = Problem(Case(layer, shape, 0), "float32")
        in_jax.evaluate(layer, problem.given, problem.cotangent, "float32", "plain")
