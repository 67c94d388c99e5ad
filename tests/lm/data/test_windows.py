"""Training and evaluation windows, and mixtures of files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.data.batch import check_token_ids
from lm.data.windows import Corpus, eval_batches, eval_windows, get_batch, open_corpus
from tokenizer import InputError

END = 0
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
    # Micro-batches divide the batch without changing it.
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
def test_evaluation_predicts_each_token_except_the_first_once(size: int, batch_size: int) -> None:
    tokens = np.arange(size, dtype=np.uint16)
    batches = list(eval_batches(tokens, batch_size, 16))
    assert {b.inputs.shape for b in batches} == {(1, batch_size, 16)}
    targets = np.concatenate([b.targets[b.loss_mask] for b in batches])
    np.testing.assert_array_equal(targets, tokens[1:])
    inputs = np.concatenate([b.inputs[b.loss_mask] for b in batches])
    np.testing.assert_array_equal(inputs, tokens[:-1])
    assert sum(b.num_targets for b in batches) == size - 1


@given(ids=st.lists(st.sampled_from([END, 1, 2, 3]), min_size=2, max_size=60), T=st.sampled_from([1, 4, 8]))
def test_windows_of_whole_documents_cut_only_documents_that_do_not_fit(ids: list[int], T: int) -> None:
    tokens = np.array(ids, np.uint16)
    windows = eval_windows(tokens, T, END)
    assert [start for start, _ in windows] == [0, *(stop for _, stop in windows)][:-1]
    assert windows[-1][1] == len(ids) - 1
    bounds = [0, *(i for i in range(1, len(ids) - 1) if ids[i] == END), len(ids) - 1]
    for i, (start, stop) in enumerate(windows):
        assert 0 < stop - start <= T
        own = max(bound for bound in bounds if bound <= start)
        end = min(bound for bound in bounds if bound > start)
        if end - own > T:  # a document of its own windows
            assert (start - own) % T == 0
            assert stop == min(start + T, end)
        else:  # whole documents, and the next one does not fit
            assert {start, stop} <= {*bounds}
            assert i == len(windows) - 1 or min(bound for bound in bounds if bound > stop) - start > T


@given(ids=st.lists(st.sampled_from([END, 1, 2, 3]), min_size=2, max_size=60))
def test_evaluation_on_documents_predicts_each_token_except_the_first_once(ids: list[int]) -> None:
    tokens = np.array(ids, np.uint16)
    for batch_size in (1, 3):
        batches = list(eval_batches(tokens, batch_size, 8, END))
        assert {b.inputs.shape for b in batches} == {(1, batch_size, 8)}
        np.testing.assert_array_equal(np.concatenate([b.inputs[b.loss_mask] for b in batches]), ids[:-1])
        np.testing.assert_array_equal(np.concatenate([b.targets[b.loss_mask] for b in batches]), ids[1:])


def write_marked(folder: Path, name: str, mark: int, size: int, dtype: str = "uint16") -> Path:
    """Write a token file that holds a single id."""
    path = folder / name
    np.save(path, np.full(size, mark, dtype))
    return path


def count_windows(corpus: Corpus, count: int = 20_000) -> np.ndarray:
    """Count the windows that come from the files marked 0, 1 and 2."""
    return np.bincount(get_batch(corpus, 0, 0, count, 8).inputs[..., 0].ravel(), minlength=3)


def test_several_files_are_one_corpus(tmp_path: Path) -> None:
    write_marked(tmp_path, "a.npy", 0, 108)
    write_marked(tmp_path, "b.npy", 1, 308)
    c = write_marked(tmp_path, "c.npy", 2, 608, "uint32").rename(tmp_path / "c.other")
    corpus, paths = open_corpus([tmp_path / "*.npy", c], (), 50, 8)
    assert [path.name for path in paths] == ["a.npy", "b.npy", "c.other"]
    # Every window of every file is as likely as any other.
    np.testing.assert_allclose(count_windows(corpus) / 20_000, [0.1, 0.3, 0.6], atol=0.01)
    assert get_batch(corpus, 0, 0, 8, 8).inputs.dtype == np.int32
    weighted, _ = open_corpus([tmp_path / "*.npy", c], (3.0, 1.0), 50, 8)
    np.testing.assert_allclose(count_windows(weighted) / 20_000, [0.75 / 4, 0.75 * 3 / 4, 0.25], atol=0.01)


def test_a_corpus_of_one_file_gives_that_files_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)
    corpus, _ = open_corpus([tmp_path / "tokens.npy"], (7.0,), 50, 16)
    for step in range(5):
        batch = get_batch(corpus, 3, step, 8, 16, 2)
        np.testing.assert_array_equal(batch.inputs, get_batch(TOKENS, 3, step, 8, 16, 2).inputs)
        starts = [start for _, start in corpus.starts(3, step, 8, 16)]
        np.testing.assert_array_equal(batch.inputs.reshape(8, 16)[:, 0], TOKENS[starts])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: tuple[float, ...]) -> None:
    files = [write_marked(tmp_path, name, 0, 100) for name in ("a.npy", "b.npy")]
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
