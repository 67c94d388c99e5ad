"""Token files and batches."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.data.token_files import (
    Batch,
    Corpus,
    check_token_ids,
    eval_batches,
    fingerprint,
    get_batch,
    open_corpus,
    open_tokens,
    prefetched,
)
from tokenizer import InputError

TOKENS = np.random.default_rng(0).integers(0, 50, 1000).astype(np.uint16)


@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40), micro=st.sampled_from([1, 2, 4]))
def test_targets_follow_inputs_in_the_text(seed: int, step: int, micro: int) -> None:
    tokens = np.arange(200, dtype=np.uint16)
    batch = get_batch(tokens, seed, step, 8, 16, micro)
    assert batch.inputs.shape == batch.targets.shape == (micro, 8 // micro, 16)
    np.testing.assert_array_equal(batch.inputs[..., :1] + np.arange(16), batch.inputs)
    np.testing.assert_array_equal(batch.inputs + 1, batch.targets)


@given(seed=st.integers(0, 100), step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_seed_and_step(seed: int, step: int) -> None:
    batch = get_batch(TOKENS, seed, step, 8, 16)
    np.testing.assert_array_equal(batch.inputs, get_batch(TOKENS, seed, step, 8, 16).inputs)
    # Micro-batches divide the batch, they do not change it.
    split = get_batch(TOKENS, seed, step, 8, 16, micro_batches=4)
    np.testing.assert_array_equal(batch.inputs.reshape(4, 2, 16), split.inputs)
    assert (batch.inputs != get_batch(TOKENS, seed, step + 1, 8, 16).inputs).any()
    assert (batch.inputs != get_batch(TOKENS, seed + 1, step, 8, 16).inputs).any()


def test_windows_start_everywhere_equally_often() -> None:
    tokens = np.arange(12, dtype=np.uint16)
    starts = get_batch(tokens, 0, 0, 8000, 4).inputs[..., 0].ravel()
    counts = np.bincount(starts, minlength=8)
    assert len(counts) == 8  # 0 .. 12 - 4 - 1
    # Chi-square with 7 degrees of freedom: 24.3 is the 99.9th percentile.
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3


@given(size=st.integers(2, 200), batch_size=st.sampled_from([1, 3]))
def test_evaluation_predicts_each_token_but_the_first_once(size: int, batch_size: int) -> None:
    tokens = np.arange(size, dtype=np.uint16)
    batches = list(eval_batches(tokens, batch_size, 16))
    assert {b.inputs.shape for b in batches} == {(1, batch_size, 16)}
    targets = np.concatenate([b.targets[b.loss_mask] for b in batches])
    np.testing.assert_array_equal(targets, tokens[1:])
    inputs = np.concatenate([b.inputs[b.loss_mask] for b in batches])
    np.testing.assert_array_equal(inputs, tokens[:-1])
    assert sum(b.num_targets for b in batches) == size - 1


def test_num_targets_without_a_mask() -> None:
    ids = np.zeros((2, 3, 4), np.int32)
    assert Batch(ids, ids).num_targets == 24


@pytest.mark.parametrize("token_id", [-1, 50])
def test_ids_out_of_range_are_refused(token_id: int) -> None:
    check_token_ids(np.array([0, 49]), 50)
    with pytest.raises(InputError, match=f"token id {token_id} is outside 0 .. 49"):
        check_token_ids(np.array([0, token_id, 3]), 50)


def test_open_tokens_maps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, TOKENS)
    tokens = open_tokens(path, 50, 999)
    assert isinstance(tokens, np.memmap)
    np.testing.assert_array_equal(tokens, TOKENS)
    with pytest.raises(InputError, match="fewer than one window"):
        open_tokens(path, 50, 1000)
    with pytest.raises(InputError, match=r"tokens.npy: token id 49 is outside 0 .. 48; encode"):
        open_tokens(path, 49, 16)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint16), np.zeros(40, np.float32), np.array([{}] * 40)],
    ids=["two-dimensional", "float", "object"],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(InputError, match=r"tokens\.npy: not a .*\.npy file.*lm tokenizer encode"):
        open_tokens(path, 50, 8)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    for content in (b"", b"text", b"\x93NUMPY\x01\x00junk", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a"):
            open_tokens(path, 50, 8)
    np.save(path, TOKENS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable"):
        open_tokens(path, 50, 8)


def marked(folder: Path, name: str, mark: int, size: int, dtype: str = "uint16") -> Path:
    """A token file that holds one id only."""
    path = folder / name
    np.save(path, np.full(size, mark, dtype))
    return path


def shares(corpus: Corpus, count: int = 20_000) -> np.ndarray:
    """How many of the windows come from each of the files marked 0, 1, 2."""
    return np.bincount(get_batch(corpus, 0, 0, count, 8).inputs[..., 0].ravel(), minlength=3)


def test_several_files_are_one_corpus(tmp_path: Path) -> None:
    marked(tmp_path, "a.npy", 0, 108)
    marked(tmp_path, "b.npy", 1, 308)
    c = marked(tmp_path, "c.npy", 2, 608, "uint32").rename(tmp_path / "c.other")
    corpus, paths = open_corpus([tmp_path / "*.npy", c], (), 50, 8)
    assert [path.name for path in paths] == ["a.npy", "b.npy", "c.other"]
    # Every window of every file is as likely as any other.
    np.testing.assert_allclose(shares(corpus) / 20_000, [0.1, 0.3, 0.6], atol=0.01)
    assert get_batch(corpus, 0, 0, 8, 8).inputs.dtype == np.int32
    weighted, _ = open_corpus([tmp_path / "*.npy", c], (3.0, 1.0), 50, 8)
    np.testing.assert_allclose(shares(weighted) / 20_000, [0.75 / 4, 0.75 * 3 / 4, 0.25], atol=0.01)


def test_a_corpus_of_one_file_gives_that_files_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)
    corpus, _ = open_corpus([tmp_path / "tokens.npy"], (7.0,), 50, 16)
    for step in range(5):
        batch = get_batch(corpus, 3, step, 8, 16, 2)
        np.testing.assert_array_equal(batch.inputs, get_batch(TOKENS, 3, step, 8, 16, 2).inputs)
        starts = [start for _, start in corpus.starts(3, step, 8, 16)]
        np.testing.assert_array_equal(batch.inputs.reshape(8, 16)[:, 0], TOKENS[starts])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_that_do_not_fit(tmp_path: Path, weights: tuple[float, ...]) -> None:
    files = [marked(tmp_path, name, 0, 100) for name in ("a.npy", "b.npy")]
    with pytest.raises(InputError, match="give one number above 0 for each of the 2"):
        open_corpus(files, weights, 50, 8)
    with pytest.raises(FileNotFoundError, match="none"):
        open_corpus([tmp_path / "none*.npy"], (), 50, 8)


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64"])
def test_wide_ids_do_not_wrap_into_range(dtype: str) -> None:
    tokens = np.full(100, 2**32 - 1 if dtype == "uint32" else 2**32 + 1, dtype)
    batches = [get_batch(tokens, 0, 0, 2, 8), next(eval_batches(tokens, 2, 8))]
    for batch in batches:
        with pytest.raises(InputError, match="outside"):
            check_token_ids(batch.inputs, 50)


@pytest.mark.parametrize("what", ["gone", "cut short", "another", "unreadable"])
def test_a_file_that_changes_is_named(tmp_path: Path, what: str) -> None:
    path = marked(tmp_path, "a.npy", 0, 100_000)
    tokens = open_tokens(path, 50, 8)
    get_batch(tokens, 0, 0, 2, 8)
    match what:
        case "gone":
            path.unlink()
        case "cut short":
            os.truncate(path, 500)  # touching the map beyond its first page would be a bus error from here on
        case "another":
            marked(tmp_path, "b.npy", 0, 100_001).rename(path)
        case "unreadable":
            path.unlink()
            path.mkdir()
    for use in (
        lambda: get_batch(tokens, 0, 0, 2, 8),
        lambda: list(eval_batches(tokens, 2, 8)),
        lambda: list(eval_batches(tokens[50_000:], 2, 8)),
    ):
        with pytest.raises(InputError, match=r"a\.npy: has changed while it was in use; put it back"):
            use()


def test_parts_of_a_map_are_what_they_are_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)
    tokens = open_tokens(tmp_path / "tokens.npy", 50, 8)
    for part in (slice(None), slice(0, 100), slice(3, 700), slice(500, None)):
        for mapped, array in zip(
            eval_batches(tokens[part], 3, 8), eval_batches(TOKENS[part], 3, 8), strict=True
        ):
            np.testing.assert_array_equal(mapped.inputs, array.inputs)
            np.testing.assert_array_equal(mapped.targets, array.targets)
            np.testing.assert_array_equal(mapped.loss_mask, array.loss_mask)
        batches = [get_batch(t[part], 0, 0, 4, 8) for t in (tokens, TOKENS)]
        np.testing.assert_array_equal(batches[0].inputs, batches[1].inputs)


def test_batches_are_made_ahead_in_order() -> None:
    made: list[int] = []
    first_taken = threading.Event()

    def make(step: int) -> Batch:
        made.append(step)
        if step == 8:
            raise InputError("gone")
        return Batch(np.full((1, 1, 1), step, np.int32), np.zeros((1, 1, 1), np.int32))

    batches = prefetched(make, 5, 10)
    assert int(next(batches).inputs[0, 0, 0]) == 5
    first_taken.wait(0.2)
    assert made == [5, 6, 7, 8]
    assert [int(next(batches).inputs[0, 0, 0]) for _ in range(2)] == [6, 7]
    with pytest.raises(InputError, match="gone"):
        next(batches)
    assert list(prefetched(make, 3, 3)) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_last_batch_is_made_once_and_none_after_it(count: int) -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return Batch(np.full((1, 1, 1), step, np.int32), np.zeros((1, 1, 1), np.int32))

    given = [int(batch.inputs[0, 0, 0]) for batch in prefetched(make, 5, 5 + count)]
    assert given == made == list(range(5, 5 + count))


def resident() -> int:
    """Bytes of this process's memory, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_40_gb_take_little_memory_and_time(tmp_path: Path) -> None:
    path = marked(tmp_path, "huge.npy", 0, 10)
    size = 20_000_000_000
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (size,)})
        offset = file.tell()
        file.truncate(offset + 2 * size)
    before, start = resident(), time.perf_counter()
    first = fingerprint(path)
    corpus, _ = open_corpus([path], (), 50, 256)
    for step in range(1000):
        batch = get_batch(corpus, 0, step, 32, 256)
    assert not batch.inputs.any()
    assert resident() - before < 50_000_000
    assert time.perf_counter() - start < 20
    # Other contents are noticed at the ends, and in the sample; so are ids out of range.
    for position in (0, size - 1):
        with path.open("r+b") as file:
            file.seek(offset + 2 * position)
            file.write(b"\x40\x00")
        assert fingerprint(path) != first
        with pytest.raises(InputError, match="token id 64 is outside"):
            open_tokens(path, 50, 256)
        with path.open("r+b") as file:
            file.seek(offset + 2 * position)
            file.write(b"\x00\x00")
    assert fingerprint(path) == first
