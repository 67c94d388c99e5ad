"""What a training step keeps for its backward pass, and what the backward pass adds, in bytes for one sequence.

There are three accounts. `course` is the sum that the course asks for: everything on its list, alive at once. `torch`
and `jax` are what the step of that backend needs on a CPU. In JAX, the gradient of each operation keeps what it reads,
except the gradients of attention, gates and the loss. XLA fuses no further than from one matrix product to the next.
torch's hand-written gradients (`torch_impl/fast`) keep only what they cannot recompute.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from lm.config import ModelConfig, TrainConfig
from lm.flops import stacks

Account = Literal["course", "torch", "jax"]
ACCOUNTS: tuple[Account, ...] = get_args(Account)
JAX_QUERIES, JAX_KEYS = 256, 512
"""Most queries and keys in a block of attention in JAX (`jax_impl/fast/attention.py`)."""
TORCH_QUERIES = TORCH_KEYS = 128
"""Most queries and keys in a block of attention in torch (`torch_impl/fast/attention.py`)."""
TORCH_SCORES = 1 << 18
"""Most scores in torch's blocks together on a CPU (`torch_impl/fast/blocks.py`)."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a number by its kind, the number of devices that share heads and feed-forward units, and the batch."""

    weight: int
    """A weight. Norms, softmax and loss compute in its type, too."""
    activation: int
    operand: int
    """An operand of a matrix product of attention or head."""
    tensor: int
    sequences: int
    """Sequences in a micro-batch."""


def find_sizes(config: TrainConfig, account: Account, tensor: int) -> Sizes:
    """Return the sizes of a config's numbers, on a mesh whose axis `tensor` has this size."""
    weight = 8 if config.param_dtype == "float64" else 4
    activation = 2 if config.compute_dtype == "bfloat16" else weight
    # On a CPU, XLA multiplies bfloat16 in float32 and keeps the operands in float32.
    widened = account == "jax" and config.device == "cpu"
    sequences = config.batch_size // config.grad_accumulation
    return Sizes(weight, activation, weight if widened else activation, tensor, sequences)


def block_inputs(m: ModelConfig) -> int:
    """Return the number of elements of the blocks' inputs."""
    return sum(m.num_layers * T * m.d_model for T in stacks(m))


def kept_by_all_blocks(m: ModelConfig, account: Account, sizes: Sizes) -> dict[str, int]:
    """Return the bytes that all blocks together keep."""
    total: Counter[str] = Counter()
    for T in stacks(m):
        total.update({name: m.num_layers * b for name, b in kept_by_block(m, T, account, sizes).items()})
    return dict(total)


