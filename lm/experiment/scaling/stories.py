"""Sampling errors over the stories of a validation text: that of the floor, and that of a model's excess over it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float64

import lm as twinlm
from lm.corpora.stories import iter_stories
from lm.data.sidecar import sidecar_path
from lm.data.sources import evaluation_batches, open_evaluation
from lm.experiment.scaling.law import Values
from lm.files import read_object


def story_errors(run: Path, text: Path, tokens: Path) -> dict[str, float]:
    """Return the floor and a model's excess over it in nats per token, with their standard errors over stories.

    The floor's error says how far the text's information is from its expectation. The excess has a smaller error: a
    story that holds much information costs the model more, too.

    Args:
        run: Folder of the run. Its evaluation is on whole documents.
        text: The validation text, written by `lm stories`.
        tokens: The text's token file.
    """
    facts = read_object(sidecar_path(text), "write the stories again")
    nats = [nats for _, nats in islice(iter_stories(facts["seed"]), facts["documents"])]
    sizes, losses, stories = _story_losses(run, tokens).T
    known = np.add.reduceat(nats, np.cumsum([0, *stories[:-1].astype(int)]))
    floor, floor_error = _ratio(known, sizes)
    excess, excess_error = _ratio(losses - known, sizes)
    return {
        "stories": len(nats),
        "floor": floor,
        "floor_error": floor_error,
        "excess": excess,
        "excess_error": excess_error,
    }


def _story_losses(run: Path, tokens: Path) -> Float64[np.ndarray, "S 3"]:
    """Return rows of (predicted tokens, nats, stories): of each window, or of all windows of a story that has several.

    What follows the last story belongs to the last row.
    """
    model = twinlm.load(run)
    config = replace(model.config, batch_size=1, grad_accumulation=1)
    eval_step = model.backend.make_eval_step(config)
    rows, ends_story = [], []
    for batch in evaluation_batches(open_evaluation(config, tokens), config):
        nats, size, _ = eval_step(model.state, batch)
        is_end = batch.targets[batch.loss_mask] == config.end_token
        rows.append((size, nats, is_end.sum()))
        ends_story.append(is_end[-1])
    ended_before = np.cumsum([0, *ends_story[:-1]])
    own = np.minimum(ended_before, sum(ends_story) - 1)
    sums = np.zeros((own[-1] + 1, 3))
    np.add.at(sums, own, rows)
    return sums


def _ratio(values: Values, sizes: Values) -> tuple[float, float]:
    """Return sum(values) / sum(sizes), and its standard error over the pairs."""
    ratio = values.sum() / sizes.sum()
    return float(ratio), float(np.sqrt(np.square(values - ratio * sizes).sum()) / sizes.sum())
