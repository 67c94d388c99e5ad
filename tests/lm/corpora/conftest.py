"""Sampled stories."""

import itertools

import pytest

from lm.corpora.stories import iter_stories


@pytest.fixture(scope="package")
def sample() -> list[tuple[str, float]]:
    """The first stories of a seed, with their information in nats."""
    return list(itertools.islice(iter_stories(seed=11), 300))
