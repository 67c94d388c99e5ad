"""Random numbers are pure functions of their names and have the promised distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.rng import integers, normal, philox, truncated_normal, uniform
from tests.lm.distributions import KS_LIMIT, ks_statistic, truncated_normal_cdf

seeds = st.integers(0, 2**64 - 1)
words = st.integers(0, 2**64 - 1)


def bits(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_the_bits_are_philoxs_whatever_numpy_is_installed() -> None:
    assert philox(7, "golden", 3).random_raw(4).tolist() == [
        8586844338863617937,
        10054302739521789702,
        12223560857216462971,
        17194561991402423385,
    ]


def test_the_mappings_are_ours() -> None:
    assert uniform(philox(7, "golden", 3).random_raw(3)).tolist() == [
        0.4654937643495395,
        0.5450448436508241,
        0.6626405618451433,
    ]
    assert integers(philox(7, "golden", 3).random_raw(5), 1000).tolist() == [465, 545, 662, 932, 644]
    # Logarithm, cosine and sine may differ in the last bit between processors.
    np.testing.assert_allclose(
        normal(philox(7, "golden", 3), 3),
        [-0.6452184573176268, 1.0030180394730115, -1.0549911365695832],
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        truncated_normal(philox(7, "golden", 3), 3, 0.5),
        [0.11307911365861252, -0.3256062222538809, 0.47457545397508083],
        rtol=1e-14,
    )


@given(st.lists(st.tuples(seeds, st.text(max_size=8), words), min_size=2, max_size=5, unique=True))
def test_every_seed_stream_and_index_has_its_own_bits(names: list[tuple[int, str, int]]) -> None:
    draws = [tuple(philox(*name).random_raw(4)) for name in names]
    assert len(set(draws)) == len(names)
    assert draws == [tuple(philox(*name).random_raw(4)) for name in names]


def test_neighbouring_streams_are_uncorrelated() -> None:
    n = 20_000
    names = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", 2)]
    correlations = np.corrcoef([uniform(philox(*name).random_raw(n)) for name in names])
    assert np.abs(correlations - np.eye(len(names))).max() < 4.5 / n**0.5


@given(words, words)
def test_uniform_lies_inside_the_interval_and_keeps_the_order(a: int, b: int) -> None:
    x, y = uniform(bits(a, b))
    assert 0.0 < x < 1.0
    assert (x < y) == (a >> 12 < b >> 12)


def test_uniform_never_rounds_to_an_end() -> None:
    low, high = uniform(bits(0, 2**64 - 1))
    assert low == 2.0**-53
    assert high == 1.0 - 2.0**-53


@given(words, st.integers(1, 2**63 - 1))
def test_integers_are_in_range_and_in_proportion(word: int, n: int) -> None:
    (i,) = integers(bits(word), n)
    assert 0 <= i < n
    assert int(i) * 2**64 <= word * n < (int(i) + 1) * 2**64


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_integers_are_uniform(n: int) -> None:
    counts = np.bincount(integers(philox(1, "integers", n).random_raw(20_000), n), minlength=n)
    assert len(counts) == n
    # The statistic of a chi-squared test has mean n - 1 and variance 2 (n - 1).
    assert ((counts - counts.mean()) ** 2).sum() / counts.mean() <= n - 1 + 4 * (2 * n - 2) ** 0.5


def test_integers_keep_the_shape() -> None:
    assert integers(philox(0, "shape").random_raw(6).reshape(2, 3), 5).shape == (2, 3)


@given(seeds, st.integers(0, 9))
def test_normal_gives_as_many_as_asked_for(seed: int, size: int) -> None:
    z = normal(philox(seed, "z"), size)
    assert z.shape == (size,)
    assert np.isfinite(z).all()


def test_uniform_is_uniform() -> None:
    assert ks_statistic(uniform(philox(4, "uniform").random_raw(50_000)), lambda u: u) < KS_LIMIT


def test_normal_is_normal_and_its_halves_are_independent() -> None:
    z = normal(philox(2, "normal"), 50_000)
    assert ks_statistic(z, truncated_normal_cdf(np.inf)) < KS_LIMIT
    # Cosine and sine of the same angle and radius are the two halves.
    first, second = z.reshape(2, -1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / len(first) ** 0.5
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 4.5 / len(first) ** 0.5


@pytest.mark.parametrize("limit", [0.1, 1.0, 3.0])
def test_truncated_normal_is_distributed_as_torchs(limit: float) -> None:
    z = truncated_normal(philox(3, "truncated"), 50_000, limit)
    assert np.abs(z).max() <= limit
    theirs = torch.nn.init.trunc_normal_(
        torch.empty(50_000, dtype=torch.float64),
        a=-limit,
        b=limit,
        generator=torch.Generator().manual_seed(0),
    )
    for sample in (z, theirs.numpy()):
        assert ks_statistic(sample, truncated_normal_cdf(limit)) < KS_LIMIT


@given(seeds, st.integers(0, 20), st.floats(0.05, 4))
def test_truncated_normal_stays_inside_any_limit(seed: int, size: int, limit: float) -> None:
    z = truncated_normal(philox(seed, "z"), size, limit)
    assert z.shape == (size,)
    assert (np.abs(z) <= limit).all()
