"""torch in several processes on loopback: equal to one process, with checkpoints that move between them."""

import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm.budgets import RUN, relative_error
from lm.init import parameter_shapes
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused
from tests.lm.mesh_process import blocks, small_blocks
from tests.lm.mesh_programs import GEMMA
from tests.lm.processes import Ended, Process, processes, wait_for
from tests.lm.run.test_train import leaves

# Shapes are divided unevenly, and of d_ff = 9 rows the last of four processes has none.
COMMON: tuple[object, ...] = (
    "--steps",
    50,
    "--eval-interval",
    25,
    "--eval-windows",
    8,
    "--save-interval",
    10,
    "--batch-size",
    8,
)
COMMON += ("--optimizer.learning-rate", 5e-3, "--model.vocab-size", 301, "--model.d-ff", 9)
COMMON += ("--model.num-layers", 1, "--optimizer.max-grad-norm", 0.5)
FLOAT64 = (*COMMON, "--compute-dtype", "float64", "--model.residual-dropout", 0.1, "--optimizer.kind", "muon")
FLOAT64 += ("--model.num-layers", 2, "--model.d-head", 6, "--model.sliding-window", 3)
for name, value in GEMMA.items():
    given = value if isinstance(value, tuple) else () if value is True else (value,)
    FLOAT64 += (f"--model.{name.replace('_', '-')}", *given)
FLOAT32 = (
    *COMMON,
    "--optimizer.average-decay",
    0.9,
    "--model.tie-embeddings",
    "--model.position",
    "learned",
    "--documents",
    "packed",
)
PAIRS: tuple[object, ...] = (
    "--steps",
    4,
    "--eval-interval",
    2,
    "--save-interval",
    2,
    "--batch-size",
    8,
    "--model.vocab-size",
    257,
    "--model.d-ff",
    9,
)
PAIRS += ("--model.architecture", "encoder_decoder", "--model.prefix-length", 11, "--model.bias")
PAIRS += ("--model.remat", "block", "--compute-dtype", "float64", "--grad-accumulation", 2)


def in_processes(count: int, folder: Path, *commands: Sequence[object]) -> list[Ended]:
    """Run commands in `count` processes, and return what each process came to."""
    said = json.dumps([[str(word) for word in command] for command in commands])
    started = [
        Process("tests.lm.mesh_process", folder, said=said, environment={"RANK": rank, "WORLD_SIZE": count})
        for rank in range(count)
    ]
    with processes(*started):
        return [process.wait() for process in started]


def cut(folder: Path, last: int, new: Path) -> Path:
    """Copy a run as if it had been killed after the checkpoint of a step."""
    shutil.copytree(folder, new)
    for path in checkpoint.find_all(new):
        if int(path.name[5:]) > last:
            shutil.rmtree(path)
    return new


def curves(folder: Path) -> np.ndarray:
    """Return the loss and gradient norm of each step, and the results of each evaluation."""
    pairs = (("train_loss", "grad_norm"), ("val_loss", "accuracy"))
    return np.array([[m[a], m[b]] for m in read_metrics(folder) for a, b in pairs if a in m])


def assert_same(folder: Path, whole: Path) -> None:
    """Require equal curves, and equal weights and moments at the end."""
    budget = RUN["float32" if whole.name == "float32" else "float64"]
    assert relative_error(curves(folder), curves(whole)) <= budget
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = (load_file(checkpoint.latest(path) / file) for path in (folder, whole))
        assert a.keys() == b.keys()
        for name in a:
            assert relative_error(a[name], b[name]) <= budget, name


