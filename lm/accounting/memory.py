"""The memory of a training step: what is alive at its fullest moments. Each moment is a line a * sequences + b."""

from dataclasses import dataclass
from math import prod

from lm.accounting.activations import (
    Account,
    Sizes,
    added_in_attention,
    added_in_feed_forward,
    added_in_loss,
    block_inputs,
    block_scores,
    find_sizes,
    kept_by_all_blocks,
    kept_by_block,
    kept_by_course,
    kept_by_end,
)
from lm.accounting.network import elements
from lm.config import TrainConfig
from lm.flops import stacks
from lm.init import muon_names, optimizer_shapes, parameter_shapes
from lm.mesh import Mesh


@dataclass(frozen=True)
class Line:
    """Bytes as a function of the number of sequences in a micro-batch."""

    per_sequence: int
    fixed: int

    def at(self, sequences: int) -> int:
        """Return the bytes for this number of sequences."""
        return self.per_sequence * sequences + self.fixed


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments of each weight, or Muon's momentum, and the average of each weight."""
    activations: dict[str, int]
    """What one sequence keeps for the backward pass in all blocks together, by name."""
    moments: dict[str, Line]
    """All that is alive at several moments. One of them is the fullest of the step."""

    @property
    def line(self) -> Line:
        """Return the moment that is the fullest if there are many sequences."""
        return max(self.moments.values(), key=lambda line: line.per_sequence)

    def peak(self, sequences: int) -> int:
        """Return the peak in bytes for this number of sequences in a micro-batch."""
        return max(line.at(sequences) for line in self.moments.values())

    def largest_batch(self, available: int) -> int:
        """Return the largest number of sequences in a micro-batch that fit in `available` bytes, or 0."""
        if self.peak(1) > available:
            return 0
        return min((available - m.fixed) // m.per_sequence for m in self.moments.values() if m.per_sequence)


def memory(config: TrainConfig, account: Account, mesh: Mesh | None = None) -> Memory:
    """Return the memory of a training step. It depends on grad_accumulation, but not on the batch size.

    Args:
        mesh: Devices (`jax` only). The memory is then that of one device and its sequences.
    """
    m = config.model
    mesh = mesh or Mesh()
    assert account == "jax" or mesh.size == 1
    sizes = find_sizes(config, account, mesh.tensor)
    shapes = parameter_shapes(m)
    weights = sizes.weight * sum(mesh.share(name, shape) for name, shape in shapes.items())
    of_optimizer = optimizer_shapes(m, config.optimizer)
    del of_optimizer["step"]
    optimizer = sizes.weight * sum(
        mesh.share(name.partition(".")[2], shape) for name, shape in of_optimizer.items()
    )
    if account == "course":
        kept = kept_by_course(m, sizes.activation)
        everything = Line(sum(kept.values()), 2 * weights + optimizer)
        return Memory(weights, weights, optimizer, kept, {"all at once": everything})
    # Copies of matrices in the activations' type, or gathered. The backward pass multiplies by them again.
    e = elements(m, mesh)
    matrices, block = e.blocks + e.head, e.blocks // (m.num_layers * len(stacks(m)))
    if mesh.fsdp > 1:
        multiplied = block + e.head if m.remat == "block" else matrices
    else:
        multiplied = matrices if sizes.activation < sizes.weight else 0
    state = weights + optimizer + sizes.operand * multiplied
    # On a CPU, XLA sums gradients over fsdp only when it has all of them.
    whole = sizes.operand * matrices + sizes.weight * (0 if m.tie_embeddings else e.embeddings)
    not_scattered = 0
    if mesh.fsdp > 1:
        not_scattered = (
            whole if config.device == "cpu" else sizes.operand * block + sizes.weight * e.embeddings
        )
    # The sum of the gradients of earlier micro-batches.
    earlier = weights if config.grad_accumulation > 1 else 0
    blocks = kept_by_all_blocks(m, account, sizes)
    kept = {"block inputs": block_inputs(m) * sizes.activation} if m.remat == "block" else blocks
    kept |= kept_by_end(m, account, sizes)
    held = sum(kept.values())
    T_first, T_last = stacks(m)[0], stacks(m)[-1]
    last = kept_by_block(m, T_last, account, sizes)
    # What the last block keeps when it is recomputed, and what it has freed when its backward pass reaches attention.
    redone = sum(last.values()) if m.remat == "block" else 0
    done = sum(size for name, size in last.items() if name.startswith("ffn"))
    of_first = kept_by_block(m, T_first, account, sizes)
    in_attention = sum(size for name, size in of_first.items() if name.startswith("attn"))
    first = max(
        sum(of_first.values()) + added_in_feed_forward(m, T_first, account, sizes),
        in_attention + added_in_attention(m, T_first, account, sizes),
    )
    moments = {
        "loss": Line(held + added_in_loss(m, account, sizes), state + earlier),
        "feed-forward backward": Line(
            held + redone + added_in_feed_forward(m, T_last, account, sizes), state + earlier
        ),
        "attention backward": Line(
            held + redone - done + added_in_attention(m, T_last, account, sizes),
            state + earlier + block_scores(m, T_last, account, sizes),
        ),
        "first block's backward": Line(
            first,
            2 * weights + optimizer + earlier + sizes.operand * min(multiplied, block) + not_scattered,
        ),
        "update": Line(0, 2 * weights + optimizer + added_in_update(config, account, sizes, mesh)),
    }
    return Memory(weights, weights, optimizer, kept, moments)


def added_in_update(config: TrainConfig, account: Account, sizes: Sizes, mesh: Mesh) -> int:
    """Return the bytes that Muon's update adds. The square matrices A of Newton-Schulz steps have the shorter side.

    torch updates one matrix after the other. Beside the momentum's update, a step has X, a X and A with all terms of
    b A + c A A at once, or X, a X, A and two results. XLA begins with all matrices before it ends with any, and holds X
    and two square matrices for each.
    """
    o, shapes = config.optimizer, parameter_shapes(config.model)
    product = 2 if o.muon_dtype == "bfloat16" else sizes.weight
    added = [0]
    for name in muon_names(config.model, o):
        elements, square = prod(shapes[name]), min(shapes[name]) ** 2
        if account == "torch":
            step = max(2 * elements + 4 * square, 4 * elements + square)
            added.append(sizes.weight * elements + product * step)
        else:
            added.append(product * (mesh.share(name, shapes[name]) + 2 * square))
    return max(added) if account == "torch" else sum(added)
