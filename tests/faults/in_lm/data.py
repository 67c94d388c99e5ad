"""Faults in lm/data: windows, pairs, masks, and the check of token ids."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from tests.faults.fault import DATA, MASKING, PAIRS, STARTS, STEP, fault


@fault("batches are shifted by one", "lm.data.windows.get_batch", DATA)
@fault("a target is predicted from itself", "lm.data.pairs.pair_batch", PAIRS)
def _(original: Any) -> Any:
    def broken(*args: Any, **kwargs: Any) -> Any:
        batch = original(*args, **kwargs)
        return replace(batch, targets=batch.inputs)

    return broken


@fault("whole documents are cut into equal windows", "lm.data.windows._join_documents", DATA)
def _(original: Any) -> Any:
    return lambda bounds, most: [bounds[0], bounds[-1]]


@fault("the last token is never drawn", "lm.data.windows.Corpus.starts", DATA)
def _(original: Any) -> Any:
    return lambda self, seed, step, batch_size, context_length: original(
        self, seed, step, batch_size, context_length + 1
    )


@fault("the first id out of range passes", "lm.data.batch.check_token_ids", STEP)
def _(original: Any) -> Any:
    return lambda token_ids, vocab_size, *where: original(token_ids, vocab_size + 1, *where)


@fault("a target's padding counts", "lm.data.pairs.pair_batch", PAIRS)
def _(original: Any) -> Any:
    def broken(*args: Any, **kwargs: Any) -> Any:
        batch = original(*args, **kwargs)
        before = batch.loss_mask[..., :-1]
        return replace(batch, loss_mask=np.concatenate((np.ones_like(before[..., :1]), before), axis=-1))

    return broken


@fault("no chosen token stays as it is", "lm.data.masking.mask_tokens", MASKING)
def _(original: Any) -> Any:
    """Let 20% of the chosen tokens become random tokens, not 10%."""

    def broken(token_ids_NT: Any, num_tokens_N: Any, bits_N3T: Any, config: Any) -> Any:
        from lm.rng import uniform

        bits_N3T = bits_N3T.copy()
        what_NT = bits_N3T[:, 1]
        what_NT[uniform(what_NT) >= 0.8] = 2**64 - 1
        return original(token_ids_NT, num_tokens_N, bits_N3T, config)

    return broken


@fault("padding is chosen to be masked", "lm.data.masking.mask_tokens", MASKING)
def _(original: Any) -> Any:
    """Rank padding in the middle of the tokens, not behind all of them."""

    def broken(token_ids_NT: Any, num_tokens_N: Any, bits_N3T: Any, config: Any) -> Any:
        from lm.rng import integers, uniform

        which_NT, what_NT = uniform(bits_N3T[:, 0]), uniform(bits_N3T[:, 1])
        which_NT = np.where(np.arange(token_ids_NT.shape[1]) < num_tokens_N[:, None], which_NT, 0.5)
        wanted_N = np.minimum(num_tokens_N, np.maximum(1, np.round(config.mask_rate * num_tokens_N)))
        chosen_NT = which_NT.argsort(-1, kind="stable").argsort(-1, kind="stable") < wanted_N[:, None]
        masked_NT, is_random_NT = token_ids_NT.copy(), chosen_NT & (what_NT >= 0.9)
        masked_NT[chosen_NT & (what_NT < 0.8)] = config.mask_token
        masked_NT[is_random_NT] = integers(bits_N3T[:, 2][is_random_NT], config.model.vocab_size)
        return masked_NT, chosen_NT

    return broken


@fault("evaluation masks by the seed", "lm.data.masking.masked_eval_batches", MASKING)
def _(original: Any) -> Any:
    def broken(tokens: Any, config: Any) -> Iterator[Any]:
        from lm.rng import philox

        with mock.patch("lm.data.masking.philox", lambda _, *of: philox(config.seed, *of)):
            yield from original(tokens, config)

    return broken


@fault("a document starts after its end token", "lm.data.documents.document_starts", STARTS)
def _(original: Any) -> Any:
    def broken(token_ids: Any, config: Any) -> Any:
        after = np.concatenate((np.full_like(token_ids[..., :1], -1), token_ids[..., :-1]), axis=-1)
        return original(after, config)

    return broken
