"""Call a function with torch's, JAX's or NumPy's arrays, and differentiate it by that framework's means."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Bind = Callable[[dict[str, Any]], tuple[list[Any], dict[str, Any]]]
"""From arrays by name to positional and named arguments."""


class Result(NamedTuple):
    """What a call gave."""

    output: np.ndarray
    framework: str
    dtype: str
    gradients: dict[str, np.ndarray | None]
    notes: list[str]
    changed: list[str]


class NoArray(TypeError):
    """The function returned something that is no array of numbers."""


def framework_of(value: Any) -> str:
    """Return "torch", "jax" or "numpy", by what the value is."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    if jax is not None and isinstance(value, jax.Array):
        return "jax"
    if isinstance(value, (np.ndarray, np.generic, int, float)):
        return "numpy"
    what = f"a {type(value).__name__}"
    if isinstance(value, (tuple, list)):
        what += f" of {len(value)}"
    raise NoArray("None: is a return missing?" if value is None else f"{what}, not one array")


def candidates(function: Any, of_course: bool) -> list[str]:
    """Return the frameworks whose arrays the function may take, the likeliest first."""
    loaded: list[str] = [name for name in ("torch", "jax") if name in sys.modules]
    mentioned = [name for name in loaded if _mentions(function, name)]
    # The course's functions take tensors, also those that convert them for JAX.
    order = list(dict.fromkeys([*mentioned, *loaded])) if of_course else mentioned
    return order or [*loaded, "numpy"]


def _mentions(function: Any, framework: str) -> bool:
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", None) or vars(sys.modules.get(function.__module__, sys))

    def origin(value: Any) -> str:
        name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        return name.partition(".")[0] if isinstance(name, str) else ""

    return any(origin(value) == framework for value in list(names.values()))


def call(
    framework: str,
    function: Callable[..., Any],
    bind: Bind,
    arrays: Arrays,
    dtypes: dict[str, str],
    wanted: list[str],
    cotangent: np.ndarray | None,
    key: str,
) -> Result:
    """Call the function, and differentiate sum(cotangent * output) with respect to the wanted arrays.

    Args:
        key: Equal for calls that differ only in the arrays.
    """
    if framework == "jax":
        return _jax(function, bind, arrays, dtypes, wanted, cotangent, key)
    return {"torch": _torch, "numpy": _numpy}[framework](function, bind, arrays, dtypes, wanted, cotangent)


def _torch(
    function: Callable[..., Any],
    bind: Bind,
    arrays: Arrays,
    dtypes: dict[str, str],
    wanted: list[str],
    cotangent: np.ndarray | None,
) -> Result:
    import torch

    tensors = {
        name: torch.tensor(array, dtype=getattr(torch, dtypes[name]) if name in dtypes else None)
        for name, array in arrays.items()
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    wanted = wanted if cotangent is not None else []
    for name in wanted:
        tensors[name].requires_grad_()
    notes: list[str] = []
    with torch.enable_grad():
        args, named = bind(tensors)
        try:
            output = function(*args, **named)
        except RuntimeError as error:
            if not wanted or "in-place" not in str(error):
                raise
            notes.append("it works in place, so autograd refuses its inputs")
            return _torch(function, bind, arrays, dtypes, [], None)._replace(notes=notes)
    framework = framework_of(output)
    if framework != "torch":
        return _converted(output, framework)
    gradients: dict[str, np.ndarray | None] = dict.fromkeys(wanted)
    if wanted and output.requires_grad and output.shape == cotangent.shape:  # type: ignore[union-attr]
        gradients = _torch_gradients(output, {name: tensors[name] for name in wanted}, cotangent, notes)
    changed = [
        name for name, old in before.items() if not torch.equal(old.nan_to_num(), tensors[name].nan_to_num())
    ]
    return _converted(output, framework)._replace(gradients=gradients, notes=notes, changed=changed)


def _torch_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().double().numpy())


def _torch_gradients(
    output: Any, leaves: dict[str, Any], cotangent: np.ndarray | None, notes: list[str]
) -> dict[str, np.ndarray | None]:
    """Return the gradients of the leaves; of a weight that was copied into a module, those of the copies."""
    import torch

    copies = {name: _copies(output, leaf) for name, leaf in leaves.items()}
    inputs = [*leaves.values(), *(copy for found in copies.values() for copy in found)]
    incoming = torch.tensor(cotangent, dtype=output.dtype, device=output.device)
    found = iter(torch.autograd.grad(output, inputs, incoming, allow_unused=True))
    gradients: dict[str, np.ndarray | None] = {}
    for name in leaves:
        gradient = next(found)
        gradients[name] = None if gradient is None else _torch_numpy(gradient)
    for name, copied in copies.items():
        of_copies = [_torch_numpy(g) for g in (next(found) for _ in copied) if g is not None]
        if gradients[name] is None and of_copies:
            gradients[name] = sum(of_copies[1:], of_copies[0])
            notes.append("copied")
    return gradients


