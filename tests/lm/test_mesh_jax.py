"""JAX on 8 virtual devices and in two processes: equal to one device, with checkpoints that move between them."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.scaling import free_port
from lm.config import load_config
from lm.init import optimizer_shapes, parameter_shapes
from lm.mesh import Mesh
from lm.run import checkpoint
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, train_command
from tests.lm.mesh_losses import CONFIGS, STEPS
from tests.lm.mesh_process import blocks
from tests.lm.processes import Process, processes, wait_for
from tests.lm.run.test_train import numbers

# XLA reads its flags when it is used for the first time.
EIGHT = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"}
# Half a minute is what JAX waits for a process that is silent.
BOUND = 60


def two(folder: Path, command: list[object]) -> list[Process]:
    """Start two processes of one run. They list in a folder which weights they draw."""
    said = json.dumps([[str(word) for word in command]])
    group = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    return [
        Process(
            "tests.lm.mesh_process", folder, said=said, environment=group | {"JAX_PROCESS_ID": str(index)}
        )
        for index in range(2)
    ]


def test_50_steps_have_the_numbers_of_one_device() -> None:
    meshes = {"float64": ["data=2,fsdp=2,tensor=2"], "float32": ["data=2,fsdp=4"]}
    keys = [f"{dtype}:{mesh}" for dtype, some in meshes.items() for mesh in ("", *some)]
    code, out, err = Process("tests.lm.mesh_losses", *keys, environment=EIGHT).wait()
    assert code == 0, err
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    for dtype, limit in (("float64", 1e-10), ("float32", 1e-5)):
        one, config = told[f"{dtype}:"], CONFIGS[dtype]
        shapes = parameter_shapes(config.model) | optimizer_shapes(config.model, config.optimizer)
        expected = np.array(one["metrics"])
        assert expected.shape == (STEPS, 2)
        assert (expected[:, 1] > 0.5).mean() > 0.2, "nothing was clipped"
        for text in meshes[dtype]:
            found = told[f"{dtype}:{text}"]
            assert np.abs(np.array(found["metrics"]) - expected).max() < limit
            assert found["evaluation"][0] == pytest.approx(one["evaluation"][0], rel=limit)
            assert found["evaluation"][1:] == one["evaluation"][1:]
            mesh = Mesh.parse(text)
            # Tuples' places come first in the names.
            held = {name.partition(".")[2]: size for name, size in found["held"].items()}
            assert held == {name: mesh.share(name, shape) for name, shape in shapes.items()}
            # Weights and moments of one shape are divided alike, so one program copies them on all devices.
            assert 0 < found["programs"] <= len(shapes) / 2


def cut(folder: Path, to: Path, step: int) -> Path:
    """Copy a run as if it had ended after a step."""
    shutil.copytree(folder, to)
    for path in checkpoint.find_all(to):
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    return to


def test_a_run_moves_between_meshes_processes_and_backends(made_pipeline: Path, tmp_path: Path) -> None:
    expected = numbers(made_pipeline / "jax")

    def same(folder: Path) -> None:
        for a, b in zip(numbers(folder), expected, strict=True):
            assert a == pytest.approx(b, rel=1e-5)
        for path in checkpoint.find_all(folder):
            checkpoint.read_state(path)

    eight, one, both, other = (tmp_path / name for name in ("eight", "one", "two", "other"))
    mesh = ("--mesh", "data=2,fsdp=2,tensor=2")
    code, out, err = Process(
        "lm", *train_command(made_pipeline, "jax", eight, *mesh), environment=EIGHT
    ).wait()
    assert (code, out) == (0, f"{eight}/checkpoints/step-00000006: done\n"), err
    same(eight)
    for name in ("model.safetensors", "optimizer.safetensors"):
        path = Path("checkpoints/step-00000003") / name
        assert (eight / path).stat().st_size == (made_pipeline / "jax" / path).stat().st_size

    assert lm(*train_command(made_pipeline, "jax", cut(eight, one, 3), "--resume")) == 0
    same(one)

    more = ("--resume", "--mesh", "fsdp=2", "--save-interval", 1)
    started = two(tmp_path, train_command(made_pipeline, "jax", cut(eight, both, 3), *more))
    with processes(*started):
        ends = [process.wait() for process in started]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert f"{both}/checkpoints/step-00000006: done" in ends[0][1]
    assert ends[1][1:] == ("", ""), "a process that is not the first has printed"
    same(both)

    assert lm(*train_command(made_pipeline, "torch", cut(both, other, 4), "--resume")) == 0
    same(other)


def test_a_process_is_killed_and_the_run_resumes(made_pipeline: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--mesh", "fsdp=2", "--steps", 100_000, "--eval-interval", 1_000, "--save-interval", 5)
    command = train_command(made_pipeline, "jax", out, *more, "--keep-last", 3)
    started = two(tmp_path, command)
    with processes(*started):
        wait_for(out / "checkpoints" / "step-00000005", *started)
        started[1].kill()
        code, _, err = started[0].wait(BOUND)
        assert code == 2
        lines = [line for line in err.splitlines() if line.startswith("lm: ")]
        assert len(lines) == 1
        assert "a process of this run has ended, or cannot be reached" in lines[0]
        assert "with their command and --resume" in lines[0]
        # Of the columns that a process holds all rows are drawn, of the rows half.
        expected = []
        for name, shape in parameter_shapes(load_config(made_pipeline / "tiny.toml").model).items():
            by_rows = name.endswith(("output_proj.weight", "ffn.w2.weight"))
            rows = slice(shape[0] // 2 if by_rows else None)
            expected += blocks(name, shape, rows) if len(shape) == 2 else []
        assert [tuple(block) for block in json.loads((tmp_path / "drawn-0.json").read_text())] == expected
        newest = max(checkpoint.read_state(path)["iteration"] for path in checkpoint.find_all(out))

    # A signal to one process stops all after the same step.
    started = two(tmp_path, [*command, "--resume"])
    with processes(*started):
        wait_for(out / "checkpoints" / f"step-{newest + 5:08d}", *started)
        started[1].send_signal(signal.SIGTERM)
        ends = [process.wait() for process in started]
        assert [code for code, _, _ in ends] == [0, 0], ends
        assert "stopped and saved; to resume: lm train" in ends[0].out
    assert not list(out.rglob(".*"))
    last = checkpoint.read_state(checkpoint.latest(out))
    assert last["iteration"] >= newest + 5
    assert last["mesh"] == "data=1,fsdp=2,tensor=1"
    steps = [m["step"] for m in read_metrics(out) if "train_loss" in m]
    assert steps == list(range(1, last["iteration"] + 1))
