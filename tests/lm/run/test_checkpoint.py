"""Checkpoints: what is saved is loaded bit for bit, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.files import file_sha256, json_text
from lm.run import checkpoint
from lm.run.leaves import read_leaves
from tokenizer import InputError

RANDOM = np.random.default_rng(0)
WEIGHTS: dict[str, np.ndarray] = {
    "a.weight": RANDOM.normal(size=(3, 4)).astype(np.float32),
    "b.weight": RANDOM.normal(size=5),
}
OPTIMIZER: dict[str, np.ndarray] = {
    "m.a.weight": RANDOM.normal(size=(3, 4)).astype(np.float32),
    "step": np.array(7, np.int32),
}


def facts(leaves: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, str(array.dtype)) for name, array in leaves.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "checkpoints", 7, WEIGHTS.items(), OPTIMIZER.items(), {"seed": 3})


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of a run's checkpoints."""
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))


def remake_manifest(path: Path) -> None:
    files = [p for p in path.iterdir() if p.name != "manifest.json"]
    manifest = {p.name: {"size": p.stat().st_size, "sha256": file_sha256(p)} for p in sorted(files)}
    (path / "manifest.json").write_text(json_text(manifest))


def test_leaves_come_back_bit_for_bit(saved: Path) -> None:
    assert saved.name == "step-00000007"
    assert checkpoint.read_state(saved) == {"format_version": 1, "iteration": 7, "seed": 3}
    for file, leaves in (("model.safetensors", WEIGHTS), ("optimizer.safetensors", OPTIMIZER)):
        read = {name: leaf[...] for name, leaf in read_leaves(saved / file, facts(leaves))}
        assert list(read) == list(leaves)
        for name, array in leaves.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_the_newest_is_found(tmp_path: Path, saved: Path) -> None:
    assert checkpoint.latest(tmp_path) == saved
    assert checkpoint.latest(saved) == saved
    newer = checkpoint.save(tmp_path / "checkpoints", 100_000_000, WEIGHTS.items(), OPTIMIZER.items(), {})
    (tmp_path / "checkpoints" / ".step-99999999.1.tmp").mkdir()
    assert checkpoint.latest(tmp_path) == newer
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.latest(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_any_flipped_or_missing_byte_is_noticed(saved: Path, name: str) -> None:
    file = saved / name
    whole = file.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        for broken in (
            whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
            whole[:position] + whole[position + 1 :],
        ):
            file.write_bytes(broken)
            with pytest.raises(InputError, match="corrupted"):
                checkpoint.read_state(saved)
    file.unlink()
    with pytest.raises(InputError, match=f"{name}: is missing"):
        checkpoint.read_state(saved)


def test_a_consistent_checkpoint_of_another_model_is_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    for leaf, message in (
        (
            ("a.weight", ((3, 5), "float32")),
            r"'a.weight' is float32 \(3, 4\), and this model has float32 \(3, 5\)",
        ),
        (("a.weight", ((3, 4), "float64")), r"'a.weight' is float32 .* has float64"),
        (("c.weight", ((1,), "float32")), "'c.weight' is missing"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_leaves(file, facts(WEIGHTS) | dict([leaf])))
    with pytest.raises(InputError, match=r"'b\.weight' is unknown to this model"):
        list(read_leaves(file, facts({"a.weight": WEIGHTS["a.weight"]})))


def test_another_format_version_is_refused(saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json_text({**state, "format_version": 2}))
    remake_manifest(saved)
    with pytest.raises(InputError, match="format_version is 2, and this program reads 1"):
        checkpoint.read_state(saved)


def test_a_file_that_is_no_safetensors_is_refused(saved: Path) -> None:
    for content in (b"", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00{not js}"):
        (saved / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="not a readable safetensors file"):
            list(read_leaves(saved / "model.safetensors", facts(WEIGHTS)))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[" * 9999 + "]" * 9999])
def test_what_could_not_be_saved_again_is_refused(saved: Path, value: str) -> None:
    state = (saved / "state.json").read_text()
    (saved / "state.json").write_text(state.replace('"seed": 3', f'"seed": 3, "best_val_loss": {value}'))
    remake_manifest(saved)
    with pytest.raises(InputError, match=r"state\.json: not a JSON object, so it is corrupted"):
        checkpoint.read_state(saved)


def test_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, 6.0), (6, float("nan"))):
        facts = {"val_loss": loss}
        if loss == loss:
            checkpoint.save(tmp_path / "checkpoints", step, WEIGHTS.items(), OPTIMIZER.items(), facts)
    assert checkpoint.best(tmp_path).name == "step-00000002"
    assert [checkpoint.is_among_best(tmp_path, loss, 2) for loss in (2.0, 3.5, 4.0, 9.0)] == [1, 1, 0, 0]
    assert not checkpoint.is_among_best(tmp_path, 0.0, 0)
    checkpoint.prune(tmp_path, None, 0)
    assert saved_steps(tmp_path) == [1, 2, 3, 4, 5]
    checkpoint.prune(tmp_path, 2, 2)
    assert saved_steps(tmp_path) == [2, 3, 4, 5]
    checkpoint.prune(tmp_path, 1, 0)
    assert saved_steps(tmp_path) == [5]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_of_equal_losses_the_oldest_is_best(tmp_path: Path) -> None:
    """A checkpoint is saved as best only if it beats the worst of the best. So a tie must not delete a saved one."""
    for step in (1, 2, 3, 10):
        assert checkpoint.is_among_best(tmp_path, 3.0, 1) == (step == 1)
        facts = {"val_loss": 3.0}
        checkpoint.save(tmp_path / "checkpoints", step, WEIGHTS.items(), OPTIMIZER.items(), facts)
    assert checkpoint.best(tmp_path).name == "step-00000001"
    checkpoint.prune(tmp_path, 1, 2)
    assert saved_steps(tmp_path) == [1, 2, 10]
    checkpoint.prune(tmp_path, 1, 1)
    assert saved_steps(tmp_path) == [1, 10]
