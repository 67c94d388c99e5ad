"""What is compared: each layer with its oracle, and random cases of it as pure functions of a few numbers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lm.config import ModelConfig
from lm.init import parameter_shapes
from lm.parity import oracle
from lm.parity.budgets import BUDGETS, EPSILON, SPREAD, Dtype, as_dtype, relative_error
from lm.parity.family import VARIANTS

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
Rng = np.random.Generator

SCALES = (0.1, 1.0, 3.0)
MASKS = ("causal", "full", "random", "empty row")
POSITIONS = ("from 0", "from 1000", "random")


class Given(NamedTuple):
    """Arguments of a layer."""

    arrays: Arrays
    """What gradients are taken of. Weights and biases are those whose name ends so."""
    constants: Arrays = {}  # noqa: RUF012 (never written to)
    """Masks, ids, positions."""
    statics: dict[str, Any] = {}  # noqa: RUF012
    """What changes the program: axes, sizes, hyperparameters."""


@dataclass(frozen=True)
class Case:
    """The few numbers that a problem is a function of."""

    layer: str
    shape: Shape
    seed: int
    scale: float = 1.0
    mask: str = "causal"
    positions: str = "from 0"
    spread: float = SPREAD
    """Scores and logits that are drawn further apart are scaled to this; more than SPREAD: to exactly this."""

    def problem(self, dtype: Dtype) -> "Problem":
        """The arguments of this case, as numbers that `dtype` can hold."""
        rng = np.random.default_rng(self.seed)
        given = LAYERS[self.layer].draw(rng, self)
        arrays = {name: as_dtype(array, array_dtype(name, dtype)) for name, array in given.arrays.items()}
        return Problem(self, dtype, given._replace(arrays=arrays), rng)

    @property
    def label(self) -> str:
        """The case in short, without its layer; for a reader of the table."""
        shape = "x".join(map(str, self.shape))
        return f"{shape}, seed {self.seed}, scale {self.scale:g}, {self.mask}, {self.positions}"

    def spread_out(self, logits: np.ndarray) -> float:
        """The factor that makes the logits spread as this case asks for."""
        widest = float(np.ptp(logits, axis=-1).max())
        return self.spread / widest if widest > self.spread or self.spread > SPREAD else 1.0


def array_dtype(name: str, dtype: Dtype) -> Dtype:
    """Weights, biases and what the optimizer is given stay float32 where activations are bfloat16."""
    return "float32" if dtype == "bfloat16" and name.endswith(("weight", "bias", "gradient")) else dtype


class Layer(NamedTuple):
    """One line of the table."""

    shapes: tuple[Shape, ...]
    """The few shapes that cases have, so that compilers see few. Sizes differ, lest an axis be taken for another."""
    draw: Callable[[Rng, Case], Given]
    oracle: Callable[[Given], np.ndarray]
    differentiable: bool = True
    element_wise: bool = False
    whole_model: bool = False
    of_variants: bool = False
    """Each case is a model of its own, which takes seconds to compile."""
    dtypes: tuple[Dtype, ...] = tuple(BUDGETS)


class Problem:
    """A case in numbers, with the oracle's answers."""

    def __init__(self, case: Case, dtype: Dtype, given: Given, rng: Rng) -> None:
        self.case, self.dtype, self.given, self.layer = case, dtype, given, LAYERS[case.layer]
        self.output = np.asarray(self.layer.oracle(given))
        self.cotangent = as_dtype(np.asarray(rng.standard_normal(self.output.shape)), dtype)
        self.flow = float(np.linalg.norm(self.cotangent))

    @cached_property
    def gradients(self) -> Arrays:
        """With respect to every array; none for a layer that is not differentiated."""
        return self._gradients(self.given.arrays, self.cotangent) if self.layer.differentiable else {}

    def _gradients(self, arrays: Arrays, cotangent: np.ndarray, only: str | None = None) -> Arrays:
        wanted = arrays if only is None else {only: arrays[only]}
        return oracle.gradient(
            lambda a: self.layer.oracle(self.given._replace(arrays={**arrays, **a})), wanted, cotangent
        )

    def bound(self, gradient_of: str | None = None) -> float:
        """The budget of the output, or of a gradient; beyond SPREAD epsilon times the condition number."""
        table = BUDGETS[self.dtype]
        forward, gradient = table[2:] if self.layer.whole_model else table[:2]
        budget = forward if gradient_of is None else gradient
        if self.case.spread <= SPREAD:
            return budget
        return max(budget, EPSILON[self.dtype] * self.condition(gradient_of))

    def condition(self, gradient_of: str | None = None, draws: int = 8, step: float = 1e-7) -> float:
        """Relative change of the output, or of a gradient, by relative changes of each element of the input.

        The component-wise condition number (Gohberg and Koltracht, 1993), measured in random directions.
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


# How the arguments are drawn. Weights are never ones, and shapes have sizes that differ, lest an axis be confused.


def _normal(rng: Rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def _linear_weight(rng: Rng, d_out: int, d_in: int) -> np.ndarray:
    return rng.standard_normal((d_out, d_in)) * (2 / (d_in + d_out)) ** 0.5


def _norm_weight(rng: Rng, d: int) -> np.ndarray:
    return 1 + 0.3 * rng.standard_normal(d)


def _bias(rng: Rng, d: int) -> np.ndarray:
    return 0.3 * rng.standard_normal(d)


def _mask(rng: Rng, case: Case, T: int, S: int) -> Arrays:
    """The causal mask, no mask at all, a random one, and a random one with a query that may see nothing."""
    if case.mask == "full":
        return {}
    if case.mask == "causal":
        return {"mask": np.arange(S) <= np.arange(T)[:, None] + S - T}
    mask = rng.random((T, S)) < 0.6
    mask[np.arange(T), rng.integers(0, S, T)] = True
    if case.mask == "empty row":
        mask[rng.integers(T)] = False
    return {"mask": mask}


def _positions(rng: Rng, case: Case, *shape: int) -> Arrays:
    if case.positions == "random":
        return {"positions": rng.integers(0, 2048, shape)}
    return {"positions": np.arange(shape[-1]) + (1000 if case.positions == "from 1000" else 0)}


def _softmax(rng: Rng, case: Case) -> Given:
    x = _normal(rng, *case.shape) * case.scale
    axis = -1 - int(rng.integers(x.ndim))
    x *= case.spread_out(np.moveaxis(x, axis, -1))
    return Given({"x": x + case.scale * rng.standard_normal()}, statics={"axis": axis})


def _silu(rng: Rng, case: Case) -> Given:
    return Given({"x": _normal(rng, *case.shape) * case.scale * 3})


def _cross_entropy(rng: Rng, case: Case) -> Given:
    logits = _normal(rng, *case.shape) * case.scale
    logits *= case.spread_out(logits)
    return Given({"logits": logits}, {"targets": rng.integers(0, case.shape[-1], case.shape[:-1])})


def _gradients(rng: Rng, case: Case) -> Given:
    return Given({name: _normal(rng, n) * case.scale for name, n in zip("abc", case.shape, strict=False)})


def _clip(rng: Rng, case: Case) -> Given:
    return _gradients(rng, case)._replace(statics={"max_norm": (0.5, 2.0, 100.0)[case.seed % 3]})


def _linear(rng: Rng, case: Case) -> Given:
    *lead, d_in, d_out = case.shape
    return Given({"x": _normal(rng, *lead, d_in) * case.scale, "weight": _linear_weight(rng, d_out, d_in)})


def _linear_with_bias(rng: Rng, case: Case) -> Given:
    given = _linear(rng, case)
    return Given(given.arrays | {"bias": _bias(rng, case.shape[-1])})


def _embedding(rng: Rng, case: Case) -> Given:
    *lead, vocab_size, d_model = case.shape
    weight = _normal(rng, vocab_size, d_model) * case.scale
    return Given({"weight": weight}, {"token_ids": rng.integers(0, vocab_size, lead)})


def _rmsnorm(rng: Rng, case: Case) -> Given:
    x, weight = _normal(rng, *case.shape) * case.scale, _norm_weight(rng, case.shape[-1])
    return Given({"x": x, "weight": weight}, statics={"eps": (1e-5, 1e-2)[case.seed % 2]})


def _layernorm(rng: Rng, case: Case) -> Given:
    given = _rmsnorm(rng, case)
    return given._replace(arrays=given.arrays | {"bias": _bias(rng, case.shape[-1])})


def _swiglu(rng: Rng, case: Case) -> Given:
    *lead, D, F = case.shape
    arrays = {
        "x": _normal(rng, *lead, D) * case.scale,
        "w1.weight": _linear_weight(rng, F, D),
        "w2.weight": _linear_weight(rng, D, F),
        "w3.weight": _linear_weight(rng, F, D),
    }
    return Given(arrays)


def _feed_forward(rng: Rng, case: Case) -> Given:
    *lead, D, F = case.shape
    kind = ("silu", "gelu", "relu")[case.seed % 3]
    arrays = {"w1.weight": _linear_weight(rng, F, D), "w2.weight": _linear_weight(rng, D, F)}
    if case.seed % 2:
        arrays |= {"w1.bias": _bias(rng, F), "w2.bias": _bias(rng, D)}
    # Where relu's gradient jumps, a rounding decides it: what enters it is kept away from 0, and made from there.
    entering = _normal(rng, *lead, F) * case.scale
    entering += 0.1 * case.scale * np.sign(entering)
    arrays["x"] = (entering - arrays.get("w1.bias", 0.0)) @ np.linalg.pinv(arrays["w1.weight"]).T
    return Given(arrays, statics={"kind": kind})


def _rope(rng: Rng, case: Case) -> Given:
    *_, T, K = case.shape
    positions = _positions(rng, case, T)
    statics = {"d_head": K, "theta": (10_000.0, 500_000.0)[case.seed % 2]}
    return Given({"x": _normal(rng, *case.shape) * case.scale}, positions, statics)


def _attention(rng: Rng, case: Case) -> Given:
    *lead, T, S, K, V = case.shape
    q, k, v = _normal(rng, *lead, T, K), _normal(rng, *lead, S, K), _normal(rng, *lead, S, V)
    q *= case.scale
    q *= case.spread_out(oracle.attention_scores(q, k))
    return Given({"Q": q, "K": k, "V": v}, _mask(rng, case, T, S))


def _projections(rng: Rng, D: int) -> Arrays:
    return {f"{name}_proj.weight": _linear_weight(rng, D, D) for name in ("q", "k", "v", "output")}


def _multihead(rng: Rng, case: Case) -> Given:
    *lead, T, D, num_heads = case.shape
    arrays = {"x": _normal(rng, *lead, T, D)} | _projections(rng, D)
    mask = _mask(rng, case, T, T) or {"mask": np.ones((T, T), bool)}
    return Given(arrays, mask, {"num_heads": num_heads})


def _grouped(rng: Rng, case: Case) -> Given:
    """Query heads that share keys, biases, and norms of queries and keys."""
    *lead, T, D, num_heads, num_kv_heads = case.shape
    given = _multihead(rng, replace(case, shape=(*lead, T, D, num_heads)))
    K = D // num_heads
    for name in "kv":
        given.arrays[f"{name}_proj.weight"] = _linear_weight(rng, K * num_kv_heads, D)
        given.arrays[f"{name}_proj.bias"] = _bias(rng, K * num_kv_heads)
    given.arrays.update({f"{name}_proj.bias": _bias(rng, D) for name in ("q", "output")})
    given.arrays.update({f"{name}_norm.weight": _norm_weight(rng, K) for name in "qk"})
    return given._replace(statics={"num_heads": num_heads, "num_kv_heads": num_kv_heads, "eps": 1e-5})


def _multihead_rope(rng: Rng, case: Case) -> Given:
    *lead, T, D, num_heads = case.shape
    given = _multihead(rng, case)
    constants = given.constants | _positions(rng, case, *lead, T)
    return given._replace(
        constants=constants, statics=given.statics | {"d_head": D // num_heads, "theta": 10_000.0}
    )


def _config(
    layers: int, heads: int, d_head: int, d_ff: int, context: int, V: int, **options: Any
) -> ModelConfig:
    return ModelConfig(
        vocab_size=V,
        context_length=context,
        d_model=heads * d_head,
        num_layers=layers,
        num_heads=heads,
        d_ff=d_ff,
        rope_theta=1000.0,
        **options,
    )


def model_weights(rng: Rng, config: ModelConfig) -> Arrays:
    """Random weights of a whole model, norms and biases included; scores and logits spread by about SPREAD at most."""
    embedding_std = config.d_model**-0.5 if config.tie_embeddings else 0.5 if config.norm == "none" else 1.0

    def draw(name: str, shape: Shape) -> np.ndarray:
        if len(shape) == 1:
            return _bias(rng, *shape) if name.endswith("bias") else _norm_weight(rng, *shape)
        if "embeddings" in name:
            return _normal(rng, *shape) * embedding_std
        # Without norms hidden states would grow from block to block, and scores with their square.
        return _linear_weight(rng, *shape) * (0.5 if config.norm == "none" else 1.0)

    return {name: draw(name, shape) for name, shape in parameter_shapes(config).items()}


def _block(rng: Rng, case: Case) -> Given:
    B, T, heads, d_head, d_ff = case.shape
    config = _config(1, heads, d_head, d_ff, T, 1)
    arrays = {"x": _normal(rng, B, T, config.d_model) * case.scale}
    arrays |= oracle.below(model_weights(rng, config), "layers.0.")
    constants = _mask(rng, case, T, T) or {"mask": np.ones((T, T), bool)}
    constants |= _positions(rng, case, B, T)
    return Given(arrays, constants, {"config": config, "d_head": d_head, "theta": config.rope_theta})


def _lm(rng: Rng, case: Case, **options: Any) -> Given:
    B, T, layers, heads, d_head, d_ff, V = case.shape
    config = _config(layers, heads, d_head, d_ff, T + 2, V, **options)
    ids = rng.integers(0, V, (B, T))
    return Given(model_weights(rng, config), {"token_ids": ids}, {"config": config})


DRAW = {"seed": 5, "step": 3}
"""Of the one training step whose dropout is compared."""


def _family(rng: Rng, case: Case) -> Given:
    """As in a step of training, with what that drops."""
    given = _lm(rng, case, **VARIANTS[case.seed % len(VARIANTS)])
    rows = np.arange(case.shape[0], dtype=np.int32) + 7
    return given._replace(constants=given.constants | {"rows": rows}, statics=given.statics | DRAW)


def _oracle_family(given: Given) -> np.ndarray:
    statics = given.statics
    drop = oracle.dropping(statics["seed"], statics["step"], given.constants["rows"])
    return oracle.transformer_lm(given.arrays, given.constants["token_ids"], statics["config"], drop)


def _sequences(rng: Rng, case: Case, architecture: str) -> Given:
    """A model of the family, sequences of B lengths, and ids in their padding too."""
    B, P, T, layers, heads, d_head, d_ff, V = case.shape
    options = VARIANTS[case.seed % len(VARIANTS)] | {"architecture": architecture}
    if architecture == "encoder_decoder":
        options["prefix_length"] = P + 1
    config = _config(layers, heads, d_head, d_ff, T + 1, V, **options)
    constants = {
        "token_ids": rng.integers(0, V, (B, T)),
        "num_tokens": rng.permutation(np.linspace(1, P, B).round().astype(np.int32)),
    }
    if architecture == "encoder_decoder":
        constants["prefix"] = rng.integers(0, V, (B, P))
    return Given(model_weights(rng, config), constants, {"config": config})


def _encoder(rng: Rng, case: Case) -> Given:
    return _sequences(rng, case, "encoder")


def _encoder_decoder(rng: Rng, case: Case) -> Given:
    return _sequences(rng, case, "encoder_decoder")


def _hidden(rng: Rng, case: Case, *shape: int) -> Arrays:
    """What enters a model behind its embeddings: there may be no norm before the first scores."""
    return {"x": _normal(rng, *shape) * min(case.scale, 1.0)}


def _encoder_stack(rng: Rng, case: Case) -> Given:
    """An encoder's blocks alone, of x."""
    given = _encoder(rng, case)
    ids, config = given.constants.pop("token_ids"), given.statics["config"]
    blocks = {
        name: a for name, a in given.arrays.items() if not name.startswith(("token_", "position_", "lm_"))
    }
    return given._replace(arrays=blocks | _hidden(rng, case, *ids.shape, config.d_model))