def _copies(output: Any, leaf: Any) -> list[Any]:
    """Return the other leaves of the output's graph with the shape and the values of this one."""
    import torch

    found, visited, waiting = [], set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        waiting += [below for below, _ in node.next_functions]
        variable = getattr(node, "variable", None)
        if variable is not None and variable is not leaf and variable.shape == leaf.shape:
            same = torch.equal(variable.detach().cpu(), leaf.detach().to(variable.dtype))
            found += [variable] if same else []
    return found


_PROGRAMS: dict[str, Callable[..., Any]] = {}
"""JAX's compiled functions, by what they are called with. Compiling takes far longer than running."""


def _jax(
    function: Callable[..., Any],
    bind: Bind,
    arrays: Arrays,
    dtypes: dict[str, str],
    wanted: list[str],
    cotangent: np.ndarray | None,
    key: str,
) -> Result:
    import jax
    import jax.numpy as jnp

    def forward(given: dict[str, Any]) -> Any:
        args, named = bind(given)
        output = function(*args, **named)
        framework = framework_of(output)
        if framework != "jax":
            raise _NotJax(_converted(output, framework))
        return output

    def differentiate(given: dict[str, Any], incoming: Any) -> tuple[Any, dict[str, Any]]:
        variables = {name: given[name] for name in wanted}
        output, pull_back = jax.vjp(lambda changed: forward({**given, **changed}), variables)
        if (
            incoming is None
            or output.shape != incoming.shape
            or not jnp.issubdtype(output.dtype, jnp.floating)
        ):
            return output, {}
        return output, pull_back(incoming.astype(output.dtype))[0]

    in_float64 = "float64" in dtypes.values()
    enable: Any = getattr(jax if hasattr(jax, "enable_x64") else jax.experimental, "enable_x64")  # noqa: B009
    with enable(True) if in_float64 else nullcontext():
        given = {name: jnp.asarray(array, dtypes.get(name)) for name, array in arrays.items()}
        incoming = (
            None if cotangent is None else jnp.asarray(cotangent, "float64" if in_float64 else "float32")
        )
        notes: list[str] = []
        refused = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)
        try:
            try:
                output, pulled = _PROGRAMS.setdefault(key, jax.jit(differentiate))(given, incoming)
            except refused:
                # It looks at numbers that a compiled function does not have.
                _PROGRAMS[key] = differentiate
                output, pulled = differentiate(given, incoming)
        except refused as error:
            notes.append(f"JAX cannot differentiate it ({_first_line(error)})")
            output, pulled = forward(given), {}
        except _NotJax as other:
            return other.result
        gradients: dict[str, np.ndarray | None] = {n: np.asarray(g, np.float64) for n, g in pulled.items()}
        return Result(np.asarray(output, np.float64), "jax", str(output.dtype), gradients, notes, [])


class _NotJax(Exception):
    """The output is of another framework."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.framework)
        self.result = result


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _numpy(
    function: Callable[..., Any],
    bind: Bind,
    arrays: Arrays,
    dtypes: dict[str, str],
    wanted: list[str],
    cotangent: np.ndarray | None,
) -> Result:
    if "bfloat16" in dtypes.values():
        raise TypeError("NumPy has no bfloat16")
    held = {name: np.array(array, dtypes.get(name)) for name, array in arrays.items()}
    before = {name: array.copy() for name, array in held.items()}
    args, named = bind(held)
    output = function(*args, **named)
    framework = framework_of(output)
    changed = [name for name in held if not np.array_equal(held[name], before[name])]
    return _converted(output, framework)._replace(changed=changed)


def _converted(output: Any, framework: str) -> Result:
    """Return the result of an output without gradients, of torch's, NumPy's or another framework's array."""
    if framework == "torch":
        return Result(_torch_numpy(output), framework, str(output.dtype).replace("torch.", ""), {}, [], [])
    array = np.asarray(output)
    dtype = str(array.dtype) if framework != "numpy" or hasattr(output, "dtype") else type(output).__name__
    return Result(np.asarray(array, np.float64), framework, dtype, {}, [], [])
