"""`lm accounting --mesh` agrees with the programs that XLA compiles, with sums by hand, and with docs/scaling.md."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from bench.program import sent
from lm.accounting.hardware import HARDWARE, Hardware
from lm.accounting.network import Collective, collectives
from lm.accounting.plan import plan
from lm.accounting.presets import PRESETS
from lm.mesh import Mesh
from tests.lm.accounting.cases import tell
from tests.lm.conftest import refused
from tests.lm.mesh_programs import CASES
from tests.lm.processes import Process

Capture = pytest.CaptureFixture[str]
GPU = replace(PRESETS["llama-7b"], device="cuda")


@pytest.fixture(scope="module")
def programs() -> dict[str, dict[str, Any]]:
    """Return what XLA compiled for each case on virtual devices."""
    # LLVM's optimizations change no memory. Fusion, which the tests' own flags turn off, does.
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    child = Process("tests.lm.mesh_programs", environment=environment).wait()
    assert child.code == 0, child.err
    return json.loads(child.out)


@pytest.mark.parametrize("case", CASES)
def test_bytes_and_memory_are_those_of_the_compiled_step(case: str, programs: dict[str, Any]) -> None:
    """A device sends the planned bytes within 2% (scalars and token ids are not planned), and holds them within 15%."""
    found = programs[case]
    assert found["memory_by_formula"] == pytest.approx(found["memory"], rel=0.15)
    by_xla, formula = Counter(found["sent"]), Counter(found["sent_by_formula"])
    assert formula.total() == pytest.approx(by_xla.total(), rel=0.02)
    # Over two axes, XLA sends some arrays along one axis or both while the formula counts the other axis.
    for what, size in formula.items() if "," not in CASES[case][0] else ():
        assert size == pytest.approx(by_xla[what], rel=0.05), what


def test_collectives_by_hand() -> None:
    """ZeRO sends three times the weights, and Megatron all-reduces the residual stream, in bfloat16 on GPUs."""
    m = GPU.model
    assert m.d_ff is not None
    blocks, head = m.num_layers * (4 * m.d_model**2 + 3 * m.d_model * m.d_ff), m.vocab_size * m.d_model
    # Embeddings are gathered in float32.
    whole = 2 * (blocks + head) + 4 * head
    kept = {c.what: c for c in collectives(replace(GPU, model=replace(m, remat="none")), Mesh(fsdp=64))}
    assert set(kept) == {"weights, forward", "gradients", "gains, biases"}
    assert kept["weights, forward"].bytes == kept["gradients"].bytes == whole
    assert (kept["gradients"].kind, kept["gradients"].sent) == ("reduce-scatter", whole * 63 // 64)
    again = {c.what: c for c in collectives(GPU, Mesh(fsdp=64))}
    assert again["weights, again"].bytes == 2 * blocks
    # Gradients of a device's share are then summed over data.
    (over_data,) = [c for c in collectives(GPU, Mesh(data=2, fsdp=64)) if c.axis == "data"]
    gains = (2 * m.num_layers + 1) * m.d_model
    assert over_data.bytes == whole // 64 + 4 * gains
    stream = 2 * GPU.batch_size * m.context_length * m.d_model
    forward, backward = (c for c in collectives(GPU, Mesh(tensor=8)))
    assert (forward.bytes, backward.bytes) == (3 * m.num_layers * stream, 2 * m.num_layers * stream)
    assert forward.sent == 2 * forward.bytes * 7 // 8
    assert collectives(GPU, Mesh()) == []


def test_what_leaves_a_node_and_how_long_it_takes() -> None:
    hardware = Hardware({"bfloat16": 1e15}, 10**9, 8, 400.0, 50.0)
    # All in the node: nothing leaves it.
    inside = Collective("all-gather", "tensor", "", 8000, 8, 1)
    assert (inside.sent, inside.sent_out(8), inside.seconds(hardware)) == (7000, 0, 7000 / 400)
    # Four nodes: of each node's sums three quarters, over its eight cards.
    across = Collective("reduce-scatter", "fsdp", "", 32_000, 32, 1)
    assert (across.sent, across.sent_out(8)) == (31_000, 3000)
    assert across.seconds(hardware) == max(31_000 / 400, 3000 / 50)
    # One device a node: the card alone.
    apart = Collective("all-reduce", "data", "", 4000, 4, 8)
    assert (apart.sent, apart.sent_out(8), apart.seconds(hardware)) == (6000, 6000, 6000 / 50)


def test_a_plan_adds_up() -> None:
    p = plan(GPU, Mesh(fsdp=256), HARDWARE["h100"], 0.5)
    time, model = p["time"], p["model_flops"]
    assert p["flops"] == model // 256
    assert time["compute"] == pytest.approx((p["flops"] + p["flops_again"]) / (0.5 * 989e12))
    assert time["step"]["exposed"] == pytest.approx(time["compute"] + sum(time["network"].values()))
    for how in ("hidden", "exposed"):
        assert time["mfu"][how] == pytest.approx(model / (256 * 989e12 * time["step"][how]))
    parts = p["memory"]
    assert parts["weights"] == pytest.approx(4 * 6.738e9 / 256, rel=0.02)
    assert parts["weights"] * 4 + parts["activations"] < parts["peak"] < 80e9
    # The head is not divided over tensor; all else is.
    divided = plan(GPU, Mesh(fsdp=32, tensor=8), HARDWARE["h100"], 0.5)
    head = 3 * 2 * GPU.model.d_model * GPU.model.vocab_size * p["tokens"]
    assert divided["flops"] == pytest.approx((model - head) / 256 + head / 32)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "%a = f32[8,4]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}",
            ("all-gather", "fsdp*tensor", 96),
        ),
        (
            "%a = f32[8,4]{1,0} all-gather(%p), replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}",
            ("all-gather", "fsdp", 64),
        ),
        (
            "%a = (bf16[8]{0}, f32[]) all-reduce(%p, %q), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add",
            ("all-reduce", "data", 20),
        ),
        (
            "%a = f32[8]{0} reduce-scatter(%p), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}, dimensions={0}",
            ("reduce-scatter", "tensor", 32),
        ),
        (
            "%a = f32[8]{0} all-gather(%p), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}, "
            "dimensions={0}",
            ("all-gather", "fsdp", 16),
        ),
        (
            "%a = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}",
            ("all-gather", "fsdp*tensor", 96),
        ),
    ],
)
def test_programs_are_read(line: str, found: tuple[str, str, int]) -> None:
    assert sent(line, Mesh(2, 2, 2)) == [found]


def test_the_command(capsys: Capture) -> None:
    flags = ("llama-7b", "--hardware", "h100", "a100", "--mesh", "fsdp=256", "data=4,fsdp=8,tensor=8")
    plans = tell(capsys, *flags)["plans"]
    assert [(p["mesh"], p["hardware"]) for p in plans] == [
        (f"data={d},fsdp={f},tensor={t}", name)
        for d, f, t in ((1, 256, 1), (4, 8, 8))
        for name in ("h100", "a100")
    ]
    given = ("--peak-flops", 989e12, "--bandwidth", 50e9, "--memory", "80GB")
    (flat,) = tell(capsys, "llama-7b", "--mesh", "fsdp=256", *given)["plans"]
    # No node: all goes over the network.
    assert flat["sent"] == flat["sent_out"] == plans[0]["sent"]
    assert flat["time"]["network"]["fsdp"] == pytest.approx(flat["sent"] / 50e9)
    (bytes_alone,) = tell(capsys, "llama-7b", "--mesh", "fsdp=256")["plans"]
    assert "time" not in bytes_alone


def test_wrong_input_is_refused(capsys: Capture) -> None:
    for arguments, said in (
        (("--mesh", "fsdp=3"), "not divisible"),
        (("--mesh", "pipeline=2"), "pipeline=2"),
        (("--hardware", "h100"), "--mesh"),
        (("--mesh", "fsdp=2", "--hardware", "abacus"), "h100"),
        (("--mesh", "fsdp=2", "--hardware", "v5p", "--compute-dtype", "float32"), "--peak-flops"),
        (("--mesh", "fsdp=2", "--bandwidth", 1e9), "--peak-flops"),
        (("--mesh", "fsdp=2", "--bandwidth", -1, "--peak-flops", 1e12), "--bandwidth"),
        (("--mesh", "fsdp=2", "--hardware", "h100", "--memory", "8GB"), "leave out"),
    ):
        assert said in refused(capsys, "accounting", "llama-7b", *arguments)