def _prefix_decoder(rng: Rng, case: Case) -> Given:
    """The decoder of an encoder-decoder alone, behind a hidden cache."""
    given = _encoder_decoder(rng, case)
    shape, config = given.constants.pop("prefix").shape, given.statics["config"]
    arrays = _hidden(rng, case, *shape, config.d_model)
    return given._replace(arrays=arrays | oracle.below(given.arrays, "decoder."))


def _loss(rng: Rng, case: Case) -> Given:
    given = _lm(rng, case)
    ids = given.constants["token_ids"]
    targets = rng.integers(0, case.shape[-1], ids.shape)
    return given._replace(constants={"token_ids": ids, "targets": targets})


def _steps(rng: Rng, case: Case) -> Given:
    arrays = {"weight": _normal(rng, *case.shape)}
    arrays |= {
        f"{t}.gradient": _normal(rng, *case.shape) * case.scale * 10.0 ** rng.integers(-6, 6)
        for t in range(3)
    }
    return Given(arrays, statics={"lr": 0.01 * float(rng.random())})


# What the oracle computes of them


def _flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.values()])


def _oracle_adamw(given: Given) -> np.ndarray:
    optimizer = oracle.AdamW((0.9, 0.999), 1e-8, 0.1)
    weights = {"weight": given.arrays["weight"]}
    for t in range(3):
        weights = optimizer.step(weights, {"weight": given.arrays[f"{t}.gradient"]}, given.statics["lr"])
    return weights["weight"]


