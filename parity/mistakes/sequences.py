"""Mistakes of the encoder and the prefix decoder."""

from functools import partial

import numpy as np

from lm.config import ModelConfig
from parity.mistakes.mistake import mistake
from parity.oracle.attention import causal_mask
from parity.oracle.gradients import Weights
from parity.oracle.sequences import after_prefix, encode_sequence, prefix_decoder, prefix_mask

ENCODER = "every token sees every token of its sequence, and no padding"
PREFIX = "every place sees the whole prefix; each token also sees the tokens up to itself"
DEVLIN = "Devlin et al., 2019, section 3"
RAFFEL = "Raffel et al., 2020, section 3.2.1"


@mistake("causal mask in an encoder", "full_mask", formula=ENCODER, source=DEVLIN)
def _(n: int) -> np.ndarray:
    """Tokens of an encoder see only earlier ones. An encoder reads its text in both directions."""
    return causal_mask(n)


@mistake("padding attended to", "encode_sequence", formula=ENCODER, source=DEVLIN)
def _(weights: Weights, x: np.ndarray, n: int, config: ModelConfig) -> np.ndarray:
    """The tokens also see the padding behind them. A text's numbers then depend on the longest text of its batch."""
    return encode_sequence(weights, x, x.shape[-2], config)[..., :n, :]


of_prefix = partial(mistake, formula=PREFIX, source=RAFFEL)


@of_prefix("causal mask over the prefix", "prefix_mask")
def _(n: int, S: int) -> np.ndarray:
    """Places of the prefix see only earlier ones. They should see the whole prefix."""
    return causal_mask(S)


@of_prefix("tokens see the future", "prefix_mask")
def _(n: int, S: int) -> np.ndarray:
    """Every place sees every place, also tokens that come later. The model is shown its targets."""
    return np.ones((S, S), bool)


@of_prefix("prefix sees the tokens", "prefix_mask")
def _(n: int, S: int) -> np.ndarray:
    """The places of the prefix see all tokens. From the second layer on, they carry the future to each token."""
    return np.asarray(prefix_mask(n, S) | (np.arange(S) < n)[:, None])


@of_prefix("prefix hidden from the tokens", "prefix_mask")
def _(n: int, S: int) -> np.ndarray:
    """The tokens see only tokens. The prefix has no part in the output."""
    in_prefix = np.arange(S) < n
    return np.asarray(prefix_mask(n, S) & (in_prefix[:, None] == in_prefix))


@of_prefix("logits one place early", "after_prefix")
def _(x: np.ndarray, n: int) -> np.ndarray:
    """The logits are those of the places one before each token, from the prefix's last place on.
    They predict the tokens themselves, not the next ones."""
    return after_prefix(x[..., :-1, :], n - 1)


@of_prefix("padding of the prefix attended to", "prefix_decoder")
def _(
    weights: Weights, hidden: np.ndarray, token_ids: np.ndarray, num_tokens: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """The tokens also see the padding behind a prefix.
    A text's numbers then depend on the longest prefix of its batch."""
    return prefix_decoder(weights, hidden, token_ids, np.full_like(num_tokens, hidden.shape[-2]), config)
