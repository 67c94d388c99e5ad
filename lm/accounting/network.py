"""What a training step sends between the devices of a mesh: its collectives, their bytes, and their time."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from lm.accounting.hardware import Hardware
from lm.config import ModelConfig, TrainConfig
from lm.flops import stacks
from lm.init import parameter_shapes
from lm.mesh import Mesh

Kind = Literal["all-gather", "reduce-scatter", "all-reduce"]
PASSES: dict[Kind, int] = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}
"""How often a ring passes an array on: an all-reduce scatters sums, then gathers them (Patarasuk and Yuan, 2009)."""


@dataclass(frozen=True)
class Collective:
    """Arrays of so many bytes in all, that a group of devices reduces or gathers in a step."""

    kind: Kind
    axis: str
    what: str
    bytes: int
    """Of the whole arrays, as each device has them after an all-gather or before a reduction."""
    devices: int
    """In the group."""
    stride: int
    """From one device of the group to the next, as devices are numbered: tensor first, data last."""

    @property
    def sent(self) -> int:
        """Bytes that each device sends, all but its own share going once or twice round the ring."""
        return PASSES[self.kind] * self.bytes * (self.devices - 1) // self.devices

    def sent_out(self, node: int) -> int:
        """The part of it that leaves the node, for each device.

        Of a group's devices in one node only the sums leave it, and each sends its share (hierarchical rings).
        """
        inside = self._inside(node)
        nodes = self.devices // inside
        return PASSES[self.kind] * self.bytes * (nodes - 1) // nodes // inside

    def seconds(self, hardware: Hardware) -> float:
        """The time it takes, by the slower of both links."""
        network = self.sent_out(hardware.node) / hardware.network_bandwidth
        close = self.sent / hardware.node_bandwidth if self._inside(hardware.node) > 1 else 0.0
        return max(network, close)

    def _inside(self, node: int) -> int:
        """How many devices of the group are in one node."""
        return min(self.devices, max(1, node // self.stride))


def collectives(config: TrainConfig, mesh: Mesh) -> list[Collective]:
    """What the compiled step of `jax_impl` sends, but for scalars and token ids, from `Mesh.split` and the model.

    fsdp: each matrix is gathered where rows of a batch are multiplied by it, in the forward pass and, where blocks are
    computed again, once more; its gradient is summed and scattered (Rajbhandari et al., 2020, section 7: 3 times the
    weights). data: the sum of the gradients that a device holds. tensor: the stream, summed after attention and after
    the feed-forward, and its gradient before them (Shoeybi et al., 2019, section 3).

    On a CPU, XLA has no reduce-scatter and reduces all, and sums the gradients of several products by the same stream
    after they were sent; elsewhere it does so before.
    """
    return [c for c in _all(config, mesh) if c.devices > 1 and c.bytes > 0]


@dataclass(frozen=True)
class Elements:
    """How many numbers the weights are, once those are divided that tensor divides."""

    blocks: int
    """Of the blocks' matrices."""
    head: int
    embeddings: int
    """Of tokens and positions, also where they are the head too."""
    vectors: int
    """Gains and biases, which fsdp does not divide."""


def elements(m: ModelConfig, mesh: Mesh) -> Elements:
    """The elements of each kind."""
    counts = dict.fromkeys(("blocks", "head", "embeddings", "vectors"), 0)
    for name, shape in parameter_shapes(m).items():
        if len(shape) == 1:
            kind = "vectors"
        elif "embeddings" in name:
            kind = "embeddings"
        else:
            kind = "blocks" if "layers." in name else "head"
        counts[kind] += prod(shape) // (mesh.tensor if "tensor" in mesh.split(name, shape) else 1)
    if m.tie_embeddings:
        counts["head"] = m.vocab_size * m.d_model
    return Elements(**counts)


def _all(config: TrainConfig, mesh: Mesh) -> Iterator[Collective]:
    m, on_cpu, A = config.model, config.device == "cpu", config.grad_accumulation
    weight = 8 if config.param_dtype == "float64" else 4
    # XLA on a CPU multiplies bfloat16 in float32.
    operand = 2 if config.compute_dtype == "bfloat16" and not on_cpu else weight
    e = elements(m, mesh)
    matrices = e.blocks * operand + e.embeddings * weight + (0 if m.tie_embeddings else e.head * operand)

    def over(axis: str, kind: Kind, what: str, size: int) -> Collective:
        stride = {"tensor": 1, "fsdp": mesh.tensor, "data": mesh.fsdp * mesh.tensor}[axis]
        return Collective(kind, axis, what, size, getattr(mesh, axis), stride)

    # Embeddings are gathered as they are; the head that they may be has no others.
    yield over("fsdp", "all-gather", "weights, forward", A * matrices)
    if m.remat == "block":
        yield over("fsdp", "all-gather", "weights, again", A * e.blocks * operand)
    # Both gradients of such embeddings, where a sum is not made before it is sent.
    apart = e.head * weight if m.tie_embeddings and on_cpu else 0
    yield over("fsdp", "all-reduce" if on_cpu else "reduce-scatter", "gradients", A * (matrices + apart))
    yield over("fsdp", "all-reduce", "gains, biases", A * e.vectors * weight)
    yield over("data", "all-reduce", "gradients", A * (matrices // mesh.fsdp + e.vectors * weight))
    forward, backward = _sums(m, merged=not on_cpu)
    sequences = config.batch_size // (mesh.data * mesh.fsdp)
    stream = sequences * m.num_layers * sum(stacks(m)) * m.d_model * operand
    yield over("tensor", "all-reduce", "stream, forward", forward * stream)
    yield over("tensor", "all-reduce", "stream's gradient", backward * stream)


def _sums(m: ModelConfig, merged: bool) -> tuple[int, int]:
    """All-reduces of the stream over tensor in a block: of its branches' outputs, and of gradients of what they read.

    Args:
        merged: Whether what is added is added before it is sent.
    """
    branches = 1 if merged and m.block == "parallel" else 2
    # Computed again is what follows needs: attention's output, where the feed-forward reads it; and where the
    # last norm of a block reads it, the feed-forward's.
    again = (m.block == "sequential") + (m.norm_position == "post") * (
        1 if m.block == "sequential" else branches
    )
    read = branches if merged else 3 + (2 if m.ffn == "swiglu" else 1)
    return branches + (again if m.remat == "block" else 0), read