def _oracle_sgd(given: Given) -> np.ndarray:
    optimizer = oracle.SGD()
    weights = {"weight": given.arrays["weight"]}
    for t in range(3):
        weights = optimizer.step(weights, {"weight": given.arrays[f"{t}.gradient"]}, given.statics["lr"])
    return weights["weight"]


def _oracle_block(given: Given) -> np.ndarray:
    weights = {name: a for name, a in given.arrays.items() if name != "x"}
    return oracle.transformer_block(
        weights,
        given.arrays["x"],
        given.statics["config"],
        given.constants["mask"],
        given.constants["positions"],
    )


def _oracle_multihead(given: Given) -> np.ndarray:
    weights = {name: a for name, a in given.arrays.items() if name != "x"}
    return oracle.multihead_self_attention(
        weights,
        given.arrays["x"],
        given.statics["num_heads"],
        given.constants["mask"],
        given.constants.get("positions"),
        given.statics.get("theta", 0.0),
        given.statics.get("eps", 0.0),
    )


def _oracle_loss(given: Given) -> np.ndarray:
    logits = oracle.transformer_lm(given.arrays, given.constants["token_ids"], given.statics["config"])
    return oracle.cross_entropy(logits, given.constants["targets"])


def _oracle_feed_forward(given: Given) -> np.ndarray:
    return oracle.feed_forward(given.arrays, given.arrays["x"], **given.statics)


