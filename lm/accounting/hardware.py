"""Devices to plan for: what one computes and holds, and what it sends to the others."""

from collections.abc import Mapping
from dataclasses import dataclass

from lm.config import ComputeDtype
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """A kind of device. Nodes of so many are joined closely, and nodes to each other by a network."""

    peak_flops: Mapping[ComputeDtype, float]
    """Dense floating-point operations a second, by the type of the operands."""
    memory: int | None
    """Bytes of a device."""
    node: int
    """Devices of a node."""
    node_bandwidth: float
    """Bytes a second that a device sends within its node, while it receives as many."""
    network_bandwidth: float
    """Bytes a second that a device sends out of its node, likewise."""


HARDWARE = {
    # NVIDIA's data sheets (SXM): bfloat16 without sparsity, and float32 without TF32, which this project does not use;
    # NVLink; a network card of 400 Gb/s (A100: 200) for each device.
    "a100": Hardware({"bfloat16": 312e12, "float32": 19.5e12}, 80 * 10**9, 8, 300e9, 25e9),
    "h100": Hardware({"bfloat16": 989e12, "float32": 67e12}, 80 * 10**9, 8, 450e9, 50e9),
    "h200": Hardware({"bfloat16": 989e12, "float32": 67e12}, 141 * 10**9, 8, 450e9, 50e9),
    # "How to scale your model" (Austin et al., 2025), parts 2 and 5: a pod is the node, a ring goes both ways round.
    "v5p": Hardware({"bfloat16": 459e12}, 96 * 10**9, 8960, 180e9, 6.25e9),
}


def find_hardware(name: str, dtype: ComputeDtype) -> Hardware:
    """The hardware of this name.

    Raises:
        InputError: there is none, or it has no peak for this type.
    """
    if name not in HARDWARE:
        raise InputError(
            f"'{name}' is no hardware: give {', '.join(HARDWARE)}, or --peak-flops and --bandwidth"
        )
    hardware = HARDWARE[name]
    if dtype not in hardware.peak_flops:
        raise InputError(f"the peak of {name} in {dtype} is not known: give --peak-flops and --bandwidth")
    return hardware