def kept_by_block(m: ModelConfig, T: int, account: Account, sizes: Sizes) -> dict[str, int]:
    """Return the bytes that a block keeps of one sequence, in the order of `model.py`, `layers.py`, `attention.py`."""
    assert m.d_ff is not None
    assert m.num_kv_heads is not None
    assert m.d_head is not None
    H, kv_heads, units = (n // sizes.tensor for n in (m.num_heads, m.num_kv_heads, m.d_ff))
    stream, queries, kv = T * m.d_model, T * H * m.d_head, T * kv_heads * m.d_head
    scores, hidden = H * T * T, T * units
    w, x, o = sizes.weight, sizes.activation, sizes.operand
    norm = stream * _norm(m, account, sizes)
    kept = {
        "attn: norm": norm,
        "attn: input": stream * o,
        "attn: values": kv * o,
        "attn: heads' output": queries * o,
    }
    if m.norm_position == "sandwich":
        kept["attn: norm after"] = norm
    if account == "torch":
        kept |= {
            "attn: queries": queries * x,
            "attn: keys": kv * x,
            "attn: largest scores, sums": 2 * H * T * w,
            # The gradient of a soft cap needs its slope, too.
            "attn: weights": scores * w * (1 if m.score_softcap is None else 2)
            if _is_one_block(m, T, sizes)
            else 0,
            # In bfloat16, the gradient needs the output in float32, too.
            "attn: heads' wide output": queries * w if x < w else 0,
        }
    else:
        kept |= {"attn: queries": queries * w, "attn: keys": kv * w}
        # Kept twice if they are rounded or regrouped for the product.
        twice = x < w or m.num_kv_heads < m.num_heads
        if _is_one_block_in_jax(T):
            kept["attn: weights"] = scores * w * (2 if twice else 1)
            if m.score_softcap is not None:
                kept["attn: capped scores"] = 2 * scores * w
        else:
            kept |= {"attn: wide output": queries * w, "attn: largest scores, sums": 2 * H * T * w}
            # What XLA copies to reach single blocks, as measured without groups of heads.
            kept["attn: copies for blocks"] = 4 * (queries + kv) * w
    if m.qk_norm:
        kept["attn: query and key norms"] = (queries + kv) * (x if account == "torch" else 2 * w)
    if m.block == "sequential":
        kept |= {"ffn: norm": norm, "ffn: input": stream * o}
        if m.norm_position == "sandwich":
            kept["ffn: norm after"] = norm
    # SiLU multiplies its input by the sigmoid. GELU multiplies half of its input by an erfc, and its tanh form by 1
    # plus a tanh. For ReLU, torch keeps the mask of the positive inputs, and JAX keeps the inputs. In torch, a square
    # keeps what it squares, too.
    activation = {
        "silu": 2 * hidden * w,
        "gelu": 3 * hidden * w,
        "gelu_tanh": (2 if account == "torch" else 3) * hidden * w,
        "relu": hidden * (1 if account == "torch" else w),
        "relu2": hidden * (w + 1 if account == "torch" else w),
    }
    # A gate keeps w1 x and w3 x.
    kept[f"ffn: {m.ffn}"] = 2 * hidden * x if m.has_gate else activation[m.ffn]
    return kept | {"ffn: w2's input": hidden * x}


def _norm(m: ModelConfig, account: Account, sizes: Sizes) -> int:
    """Return the bytes that a norm keeps for each element.

    A norm keeps its input in float32 (LayerNorm: centred) and the normalised input. torch's RMSNorm keeps only its
    input, in the input's type.
    """
    if m.norm == "none":
        return 0
    return sizes.activation if account == "torch" and m.norm == "rmsnorm" else 2 * sizes.weight


def kept_by_end(m: ModelConfig, account: Account, sizes: Sizes) -> dict[str, int]:
    """Return what the parts after the blocks keep: the final norm and the head's input."""
    norm = 0 if m.norm_position == "post" else _norm(m, account, sizes)
    return {
        "final norm": sum(stacks(m)) * m.d_model * norm,
        "head: input": m.context_length * m.d_model * sizes.operand,
    }


def added_in_loss(m: ModelConfig, account: Account, sizes: Sizes) -> int:
    """Return what is alive between the logits and their gradient.

    torch holds exponentials and the gradient in the activations' type. JAX writes the gradient over the logits. If
    activations are narrower than weights, both also hold the gradient in float32. The gradient of a soft cap needs the
    logits, and in JAX also what it computes from them.
    """
    narrow = sizes.activation < sizes.weight
    size = (2 if account == "torch" else 1) * sizes.activation + (sizes.weight if narrow else 0)
    if m.logit_softcap is not None:
        size += (1 if account == "torch" else 2) * sizes.weight
    return m.context_length * m.vocab_size * size


def added_in_feed_forward(m: ModelConfig, T: int, account: Account, sizes: Sizes) -> int:
    """Return what the feed-forward's backward pass adds to what was kept: gradients of its product and both factors.

    torch needs all three. JAX fuses one of them away.
    """
    assert m.d_ff is not None
    return (3 if account == "torch" else 2) * T * m.d_ff // sizes.tensor * sizes.activation


def added_in_attention(m: ModelConfig, T: int, account: Account, sizes: Sizes) -> int:
    """Return what attention's backward pass adds to what was kept: gradients.

    In torch they are those of output, queries, keys and values, and, unless all scores are one block, keys and values
    with a column of ones, and sums of their gradients. In JAX they are those of weights and scores, or, in blocks, of
    output, queries, keys and values, and their copies in blocks.
    """
    assert m.num_kv_heads is not None
    assert m.d_head is not None
    if account == "torch":
        gradients = 2 * T * (m.num_heads + m.num_kv_heads) * m.d_head * sizes.activation
        if _is_one_block(m, T, sizes):
            return gradients + m.num_heads * T * T * sizes.weight
        return gradients + 2 * T * m.num_kv_heads * (2 * m.d_head + 1) * sizes.weight
    heads = m.num_heads // sizes.tensor
    # A soft cap needs its slope, too.
    capped = m.score_softcap is not None
    if _is_one_block_in_jax(T):
        return (4 if capped else 2) * heads * T * T * sizes.weight
    block_scores = (3 if capped else 2) * heads * JAX_QUERIES * min(T, JAX_KEYS)
    return (6 * T * heads * m.d_head + block_scores) * sizes.weight


def _is_one_block_in_jax(T: int) -> bool:
    """Return whether JAX keeps all weights of a layer (`jax_impl/fast/attention.py`)."""
    return T <= JAX_QUERIES


def _is_one_block(m: ModelConfig, T: int, sizes: Sizes) -> bool:
    """Return whether torch computes all scores of a layer at once and keeps them (`torch_impl/fast/attention.py`)."""
    scores = sizes.sequences * m.num_heads * T * T
    return T <= TORCH_QUERIES and scores <= TORCH_SCORES and sizes.activation == sizes.weight


def block_scores(m: ModelConfig, T: int, account: Account, sizes: Sizes) -> int:
    """Return the scores, and their gradients, that torch's attention has in the processor's cache."""
    if account != "torch" or _is_one_block(m, T, sizes):
        return 0
    block = min(T, TORCH_QUERIES) * min(T, TORCH_KEYS)
    return 2 * min(TORCH_SCORES, sizes.sequences * m.num_heads * block) * sizes.weight


def kept_by_course(m: ModelConfig, size: int) -> dict[str, int]:
    """Return the activations that the course counts, in bytes (assignment 1, AdamW's resource accounting).

    For the feed-forward the course counts W1's product, the activation and W2's product. It leaves out SwiGLU's gate.
    """
    assert m.d_ff is not None
    assert m.num_kv_heads is not None
    assert m.d_head is not None
    total: Counter[str] = Counter()
    norms = (0 if m.norm == "none" else 1) * (1 if m.block == "parallel" else 2)
    norms *= 2 if m.norm_position == "sandwich" else 1
    for T in stacks(m):
        stream, heads, hidden = T * m.d_model, T * m.num_heads * m.d_head, T * m.d_ff
        for i in range(m.num_layers):
            scores = m.num_heads * T * min(T, m.window(m.layer_type(i)) or T)
            block = {
                "norms": norms * stream,
                "queries, keys, values": heads + 2 * T * m.num_kv_heads * m.d_head,
                "scores": scores,
                "softmax": scores,
                "weighted sum": heads,
                "attention's output": stream,
                "w1's output": hidden,
                "ffn's activation": hidden,
                "w2's output": stream,
            }
            total.update({name: n * size for name, n in block.items()})
    T, V = m.context_length, m.vocab_size
    end = {"final norm": min(norms, 1) * T * m.d_model, "logits": T * V, "cross-entropy": T * V}
    return dict(total) | {name: n * size for name, n in end.items()}
