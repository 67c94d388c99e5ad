"""Count what a model computes from its config: parameters, matrix products, floating-point operations."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from math import prod

from lm.config import ModelConfig, OptimizerConfig
from lm.init import muon_names, parameter_shapes

ADAMW_FLOPS = 14
"""Operations of AdamW for each parameter; a root counts as one (`optimizer.py` of either backend). 3 for the first
moment, 4 for the second, 5 for the step (root, epsilon, quotient, step size, difference), 2 for the decay."""
MUON_FLOPS = 24
"""Operations of Muon for each element of a matrix, except products. 3 for the momentum, 3 for Nesterov's step, 3 for
the norm (square, sum, quotient), 10 for a X and its sum in five Newton-Schulz steps, 1 for the scale, 2 for the step, 2
for the decay."""
AVERAGE_FLOPS = 3
"""Operations of the moving average for each parameter: a difference, its share, a sum."""
CLIPPING_FLOPS = 3
"""Operations of gradient clipping for each parameter: a square and an addition for the norm, and the scaling."""


def parameters(config: ModelConfig) -> dict[str, int]:
    """Count the parameters of each part, such as `layers.*.attn` (of all blocks together) and `lm_head`."""
    counts: Counter[str] = Counter()
    for name, shape in parameter_shapes(config).items():
        part = re.match(r"(encoder\.|decoder\.)?(layers\.\d+\.)?\w+", name)
        assert part is not None
        counts[_all_layers(part[0])] += prod(shape)
    return dict(counts)


def _all_layers(name: str) -> str:
    return re.sub(r"layers\.\d+", "layers.*", name)


@dataclass(frozen=True)
class Matmul:
    """`count` products of a (rows, inner) matrix with an (inner, columns) matrix."""

    name: str
    count: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """One multiplication and one addition for each element of the result and of the inner axis."""
        return 2 * self.count * self.rows * self.inner * self.columns


def matmuls(config: ModelConfig) -> list[Matmul]:
    """List the matrix products of the forward pass of one full sequence, in order, with blocks together.

    Embeddings are looked up, not multiplied. Attention's products of a full layer count in full, even if they are
    masked: the formula computes them in full, and the convention counts them in full (`train_flops_per_token`). In a
    sliding layer, each query counts as many keys as its window has: the window is an option that saves operations, and
    `fast` skips the blocks outside it.
    """
    heads, K = config.num_heads, config.d_head
    assert K is not None
    found: dict[str, Matmul] = {}

    def add(name: str, count: int, rows: int, inner: int, columns: int) -> None:
        before = found.get(name, Matmul(name, 0, rows, inner, columns))
        found[name] = replace(before, count=before.count + count)

    for name, shape in parameter_shapes(config).items():
        if len(shape) != 2 or "embeddings" in name:
            continue
        product = _all_layers(name.removesuffix(".weight"))
        T = positions(config, product)
        add(product, 1, T, shape[1], shape[0])
        if product.endswith("attn.v_proj"):
            own_type = config.layer_type(int(re.findall(r"\d+", name)[0]))
            for layer_type in config.used_layer_types:
                keys, count = min(T, config.window(layer_type) or T), heads if layer_type == own_type else 0
                attention = product.removesuffix("v_proj") + ("sliding_" if layer_type == "sliding" else "")
                add(f"{attention}scores", count, T, K, keys)
                add(f"{attention}weighted_sum", count, T, keys, K)
    if config.tie_embeddings:
        add("lm_head", 1, config.context_length, config.d_model, config.vocab_size)
    return list(found.values())


def positions(config: ModelConfig, name: str) -> int:
    """Return how many positions of a full sequence the part of this name computes on.

    The decoder of an encoder-decoder reads the encoder's hidden states before its own positions. Its head does not.
    """
    if config.architecture != "encoder_decoder" or name.endswith("lm_head"):
        return config.context_length
    assert config.prefix_length is not None
    return config.prefix_length + (0 if name.startswith("encoder.") else config.context_length)


def stacks(config: ModelConfig) -> tuple[int, ...]:
    """Return the number of positions that each stack of blocks computes on."""
    names = ("encoder.", "decoder.") if config.architecture == "encoder_decoder" else ("",)
    return tuple(positions(config, name) for name in names)


def train_flops_per_token(config: ModelConfig) -> int:
    """Count the floating-point operations of forward and backward pass for each token of a full window.

    Only matrix products count, and the backward pass counts twice: 6 operations for each weight of a product, and
    12 num_heads * d_head * context_length for the scores and sums of each layer, causal or not. This is the convention
    of PaLM (Chowdhery et al., 2022, appendix B), by which model FLOPs utilisation (MFU) is compared. A sliding layer
    counts its window in place of the context. What remat recomputes does not count. For an encoder-decoder, tokens are
    those of the target.

    >>> train_flops_per_token(ModelConfig(100, 16, 8, 1, 1, d_ff=24))
    11328
    """
    return 3 * sum(m.flops for m in matmuls(config)) // config.context_length


def newton_schulz_flops(rows: int, columns: int) -> int:
    """Count the operations of the products of Muon's five Newton-Schulz steps of a (rows, columns) matrix.

    Each step multiplies the matrix by its transpose, the result by itself, and the matrix by the sum of both. The
    square matrices have the shorter side.

    >>> newton_schulz_flops(8, 2) == newton_schulz_flops(2, 8) == 5 * (2 * 2 * 8 * 2 + 2 * 2 * 2 * 2 + 2 * 2 * 2 * 8)
    True
    """
    short, long = sorted((rows, columns))
    return 5 * (4 * short * short * long + 2 * short**3)


def optimizer_flops(config: ModelConfig, optimizer: OptimizerConfig | None = None) -> dict[str, int]:
    """Count the floating-point operations of each part of an optimizer step.

    Args:
        optimizer: By default AdamW.
    """
    optimizer = optimizer or OptimizerConfig()
    shapes, total = parameter_shapes(config), sum(parameters(config).values())
    matrices = [shapes[name] for name in muon_names(config, optimizer)]
    elements = sum(map(prod, matrices))
    return {
        "adamw": ADAMW_FLOPS * (total - elements),
        "muon": MUON_FLOPS * elements + sum(newton_schulz_flops(*shape) for shape in matrices),
        "average": AVERAGE_FLOPS * total if optimizer.average_decay else 0,
        "clipping": CLIPPING_FLOPS * total,
    }
