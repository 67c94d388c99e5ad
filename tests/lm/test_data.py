"""Token files and batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.data import Batch, check_token_ids, eval_batches, get_batch, open_tokens
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
