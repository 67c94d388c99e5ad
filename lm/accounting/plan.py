"""The report of `lm accounting --mesh`: a training step on a mesh, from the view of one device."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm.accounting.hardware import Hardware
from lm.accounting.memory import memory
from lm.accounting.network import Collective, collectives, normalises_outputs
from lm.accounting.report import gigabytes, optimizer_state
from lm.config import ModelConfig, TrainConfig
from lm.flops import matmuls, train_flops_per_token
from lm.mesh import Mesh
from lm.tables import plain_table


def device_flops(config: TrainConfig, mesh: Mesh) -> tuple[int, int]:
    """Return one device's floating-point operations in a step: those of the model, and those recomputed by remat.

    tensor divides the products of the blocks. Each of its devices computes the whole product of the head.
    """
    m = config.model
    sequences = config.batch_size // (mesh.data * mesh.fsdp)
    forward = again = 0
    for product in matmuls(m):
        in_block = "layers" in product.name
        flops = sequences * product.flops // (mesh.tensor if in_block else 1)
        forward += flops
        if m.remat == "block" and in_block and not product.name.endswith(_not_needed(m)):
            again += flops
    return 3 * forward, again


def _not_needed(m: ModelConfig) -> tuple[str, ...]:
    """Return the products that remat skips: no gradient reads their results, which are only added to the stream."""
    if normalises_outputs(m):
        return ()
    return ("ffn.w2",) if m.block == "sequential" else ("ffn.w2", "attn.output_proj")


def plan(
    config: TrainConfig, mesh: Mesh, hardware: Hardware | None, mfu: float, name: str | None = None
) -> dict[str, Any]:
    """Return one step of `jax_impl` on a mesh, in bytes, FLOPs and seconds of one device.

    Args:
        hardware: Needed for the times.
        mfu: Share of the peak that a device reaches while it waits for no other device.
        name: Name of the hardware.

    Raises:
        InputError: the mesh cannot divide the model or its batches.
    """
    mesh.check(config)
    m = config.model
    sequences = config.batch_size // (mesh.data * mesh.fsdp)
    account, at_once = memory(config, "jax", mesh), sequences // config.grad_accumulation
    node = hardware.node if hardware else 1
    network = collectives(config, mesh)
    sent = [dataclasses.asdict(c) | {"sent": c.sent, "sent_out": c.sent_out(node)} for c in network]
    own, again = device_flops(config, mesh)
    tokens = config.batch_size * m.context_length
    facts: dict[str, Any] = {
        "mesh": str(mesh),
        "devices": mesh.size,
        "hardware": name,
        "optimizer": optimizer_state(config.optimizer),
        "sequences": sequences,
        "micro_batch": at_once,
        "memory": {
            "weights": account.weights,
            "optimizer": account.optimizer,
            "gradients": account.gradients,
            "activations": at_once * sum(account.activations.values()),
            "peak": account.peak(at_once),
            "available": hardware.memory if hardware else None,
        },
        "collectives": sent,
        "sent": sum(c["sent"] for c in sent),
        "sent_out": sum(c["sent_out"] for c in sent),
        "steps": config.steps,
        "tokens": tokens,
        "model_flops": train_flops_per_token(m) * tokens,
        "flops": own,
        "flops_again": again,
    }
    if hardware is not None:
        facts["time"] = _time(config, mesh, hardware, mfu, facts, network)
    return facts


def _time(
    config: TrainConfig,
    mesh: Mesh,
    hardware: Hardware,
    mfu: float,
    facts: dict[str, Any],
    network: list[Collective],
) -> dict[str, Any]:
    """Return the seconds of a step, with the network hidden behind the products and without.

    Weights and gradients can be sent while other matrices are multiplied. The sums over tensor cannot: the next product
    needs all of them.
    """
    peak = hardware.peak_flops[config.compute_dtype]
    compute = (facts["flops"] + facts["flops_again"]) / (peak * mfu)
    seconds: Counter[str] = Counter()
    for c in network:
        seconds[c.axis] += c.seconds(hardware)  # type: ignore[assignment]
    behind = seconds["fsdp"] + seconds["data"]
    steps = {
        "hidden": max(compute + seconds["tensor"], behind),
        "exposed": compute + seconds["tensor"] + behind,
    }
    return {
        "peak_flops": peak,
        "mfu_alone": mfu,
        "compute": compute,
        "network": dict(seconds),
        "step": steps,
        "mfu": {how: facts["model_flops"] / (mesh.size * peak * s) for how, s in steps.items()},
        "tokens_per_second": {how: facts["tokens"] / s for how, s in steps.items()},
        "days": {how: config.steps * s / 86_400 for how, s in steps.items()},
    }


def plan_tables(plans: Sequence[dict[str, Any]]) -> str:
    """Return the plans as text: a line for each plan, and all details if there is only one."""
    parts = [_summary(plans)]
    if len(plans) == 1:
        parts = [_memory(plans[0]), _network(plans[0]), _compute(plans[0]), *parts]
    return "\n\n".join(parts)


def _summary(plans: Sequence[dict[str, Any]]) -> str:
    head = ["mesh", "hardware", "memory, GB", "fits", "sends, GB", "out of node, GB"]
    head += ["compute, s", "network, s", "step, s", "MFU", "tokens/s"]
    rows = []
    for p in plans:
        available, time = p["memory"]["available"], p.get("time")
        fits = "" if available is None else "yes" if p["memory"]["peak"] <= available else "NO"
        row = [p["mesh"], p["hardware"] or "", gigabytes(p["memory"]["peak"]), fits]
        row += [gigabytes(p["sent"]), gigabytes(p["sent_out"])]
        if time:
            row += [f"{time['compute']:.3f}", f"{sum(time['network'].values()):.3f}"]
            row += [_range(time["step"], "{:.3f}"), _range(time["mfu"], "{:.1%}")]
            row += [_range(time["tokens_per_second"], "{:,.0f}")]
        rows.append(row + [""] * (len(head) - len(row)))
    return plain_table(head, rows)


def _range(values: dict[str, float], form: str) -> str:
    """Return the value with the network hidden behind the products, and the value without."""
    return " - ".join(form.format(values[how]) for how in ("hidden", "exposed"))


def _memory(p: dict[str, Any]) -> str:
    labels = {
        "weights": "weights",
        "optimizer": p["optimizer"],
        "gradients": "gradients",
        "activations": f"activations kept, of {p['micro_batch']:,} sequences",
        "peak": "most at once",
    }
    return plain_table(
        [f"memory of one of {p['devices']:,} devices", "GB"],
        [[label, gigabytes(p["memory"][key])] for key, label in labels.items()],
    )


def _network(p: dict[str, Any]) -> str:
    rows = [
        [
            f"{c['axis']}: {c['what']}",
            c["kind"],
            f"{c['devices']:,}",
            *(gigabytes(c[key]) for key in ("bytes", "sent", "sent_out")),
        ]
        for c in p["collectives"]
    ]
    rows.append(["total", "", "", "", gigabytes(p["sent"]), gigabytes(p["sent_out"])])
    return plain_table(["collectives of a step", "kind", "among", "GB", "sends, GB", "out of node, GB"], rows)


def _compute(p: dict[str, Any]) -> str:
    rows = [
        [f"model, a step of {p['tokens']:,} tokens", f"{p['model_flops']:.4g} FLOPs"],
        [f"one device, {p['sequences']:,} sequences", f"{p['flops']:.4g} FLOPs"],
        ["recomputed", f"{p['flops_again']:.4g} FLOPs"],
    ]
    if "time" in p:
        t = p["time"]
        rate = f"at {t['mfu_alone']:.0%} of {t['peak_flops']:.4g} FLOP/s"
        rows += [[rate, f"{t['compute']:.3f} s"]]
        rows += [[f"network, {axis}", f"{s:.3f} s"] for axis, s in t["network"].items()]
        rows += [[f"{p['steps']:,} steps", _range(t["days"], "{:.2f}") + " days"]]
    return plain_table(["operations, times", ""], rows)
