"""Devices to plan for: their speed, their memory, and their links to other devices."""

from collections.abc import Mapping
from dataclasses import dataclass

from lm.config import ComputeDtype
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """A kind of device. Fast links join the devices of a node, and a network joins the nodes."""

    peak_flops: Mapping[ComputeDtype, float]
    """Dense floating-point operations per second, by the type of the operands."""
    memory: int | None
    """Bytes of memory of a device, or None if unknown."""
    node: int
    """Number of devices of a node."""
    node_bandwidth: float
    """Bytes per second that a device sends within its node while it receives equally many."""
    network_bandwidth: float
    """Bytes per second that a device sends out of its node while it receives equally many."""


HARDWARE = {
    # NVIDIA's data sheets (SXM): bfloat16 without sparsity, and float32 without TF32, because this project does not use
    # TF32. The nodes have NVLink, and one network card of 400 Gb/s (A100: 200) for each device.
    "a100": Hardware({"bfloat16": 312e12, "float32": 19.5e12}, 80 * 10**9, 8, 300e9, 25e9),
    "h100": Hardware({"bfloat16": 989e12, "float32": 67e12}, 80 * 10**9, 8, 450e9, 50e9),
    "h200": Hardware({"bfloat16": 989e12, "float32": 67e12}, 141 * 10**9, 8, 450e9, 50e9),
    # NVIDIA's data sheet of the HGX B200, divided by its 8 devices.
    "b200": Hardware({"bfloat16": 2250e12, "float32": 75e12}, 180 * 10**9, 8, 900e9, 50e9),
    # "How to scale your model" (Austin et al., 2025), parts 2 and 5. A pod counts as a node, and rings go both ways.
    "v5p": Hardware({"bfloat16": 459e12}, 96 * 10**9, 8960, 180e9, 6.25e9),
}


def find_hardware(name: str, dtype: ComputeDtype) -> Hardware:
    """Return the hardware of this name.

    Raises:
        InputError: the name is unknown, or the peak of the hardware in this type is.
    """
    if name not in HARDWARE:
        raise InputError(
            f"'{name}' is not a known hardware: give {', '.join(HARDWARE)}, or --peak-flops and --bandwidth"
        )
    hardware = HARDWARE[name]
    if dtype not in hardware.peak_flops:
        raise InputError(f"the peak of {name} in {dtype} is not known: give --peak-flops and --bandwidth")
    return hardware
