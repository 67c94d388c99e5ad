"""Masked-token training: some tokens of a window are hidden, and the encoder is to name them (Devlin et al., 2019)."""

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
    """BERT's rule (Devlin et al., 2019, section 3.1 and appendix A.1).

    Of each window's tokens, the share mask_rate, rounded, but one at least, is chosen. Of the chosen, 80% become the
    mask token, 10% a random token, and 10% stay as they are.

    Args:
        num_tokens_N: The tokens of each window; padding behind them is left alone.
        bits_N3T: Random bits: which are chosen, what becomes of them, and which random token.

    Returns:
        The masked windows, and where tokens were chosen.
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
    """The batch of a step, a pure function of (corpus, seed, step, settings): `get_batch`'s windows, masked."""
    model = config.model
    windows = get_batch(
        corpus, config.seed, step, config.batch_size, model.context_length, config.grad_accumulation
    ).inputs
    A, B, T = windows.shape
    bits = philox(config.seed, "mask", step).random_raw(A * B * 3 * T).reshape(A * B, 3, T)
    masked, chosen = mask_tokens(windows.reshape(-1, T), np.full(A * B, T), bits, config)
    return Batch(masked.reshape(A, B, T), windows, chosen.reshape(A, B, T), np.full((A, B), T, np.int32))


def masked_eval_batches(tokens: Tokens, config: TrainConfig) -> Iterator[Batch]:
    """All tokens in windows that do not overlap, the last one padded; always with the same tokens masked.

    Window i is masked by (0, i), so that neither the seed nor the batch size changes the loss. Every batch has the
    same shape; where windows are missing, they are of no tokens.

    Raises:
        InputError: the token file has gone, or was cut short.
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
