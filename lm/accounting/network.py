"""The collectives of a training step on a mesh, their bytes, and their time."""

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
"""How often an array goes round the ring. An all-reduce scatters sums, then gathers (Patarasuk and Yuan, 2009)."""


@dataclass(frozen=True)
class Collective:
    """Arrays that a group of devices reduces or gathers in a step."""

    kind: Kind
    axis: str
    what: str
    bytes: int
    """Total size of the whole arrays, as each device has them after an all-gather or before a reduction."""
    devices: int
    """Number of devices of the group."""
    stride: int
    """Distance between neighbours of the group in the numbering of devices, in which tensor runs fastest and data
    slowest."""

    @property
    def sent(self) -> int:
        """Bytes that each device sends: everything except its own share goes round the ring, once or twice."""
        return PASSES[self.kind] * self.bytes * (self.devices - 1) // self.devices

    def sent_out(self, node: int) -> int:
        """Return the bytes that each device sends out of its node.

        In hierarchical rings, only the sums over a node's devices leave the node, and each device sends its share.
        """
        inside = self._inside(node)
        nodes = self.devices // inside
        return PASSES[self.kind] * self.bytes * (nodes - 1) // nodes // inside

    def seconds(self, hardware: Hardware) -> float:
        """Return the time of the collective over the slower of both links."""
        network = self.sent_out(hardware.node) / hardware.network_bandwidth
        close = self.sent / hardware.node_bandwidth if self._inside(hardware.node) > 1 else 0.0
        return max(network, close)

    def _inside(self, node: int) -> int:
        """Return the number of devices of the group in one node."""
        return min(self.devices, max(1, node // self.stride))


def collectives(config: TrainConfig, mesh: Mesh) -> list[Collective]:
    """Return the collectives of the compiled step of `jax_impl`, except those of scalars and token ids.

    fsdp: each matrix is gathered for its product with the batch rows, in the forward pass and once more if blocks are
    recomputed. Its gradient is summed and scattered (Rajbhandari et al., 2020, section 7: 3 times the weights). data:
    the gradients that a device holds are summed. tensor: the residual stream is summed after attention and after the
    feed-forward, and its gradient before them (Shoeybi et al., 2019, section 3).

    On a CPU, XLA has no reduce-scatter and uses all-reduce. If several products read one stream, XLA on a CPU sends
    their gradients and then sums them; elsewhere it sums before it sends.
    """
    return [c for c in _all(config, mesh) if c.devices > 1 and c.bytes > 0]


@dataclass(frozen=True)
class Elements:
    """Number of elements of the weights, with tensor's divisions done."""

    blocks: int
    """Elements of the blocks' matrices."""
    head: int
    embeddings: int
    """Elements of the embeddings of tokens and positions, tied or not."""
    vectors: int
    """Elements of gains and biases, which fsdp does not divide."""


def elements(m: ModelConfig, mesh: Mesh) -> Elements:
    """Count the elements of each kind."""
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

    # Embeddings are gathered in their own type. Tied to the head, they are gathered only once.
    yield over("fsdp", "all-gather", "weights, forward", A * matrices)
    if m.remat == "block":
        yield over("fsdp", "all-gather", "weights, again", A * e.blocks * operand)
    # Tied embeddings have two gradients. A CPU sends both, because it sums them afterwards.
    apart = e.head * weight if m.tie_embeddings and on_cpu else 0
    yield over("fsdp", "all-reduce" if on_cpu else "reduce-scatter", "gradients", A * (matrices + apart))
    yield over("fsdp", "all-reduce", "gains, biases", A * e.vectors * weight)
    yield over("data", "all-reduce", "gradients", A * (matrices // mesh.fsdp + e.vectors * weight))
    forward, backward = _sums(m, merged=not on_cpu)
    sequences = config.batch_size // (mesh.data * mesh.fsdp)
    stream = sequences * m.num_layers * sum(stacks(m)) * m.d_model * operand
    yield over("tensor", "all-reduce", "stream, forward", forward * stream)
    yield over("tensor", "all-reduce", "stream's gradient", backward * stream)


def normalises_outputs(m: ModelConfig) -> bool:
    """Return whether a norm reads the branches' outputs, or the stream that they are added to in the block."""
    return m.norm_position != "pre"


def _sums(m: ModelConfig, merged: bool) -> tuple[int, int]:
    """Count a block's all-reduces over tensor: of its branches' outputs, and of the gradients of the branches' inputs.

    Args:
        merged: Whether terms of a sum are added before the sum is sent.
    """
    branches = 1 if merged and m.block == "parallel" else 2
    # Recomputation repeats what later parts read: attention's output if the feed-forward reads it, and the
    # feed-forward's output if a norm reads it.
    again = (m.block == "sequential") + normalises_outputs(m) * (1 if m.block == "sequential" else branches)
    read = branches if merged else 3 + (2 if m.has_gate else 1)
    return branches + (again if m.remat == "block" else 0), read