def _oracle_sequences(f: Callable[..., np.ndarray], *names: str) -> Callable[[Given], np.ndarray]:
    """An oracle as a function of weights, of some arrays and constants, and of the config."""

    def call(given: Given) -> np.ndarray:
        return f(given.arrays, *((given.arrays | given.constants)[name] for name in names), **given.statics)

    return call


_SEQUENCES = ((3, 5, 5, 1, 4, 4, 12, 11),)
# What the hidden cache attends to shows from the second block on.
_PREFIXED = ((3, 5, 3, 2, 4, 4, 12, 11),)

LAYERS: dict[str, Layer] = {
    "softmax": Layer(
        ((64,), (6, 7), (4, 3, 9)), _softmax, lambda g: oracle.softmax(g.arrays["x"], **g.statics)
    ),
    "silu": Layer(((64,), (3, 5)), _silu, lambda g: oracle.silu(g.arrays["x"]), element_wise=True),
    "gelu": Layer(((64,), (3, 5)), _silu, lambda g: oracle.gelu(g.arrays["x"])),
    "relu": Layer(((64,), (3, 5)), _silu, lambda g: oracle.relu(g.arrays["x"]), element_wise=True),
    "token_cross_entropy": Layer(
        ((8, 11), (3, 4, 9)),
        _cross_entropy,
        lambda g: oracle.token_cross_entropy(g.arrays["logits"], g.constants["targets"]),
    ),
    "cross_entropy": Layer(
        ((8, 11), (3, 4, 9)),
        _cross_entropy,
        lambda g: oracle.cross_entropy(g.arrays["logits"], g.constants["targets"]),
    ),
    "global_norm": Layer(((5, 3, 4), (1, 1)), _gradients, lambda g: oracle.global_norm(g.arrays)),
    "clip_gradients": Layer(
        ((5, 3, 4), (1, 1)),
        _clip,
        lambda g: _flat(oracle.clip_gradients(g.arrays, **g.statics)[0]),
        differentiable=False,
    ),
    "linear": Layer(
        ((24, 16), (4, 12, 9), (2, 3, 8, 5)),
        _linear,
        lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"]),
    ),
    "linear with bias": Layer(
        ((24, 16), (2, 3, 8, 5)),
        _linear_with_bias,
        lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"], g.arrays["bias"]),
    ),
    "embedding": Layer(
        ((7, 4), (5, 3, 2), (2, 3, 5, 4)),
        _embedding,
        lambda g: oracle.embedding(g.arrays["weight"], g.constants["token_ids"]),
    ),
    "rmsnorm": Layer(
        ((32,), (6, 11), (2, 3, 8)),
        _rmsnorm,
        lambda g: oracle.rmsnorm(g.arrays["x"], g.arrays["weight"], **g.statics),
    ),
    "layernorm": Layer(
        ((6, 11), (2, 3, 8)),
        _layernorm,
        lambda g: oracle.layernorm(g.arrays["x"], g.arrays["weight"], g.arrays["bias"], **g.statics),
    ),
    "swiglu": Layer(
        ((12, 24, 48), (4, 3, 24, 64)),
        _swiglu,
        lambda g: oracle.feed_forward(g.arrays, g.arrays["x"], "swiglu"),
    ),
    "feed_forward": Layer(((6, 24, 16), (2, 3, 32, 24)), _feed_forward, _oracle_feed_forward),
    "rope": Layer(
        ((5, 4), (3, 5, 2), (2, 3, 4, 6)),
        _rope,
        lambda g: oracle.rope(g.arrays["x"], g.constants["positions"], g.statics["theta"]),
    ),
    "scaled_dot_product_attention": Layer(
        ((7, 9, 8, 5), (2, 6, 6, 4, 5), (2, 3, 5, 8, 6, 4), (2, 1, 1, 4, 3)),
        _attention,
        lambda g: oracle.attention(g.arrays["Q"], g.arrays["K"], g.arrays["V"], g.constants.get("mask")),
    ),
    "multihead_self_attention": Layer(((8, 24, 3), (2, 6, 16, 2)), _multihead, _oracle_multihead),
    "multihead_self_attention with rope": Layer(
        ((8, 24, 3), (2, 6, 16, 2)), _multihead_rope, _oracle_multihead
    ),
    # Not in bfloat16: gradients of keys' gains and biases are sums whose terms cancel, but not the terms' roundings.
    "multihead_self_attention of groups": Layer(
        ((8, 24, 6, 3), (2, 6, 16, 4, 1)), _grouped, _oracle_multihead, dtypes=("float64", "float32")
    ),
    "transformer_block": Layer(((2, 6, 2, 8, 24), (3, 5, 4, 4, 18)), _block, _oracle_block, whole_model=True),
    "transformer_lm": Layer(
        ((2, 6, 2, 2, 8, 24, 19), (3, 5, 1, 4, 4, 18, 13)),
        _lm,
        lambda g: oracle.transformer_lm(g.arrays, g.constants["token_ids"], g.statics["config"]),
        whole_model=True,
    ),
    "training loss": Layer(
        ((2, 6, 2, 2, 8, 24, 19), (3, 5, 1, 4, 4, 18, 13)), _loss, _oracle_loss, whole_model=True
    ),
    # Not in bfloat16: of relu's pre-activations it moves one in a thousand across 0, where the gradient jumps.
    "transformer_lm of the family": Layer(
        ((2, 5, 1, 4, 4, 12, 11),),
        _family,
        _oracle_family,
        whole_model=True,
        of_variants=True,
        dtypes=("float64", "float32"),
    ),
    "encoder_stack": Layer(
        _SEQUENCES,
        _encoder_stack,
        _oracle_sequences(oracle.encoder_stack, "x", "num_tokens"),
        whole_model=True,
        of_variants=True,
        dtypes=("float64", "float32"),
    ),
    "transformer_encoder": Layer(
        _SEQUENCES,
        _encoder,
        _oracle_sequences(oracle.transformer_encoder, "token_ids", "num_tokens"),
        whole_model=True,
        of_variants=True,
        dtypes=("float64", "float32"),
    ),
    "prefix_decoder": Layer(
        _PREFIXED,
        _prefix_decoder,
        _oracle_sequences(oracle.prefix_decoder, "x", "token_ids", "num_tokens"),
        whole_model=True,
        of_variants=True,
        dtypes=("float64", "float32"),
    ),
    "encoder_decoder": Layer(
        _PREFIXED,
        _encoder_decoder,
        _oracle_sequences(oracle.encoder_decoder, "token_ids", "num_tokens", "prefix"),
        whole_model=True,
        of_variants=True,
        dtypes=("float64", "float32"),
    ),
    "adamw": Layer(((3, 5), (4,)), _steps, _oracle_adamw, differentiable=False),
    "sgd": Layer(((3, 5), (4,)), _steps, _oracle_sgd, differentiable=False),
}
"""Every public function and layer, by its name in `jax_impl`."""
