"""Faults in lm/text: which tokens can win the draw."""

from typing import Any
from unittest import mock

from tests.faults.fault import fault, inside

SAMPLING, GENERATE = "tests/lm/text/test_sampling.py", "tests/lm/text/test_generate.py"


@fault("tokens that can win are left out of the draw", "lm.text.sampling._contenders", SAMPLING)
def _(original: Any) -> Any:
    return inside("lm.text.sampling.MARGIN", lambda margin: -margin, original)


@fault("quiet tokens that can win are left out of the draw", "lm.text.sampling._contenders", SAMPLING)
def _(original: Any) -> Any:
    """Take only the loud tokens even if the reach is below LOUD but above 0."""

    def broken(logits: Any, noise: Any, temperature: float) -> Any:
        assert len(noise.loud) == 2  # remembered, so that LOUD below changes only the reach
        with mock.patch("lm.text.sampling.LOUD", 0.0):
            return original(logits, noise, temperature)

    return broken


@fault("a prompt keeps the documents before its last", "lm.text.generate.last_document", GENERATE)
def _(original: Any) -> Any:
    return lambda token_ids, config: list(token_ids)[-config.model.context_length :]
