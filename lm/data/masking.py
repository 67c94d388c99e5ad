"""Masked-token training: some tokens of a window are masked, and the encoder predicts them (Devlin et al., 2019)."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt64

from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.data.token_files import Tokens, as_int32, read_parts
from lm.data.windows import Corpus, get_batch
from lm.rng import integers, philox, uniform

MASK = "<|mask|>"


def mask_tokens(
    token_ids_NT: Int[np.ndarray, "N T"],
    num_tokens_N: Int[np.ndarray, " N"],
    bits_N3T: UInt64[np.ndarray, "N 3 T"],
    config: TrainConfig,
) -> tuple[Int[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """Mask tokens by BERT's rule (Devlin et al., 2019, section 3.1 and appendix A.1).

    In each window, the share mask_rate of the tokens is chosen, rounded, but at least one token. 80% of the chosen
    become the mask token, 10% become a random token, and 10% stay as they are.

    Args:
        num_tokens_N: Number of tokens of each window. The padding after them is never chosen.
        bits_N3T: Random bits. They decide which tokens are chosen, what replaces each, and which random token it is.

    Returns:
        The masked windows, and True at the chosen tokens.
    """
    which_NT, what_NT = uniform(bits_N3T[:, 0]), uniform(bits_N3T[:, 1])
    which_NT = np.where(np.arange(token_ids_NT.shape[1]) < num_tokens_N[:, None], which_NT, 1.0)
    wanted_N = np.minimum(num_tokens_N, np.maximum(1, np.round(config.mask_rate * num_tokens_N)))
    rank_NT = which_NT.argsort(-1, kind="stable").argsort(-1, kind="stable")
    chosen_NT = rank_NT < wanted_N[:, None]
    masked_NT = token_ids_NT.copy()
    masked_NT[chosen_NT & (what_NT < 0.8)] = config.mask_token
    is_random_NT = chosen_NT & (what_NT >= 0.9)
    masked_NT[is_random_NT] = integers(bits_N3T[:, 2][is_random_NT], config.model.vocab_size)
    return masked_NT, chosen_NT


def masked_batch(corpus: Corpus, config: TrainConfig, step: int) -> Batch:
    """Return the batch of a step: the windows of `get_batch`, masked. A pure function of (corpus, step, settings)."""
    model = config.model
    windows = get_batch(
        corpus, config.seed, step, config.batch_size, model.context_length, config.grad_accumulation
    ).inputs
    A, B, T = windows.shape
    bits = philox(config.seed, "mask", step).random_raw(A * B * 3 * T).reshape(A * B, 3, T)
    masked, chosen = mask_tokens(windows.reshape(-1, T), np.full(A * B, T), bits, config)
    return Batch(masked.reshape(A, B, T), windows, chosen.reshape(A, B, T), np.full((A, B), T, np.int32))


def masked_eval_batches(tokens: Tokens, config: TrainConfig) -> Iterator[Batch]:
    """Yield all tokens in windows that do not overlap, always with the same tokens masked.

    The random bits of window i depend only on i, so neither the seed nor the batch size changes the loss. The last
    window is padded. Every batch has the same shape: the last one is filled with windows of no tokens.

    Raises:
        InputError: the token file was deleted or changed.
    """
    B, T = config.batch_size, config.model.context_length
    for start in range(0, len(tokens), B * T):
        chunk = as_int32(read_parts(tokens, [(start, start + B * T)])[0])
        padded = np.zeros(B * T, np.int32)
        padded[: len(chunk)] = chunk
        windows_BT = padded.reshape(B, T)
        num_tokens_B = np.clip(len(chunk) - T * np.arange(B), 0, T).astype(np.int32)
        bits_B3T = np.stack(
            [philox(0, "mask evaluation", start // T + i).random_raw(3 * T).reshape(3, T) for i in range(B)]
        )
        masked_BT, chosen_BT = mask_tokens(windows_BT, num_tokens_B, bits_B3T, config)
        yield Batch(masked_BT[None], windows_BT[None], chosen_BT[None], num_tokens_B[None])
