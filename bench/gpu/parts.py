"""The parts of the program, in the order of their worth."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from bench.children import Unavailable
from tokenizer.errors import InputError

BACKENDS = ("torch", "jax")
Answer = dict[str, Any]


class Settings(NamedTuple):
    """What the command line says."""

    device: str
    tiny: bool
    threads: int
    rounds: int = 3
    seconds: float = 0.0
    """Time limit of the part that runs."""


class Part(NamedTuple):
    """A question that a process of its own answers."""

    name: str
    seconds: int
    """Longest time that it may take."""
    answer: Callable[[], Answer]
    """Returns the answer. Its key `status` is "passed", "failed" or "measured"."""


CONTENDERS = (
    "torch",
    "jax",
    "baseline compiled",
    "baseline",
    "jax baseline",
    "torch compiled",
    "torch compiled graphs",
    "torch compiled step",
)
ROWS = (
    ("gpt2-small/32/bfloat16", CONTENDERS),
    ("tinystories/64/bfloat16", ("torch", "jax", "baseline compiled", "jax baseline")),
    ("gpt2-small@4096/8/bfloat16", ("torch", "jax", "baseline compiled", "jax baseline")),
    ("gpt2-small/32/tf32", ("torch", "jax", "baseline compiled")),
    ("gpt2-small/32/float32", ("torch", "jax", "baseline compiled")),
    ("tinystories/32/bfloat16", ("torch", "jax", "baseline compiled")),
    ("tinystories/32/float32", ("torch", "jax", "baseline compiled")),
)
TINY_ROWS = (("nano/8/float32", CONTENDERS),)


def make_parts(settings: Settings) -> Iterator[Part]:
    """Yield the parts. Those of torch and of JAX never share a process."""
    from bench.gpu import checks, speeds

    for backend in BACKENDS:
        yield Part(f"device {backend}", 60, partial(speeds.device, settings, backend))
    for backend in BACKENDS:
        yield Part(f"parity {backend} float32", 60, partial(checks.parity, settings, backend, "float32"))
    for check in (checks.steps, checks.gradients, checks.bits, checks.greedy):
        for backend in BACKENDS:
            yield Part(f"{check.__name__} {backend}", 45, partial(check, settings, backend))
    rows = TINY_ROWS if settings.tiny else ROWS
    for number, (work, contenders) in enumerate(rows):
        dtype = work.rpartition("/")[2]
        if number == 0 or dtype != rows[number - 1][0].rpartition("/")[2]:
            yield Part(f"product {work}", 30, partial(speeds.product, settings, work))
        for contender in contenders:
            yield Part(f"step {work} {contender}", 75, partial(speeds.step, settings, work, contender))
        if number == 0:
            for backend in BACKENDS:
                yield Part(f"decode {backend}", 45, partial(speeds.decode, settings, backend))
            for backend in BACKENDS:
                yield Part(
                    f"parity {backend} bfloat16", 45, partial(checks.parity, settings, backend, "bfloat16")
                )
            yield Part(
                "parity torch compiled", 60, partial(checks.parity, settings, "torch", "float32", "inductor")
            )
            yield Part("attention blocks torch", 30, partial(speeds.attention_blocks, settings))


def run(part: Part) -> Answer:
    """Return the answer of a part. What cannot run here says why."""
    try:
        return part.answer()
    except (Unavailable, InputError) as reason:
        return {"status": "unavailable", "reason": str(reason)}