@pytest.fixture(scope="module")
def commands(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Return commands that train, without --out and --mesh."""
    folder = tmp_path_factory.mktemp("pairs")
    vocabulary = ("--vocab-size", 257, "--special-tokens", "<|endoftext|>", "--out", folder / "bytes")
    assert lm("tokenizer", "train", "--input", made_pipeline / "val.txt", *vocabulary) == 0
    data: list[object] = []
    for name, held_out in (("train", ()), ("val", ("--held-out",))):
        pairs, tokens = folder / f"{name}.jsonl", folder / f"{name}.npy"
        assert lm("pairs", "reverse", "--out", pairs, "--count", 43, *held_out) == 0
        assert (
            lm("tokenizer", "encode", "--tokenizer", folder / "bytes", "--input", pairs, "--out", tokens) == 0
        )
        data += [f"--{name}", tokens]
    text = [word for name in ("train", "val") for word in (f"--{name}", made_pipeline / f"{name}.npy")]
    train = ["train", "--backend", "torch", "--config", made_pipeline / "tiny.toml"]
    return {
        "float64": [*train, *text, *FLOAT64],
        "float32": [*train, *text, *FLOAT32],
        "pairs": [*train, *data, *PAIRS],
        "refused": [*train, *text],
    }


@pytest.fixture(scope="module")
def alone(commands: dict[str, list[object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make runs in one process."""
    folder = tmp_path_factory.mktemp("alone")
    with small_blocks("torch"):
        assert lm(*commands["float64"], "--out", folder / "float64") == 0
    for name in ("float32", "pairs"):
        assert lm(*commands[name], "--out", folder / name) == 0
    return folder


@pytest.fixture(scope="module")
def four(commands: dict[str, list[object]], alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make runs in four processes; one process began one of them. Only the first process printed."""
    folder = tmp_path_factory.mktemp("four")
    cut(alone / "pairs", 2, folder / "pairs")
    flags = {"float64": ("data=2,fsdp=2",), "pairs": ("fsdp=4", "--resume")}
    meshed = [[*commands[name], "--out", folder / name, "--mesh", *more] for name, more in flags.items()]
    first, *others = in_processes(4, folder, *meshed)
    assert first.code == 0, first
    assert [line.split()[-1] for line in first.out.splitlines()] == ["done"] * 2
    assert others == [(0, "", "")] * 3
    return folder


@pytest.mark.parametrize("name", ["float64", "pairs"])
def test_four_processes_have_the_numbers_of_one(four: Path, alone: Path, name: str) -> None:
    assert_same(four / name, alone / name)
    assert len(curves(alone / name)) == {"float64": 52, "pairs": 6}[name]


def test_a_process_draws_the_blocks_that_hold_its_share(four: Path) -> None:
    path = checkpoint.latest(four / "float64")
    shapes = {name: leaf.shape for name, leaf in load_file(path / "model.safetensors").items()}
    for rank in range(4):
        drawn = json.loads((four / f"drawn-{rank}.json").read_text())
        expected = []
        for name, shape in parameter_shapes(load_facts(path)[0].model).items():
            assert shapes[name] == shape
            half = -(-shape[0] // 2)
            rows = slice(half, None) if rank % 2 else slice(half)
            expected += blocks(name, shape, rows) if len(shape) == 2 else []
        assert [tuple(block) for block in drawn] == expected


def test_a_run_of_four_resumes_with_one(
    commands: dict[str, list[object]], four: Path, alone: Path, tmp_path: Path
) -> None:
    one = cut(four / "float64", 20, tmp_path / "one")
    assert lm(*commands["float64"], "--out", one, "--resume") == 0
    assert_same(one, alone / "float64")


def test_a_run_is_killed_and_stopped_and_resumes_in_the_other_backend(
    commands: dict[str, list[object]], alone: Path, tmp_path: Path
) -> None:
    folder, command = tmp_path / "run", commands["float32"]
    torchrun = ["--standalone", "--nproc-per-node", 2, "-m", "lm", *command]
    torchrun += ["--out", folder, "--mesh", "data=2", "--save-interval", 2]

    def second_worker(agent: Process) -> int:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        return int(children[1])

    agent = Process("torch.distributed.run", *torchrun)
    with processes(agent):
        wait_for(folder / "checkpoints" / "step-00000004", agent)
        os.kill(second_worker(agent), signal.SIGKILL)
        code, _, errors = agent.wait(60)
    assert code == 1, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("lm: ")] or [errors]
    assert re.fullmatch(
        r"lm: a process of this run has ended, .*: start all .* with their command and --resume", line
    )
    newest = max(checkpoint.read_state(path)["iteration"] for path in checkpoint.find_all(folder))
    assert 4 <= newest < 50

    # The second is told to stop, and the first says so.
    agent = Process("torch.distributed.run", *torchrun, "--resume")
    with processes(agent):
        wait_for(folder / "checkpoints" / f"step-{newest + 2:08d}", agent)
        os.kill(second_worker(agent), signal.SIGINT)
        code, out, errors = agent.wait()
    assert (code, errors) == (0, "")
    assert "stopped and saved; to resume: " in out
    assert newest + 2 <= checkpoint.read_state(checkpoint.latest(folder))["iteration"] < 50

    jax = ["jax" if word == "torch" else word for word in command]
    assert lm(*jax, "--out", folder, "--resume") == 0
    assert_same(folder, alone / "float32")


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        (
            "data=2",
            "takes 2 processes, and there are 1; start them with torchrun --nproc-per-node 2 -m lm train",
        ),
        ("fsdp=2,tensor=2", "leave tensor out, or use --backend jax"),
        ("fsdp=3", "batch_size / grad_accumulation = 4 is not divisible by data * fsdp = 3"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    commands: dict[str, list[object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mesh: str,
    said: str,
) -> None:
    assert said in refused(capsys, *commands["refused"], "--out", tmp_path / "run", "--mesh", mesh)
    assert not (tmp_path / "run").exists()


def test_a_mesh_of_one_device_is_none(commands: dict[str, list[object]], alone: Path, tmp_path: Path) -> None:
    assert lm(*commands["pairs"], "--out", tmp_path / "run", "--mesh", "data=1") == 0
    assert leaves(tmp_path / "run") == leaves(alone / "pairs")
