"""Batches, their checks, and the thread that prefetches them."""

import threading

import numpy as np
import pytest

from lm.data.batch import Batch, check_token_ids, prefetch
from tokenizer import InputError


def test_without_a_mask_all_targets_count() -> None:
    ids = np.zeros((2, 3, 4), np.int32)
    assert Batch(ids, ids).num_targets == 24


@pytest.mark.parametrize("token_id", [-1, 50])
def test_ids_out_of_range_are_refused(token_id: int) -> None:
    check_token_ids(np.array([0, 49]), 50)
    with pytest.raises(InputError, match=f"token id {token_id} is outside 0 .. 49"):
        check_token_ids(np.array([0, token_id, 3]), 50)


def test_batches_are_prefetched_in_order() -> None:
    made: list[int] = []
    first_taken = threading.Event()

    def make(step: int) -> Batch:
        made.append(step)
        if step == 8:
            raise InputError("gone")
        return Batch(np.full((1, 1, 1), step, np.int32), np.zeros((1, 1, 1), np.int32))

    batches = prefetch(make, 5, 10)
    assert int(next(batches).inputs[0, 0, 0]) == 5
    first_taken.wait(0.2)
    assert made == [5, 6, 7, 8]
    assert [int(next(batches).inputs[0, 0, 0]) for _ in range(2)] == [6, 7]
    with pytest.raises(InputError, match="gone"):
        next(batches)
    assert list(prefetch(make, 3, 3)) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_last_batch_is_made_once_and_none_after_it(count: int) -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return Batch(np.full((1, 1, 1), step, np.int32), np.zeros((1, 1, 1), np.int32))

    given = [int(batch.inputs[0, 0, 0]) for batch in prefetch(make, 5, 5 + count)]
    assert given == made == list(range(5, 5 + count))
