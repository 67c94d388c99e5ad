"""Meshes: their text, the models that fit, each device's share of a leaf, and files that several processes write."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lm.config import ModelConfig, TrainConfig
from lm.init import optimizer_shapes, parameter_shapes
from lm.mesh import Mesh, Processes
from lm.run import checkpoint
from lm.run.leaves import Index, Share, read_leaves, save_file
from lm.run.signals import stop_signals
from tests.lm.conftest import refused, snapshot, train_command
from tokenizer import InputError

RANDOM = np.random.default_rng(0)
LEAVES: dict[str, np.ndarray] = {
    "b.weight": RANDOM.normal(size=(6, 4)).astype(np.float32),
    "a.weight": RANDOM.normal(size=(4, 6)),
    "c.weight": RANDOM.normal(size=(2, 4, 6)).astype(np.float32),
    "a.bias": RANDOM.normal(size=6).astype(np.float32),
    "step": np.array(7, np.int32),
}
MODEL = ModelConfig(32, 8, 16, 1, 4, d_ff=24, num_kv_heads=2, bias=True, qk_norm=True)


def test_a_mesh_is_read_and_shown() -> None:
    assert Mesh.parse("data=2,fsdp=3,tensor=4") == Mesh(2, 3, 4) == Mesh.parse("tensor=4,data=2,fsdp=3")
    assert Mesh.parse("fsdp=8") == Mesh(fsdp=8)
    assert (Mesh(2, 3, 4).size, Mesh().size) == (24, 1)
    assert Mesh.parse(str(Mesh(2, 3, 4))) == Mesh(2, 3, 4)


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "data=0", "data=-1", "data=2,data=2", "rows=2", "data=2;fsdp=2", "data=²"]
)
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an axis and its size; give some of data=2,fsdp=2,tensor=2"):
        Mesh.parse(text)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(data=3), "batch_size / grad_accumulation = 4 is not divisible by data \\* fsdp = 3"),
        (Mesh(2, 4), "batch_size / grad_accumulation = 4 is not divisible by data \\* fsdp = 8"),
        (Mesh(tensor=3), "num_heads = 4 is not divisible by tensor = 3"),
        (Mesh(tensor=4), "num_kv_heads = 2 is not divisible by tensor = 4"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh: Mesh, message: str) -> None:
    config = TrainConfig(MODEL, batch_size=8, grad_accumulation=2)
    Mesh(2, 2, 2).check(config)
    with pytest.raises(InputError, match=message):
        mesh.check(config)


def test_each_dimension_goes_where_megatron_has_it() -> None:
    mesh = Mesh(2, 2, 2)
    split = {name: mesh.split(name, shape) for name, shape in parameter_shapes(MODEL).items()}
    at = "layers.0."
    for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "ffn.w1", "ffn.w3"):
        assert split[f"{at}{name}.weight"] == ("tensor", "fsdp")
        assert split[f"{at}{name}.bias"] == ("tensor",)
    for name in ("attn.output_proj", "ffn.w2"):
        assert split[f"{at}{name}.weight"] == ("fsdp", "tensor")
        assert split[f"{at}{name}.bias"] == (None,)
    assert split["token_embeddings.weight"] == split["lm_head.weight"] == (None, "fsdp")
    assert split["ln_final.weight"] == split[f"{at}attn.q_norm.weight"] == (None,)
    for name, shape in optimizer_shapes(MODEL).items():
        assert mesh.split(name, shape) == split.get(name.partition(".")[2], ())
    assert (mesh.share(f"{at}ffn.w1.weight", (24, 16)), mesh.share("lm_head.weight", (32, 16))) == (96, 256)


def test_the_command_refuses_a_mesh_that_is_not_there(pipeline: Path, capsys: Any) -> None:
    before = snapshot(pipeline)
    for mesh, message in (
        ("data=0", "'data=0' is not an axis"),
        ("data=3", "= 4 is not divisible by data * fsdp = 3"),
        ("data=2", "--mesh data=2,fsdp=1,tensor=1 takes 2 devices, and there are 1, in 1 processes"),
    ):
        command = train_command(pipeline, "jax", pipeline / "new", "--mesh", mesh)
        assert message in refused(capsys, *command)
    assert snapshot(pipeline) == before


def test_a_file_is_what_safetensors_writes(tmp_path: Path) -> None:
    safetensors.numpy.save_file(LEAVES, tmp_path / "theirs")
    save_file(LEAVES, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def quarters(array: np.ndarray) -> list[Index]:
    """Return four slices that make up an array, each half of its last two dimensions; fewer below two dimensions."""
    indices: list[Index] = [()]
    for axis, size in enumerate(array.shape):
        parts = [slice(0, size // 2), slice(size // 2, None)] if axis >= array.ndim - 2 else [slice(None)]
        indices = [(*index, part) for index in indices for part in parts]
    return indices


def share(array: np.ndarray, mine: Callable[[int], bool]) -> Share:
    def slices() -> Iterator[tuple[Index, np.ndarray]]:
        return ((index, array[index]) for i, index in enumerate(quarters(array)) if mine(i))

    return Share(array.shape, array.dtype, slices)


def in_threads(count: int, act: Callable[[Processes], Any]) -> list[Any]:
    """Run `act` in threads that act as processes. Return what each returns or raises."""
    barrier, given = threading.Barrier(count, timeout=10), [0] * count

    def processes(index: int) -> Processes:
        def gather(value: int) -> list[int]:
            given[index] = value
            barrier.wait()
            values = list(given)
            barrier.wait()
            return values

        return Processes(index, count, gather)

    def run(index: int) -> Any:
        try:
            return act(processes(index))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_write_a_checkpoint_together(tmp_path: Path, count: int) -> None:
    whole = checkpoint.save(tmp_path / "whole", 7, LEAVES.items(), LEAVES.items(), {"seed": 3})

    def save(processes: Processes) -> Path:
        shares = {
            name: share(array, lambda i: i % processes.count == processes.index)
            for name, array in LEAVES.items()
        }
        folder = tmp_path / "together"
        return checkpoint.save(folder, 7, shares.items(), shares.items(), {"seed": 3}, processes)

    assert set(in_threads(count, save)) == {tmp_path / "together" / whole.name}
    for file in whole.iterdir():
        assert (tmp_path / "together" / whole.name / file.name).read_bytes() == file.read_bytes()
    assert [p.name for p in (tmp_path / "together").iterdir()] == [whole.name]


@pytest.mark.parametrize("fails", [0, 1])
def test_what_one_process_cannot_write_none_publishes(tmp_path: Path, fails: int) -> None:
    def full() -> Iterator[tuple[Index, np.ndarray]]:
        raise OSError(28, "No space left on device")
        yield

    def save(processes: Processes) -> Path:
        array = LEAVES["a.weight"]
        leaf = share(array, lambda i: i % 2 == processes.index)
        if processes.index == fails:
            leaf = Share(array.shape, array.dtype, full)
        return checkpoint.save(tmp_path, 7, [("a", leaf)], [("a", leaf)], {}, processes)

    errors = in_threads(2, save)
    assert [type(error) for error in errors] == [OSError if i == fails else InputError for i in range(2)]
    assert "another process of this run has failed" in str(errors[1 - fails])
    assert not list(tmp_path.iterdir())


def test_slices_of_a_file_are_those_of_the_leaf(tmp_path: Path) -> None:
    save_file(LEAVES, tmp_path / "file")
    expected = {name: (array.shape, str(array.dtype)) for name, array in LEAVES.items()}
    for name, leaf in read_leaves(tmp_path / "file", expected):
        assert (leaf.shape, leaf.dtype) == (LEAVES[name].shape, LEAVES[name].dtype)
        indices: list[Any] = [..., *quarters(LEAVES[name])]
        for index in indices:
            np.testing.assert_array_equal(leaf[index], LEAVES[name][index])


def test_a_step_waits_less_than_a_checkpoint() -> None:
    asked: list[str] = []

    def gather(kind: str, value: int) -> list[int]:
        asked.append(kind)
        return [0, value]

    processes = Processes(0, 2, partial(gather, "patient"), gather_soon=partial(gather, "soon"))
    assert processes.any(True)
    assert not processes.any(False)
    with processes.together():
        assert asked == ["soon", "soon"]
    assert asked == ["soon", "soon", "patient"]


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm")
def test_a_lost_process_is_one_line() -> None:
    class GoneError(Exception):
        pass

    ended: list[Any] = []
    processes = Processes(1, 2, lambda value: [value, value], lambda error: isinstance(error, GoneError))
    for error, line in (
        (
            GoneError("connection closed. Look at\nthe peer"),
            "a process of this run has ended, or .* \\(connection closed\\)",
        ),
        (InputError("a file is missing"), "^a file is missing$"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("atexit.register", lambda *call: ended.append(call))
            with pytest.raises(InputError, match=line), stop_signals(bool), processes.watched():
                raise error
        # torchrun, which has seen one process end, may not end this one before it has said why.
        assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is signal.SIG_IGN
    assert [code for _, code in ended] == [2, 2]
    with pytest.raises(GoneError), Processes().watched():
        raise GoneError
    assert len(ended) == 2
