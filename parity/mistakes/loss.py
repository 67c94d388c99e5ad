"""Mistakes in the cross-entropy of a position, and in its mean."""

import math
from functools import partial

import numpy as np

from parity.mistakes.mistake import detach, mistake
from parity.oracle.functional import one_hot, softmax, token_cross_entropy

of_loss = partial(
    mistake,
    replaces="cross_entropy",
    formula="mean over all positions of log(sum(exp(logits))) - logits[target]",
    source="Goodfellow et al., 2016, eq. 6.30",
)
of_token_loss = partial(of_loss, replaces="token_cross_entropy")


def _of_targets(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return (values * one_hot(targets, values.shape[-1])).sum(-1)


def _mean(losses: np.ndarray, axes: int) -> np.ndarray:
    return losses.mean(tuple(range(-axes, 0)))


@of_token_loss("loss: log(softmax) that underflows", pitfall="A loss of huge logits")
@np.errstate(all="ignore")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The logarithm of softmax's result is taken. An unlikely target's probability underflows to 0: the loss is inf."""
    return -np.log(_of_targets(softmax(logits, -1), targets))


@of_token_loss("loss: no maximum subtracted", pitfall="A loss of huge logits")
@np.errstate(all="ignore")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """exp(logits) is computed without subtracting the maximum. It overflows above 88 in float32: the loss is inf."""
    return np.log(np.exp(logits).sum(-1)) - _of_targets(logits, targets)


for _eps in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12):

    @of_token_loss(f"loss: epsilon {_eps:.0e} in the logarithm", pitfall="A loss of huge logits")
    def _(logits: np.ndarray, targets: np.ndarray, eps: float = _eps) -> np.ndarray:
        """A small number is added to the probability inside the logarithm. The loss of an unlikely target cannot
        exceed a bound, and its gradient vanishes."""
        return -np.log(_of_targets(softmax(logits, -1), targets) + eps)


for _eps in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12):

    @of_token_loss(f"loss: probabilities below {_eps:.0e} raised to it", pitfall="A loss of huge logits")
    def _(logits: np.ndarray, targets: np.ndarray, eps: float = _eps) -> np.ndarray:
        """Probabilities are clamped from below before the logarithm. A target that is less likely gets no gradient."""
        p = _of_targets(softmax(logits, -1), targets)
        return -np.log(np.where(p.real < eps, eps, p))


@of_token_loss("loss: classes counted from 1")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss takes the logit of target - 1. Target 0 then means the last class."""
    return token_cross_entropy(logits, (targets - 1) % logits.shape[-1])


@of_token_loss("loss: softmax applied twice")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The logits go through softmax before the loss, which applies it again. The loss stays near log(V)."""
    return token_cross_entropy(softmax(logits, -1), targets)


@of_token_loss("loss: logarithm to base 2")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The logarithm has base 2. The loss is in bits and 1.44 times too large."""
    return token_cross_entropy(logits, targets) / math.log(2)


@of_token_loss("loss: sign")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The mean log-probability is returned without the minus. Training then makes the targets less likely."""
    return -token_cross_entropy(logits, targets)


@of_token_loss("loss: maximum not added back")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The maximum is subtracted inside the exponential and not from the target's logit.

    The loss is too small by the maximum, through which a gradient flows.
    """
    largest = (logits * one_hot(logits.real.argmax(-1), logits.shape[-1])).sum(-1)
    return token_cross_entropy(logits, targets) - largest


@of_token_loss("loss: maximum not added back, and detached")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The maximum is subtracted inside the exponential and not from the target's logit.

    The loss is too small by the maximum; the gradient is right, because the maximum is detached.
    """
    return token_cross_entropy(logits, targets) - detach(logits).max(-1)


@of_token_loss("loss: no log-softmax")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The target's logit is taken as its log-probability. The loss has no lower bound."""
    return -_of_targets(logits, targets)


@of_token_loss("loss: no logarithm")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The target's probability is taken as its log-probability. The loss lies between -1 and 0."""
    return -_of_targets(softmax(logits, -1), targets)


@of_token_loss("loss: softmax over the batch")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Softmax runs along axis 0 in place of the vocabulary. A class competes with itself in other batch entries."""
    axis = -1 - targets.ndim
    shifted = logits - logits.real.max(axis, keepdims=True)
    return -_of_targets(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)), targets)


@of_token_loss("loss: divided by the vocabulary too")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The mean runs over positions and classes. The loss is too small by a factor of the vocabulary's size."""
    return token_cross_entropy(logits, targets) / logits.shape[-1]


@of_token_loss("loss: softmax's sum detached")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """No gradient flows through log(sum(exp(logits))). The loss is right, but only the target's logit has one."""
    return token_cross_entropy(detach(logits), targets) - _of_targets(logits - detach(logits), targets)


@of_loss("loss: summed")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The losses are summed, not averaged. Loss and gradients grow with the number of tokens."""
    return token_cross_entropy(logits, targets).sum(tuple(range(-targets.ndim, 0)))


@of_loss("loss: averaged over the batch only")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The losses are summed along the sequence and averaged over the batch. Both grow with the context length."""
    return _mean(token_cross_entropy(logits, targets), targets.ndim) * targets.size / len(targets)


@of_loss("loss: logits and targets shifted")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss drops the last logits and the first target, but the targets already follow the inputs by one.

    Each position is trained to predict the token after the next.
    """
    if targets.shape[-1] == 1:
        return np.full(logits.shape[: logits.ndim - 1 - targets.ndim], np.nan)  # the mean of nothing
    return _mean(token_cross_entropy(logits[..., :-1, :], targets[..., 1:]), targets.ndim)


@of_loss("loss: id 0 ignored")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Targets of id 0 are taken for padding and left out of the mean. Token 0 is then never learned."""
    losses = token_cross_entropy(logits, targets) * (targets != 0)
    return losses.sum(tuple(range(-targets.ndim, 0))) / (targets != 0).sum()


@of_loss("loss: logarithm of the mean probability")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The probabilities are averaged before the logarithm. Likely targets hide unlikely ones."""
    return -np.log(_mean(_of_targets(softmax(logits, -1), targets), targets.ndim))


@of_loss("loss: perplexity returned")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """exp(loss) is returned. Gradients are too large by the same factor."""
    return np.exp(_mean(token_cross_entropy(logits, targets), targets.ndim))


@of_loss("loss: every position against every target")
def _(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Indexing by [:, targets] takes all targets at each position, and the mean runs over all pairs.

    Each position is trained to predict the whole batch's targets.
    """
    lead, V = logits.shape[: logits.ndim - 1 - targets.ndim], logits.shape[-1]
    flat = logits.reshape(*lead, targets.size, V)
    share = one_hot(targets.ravel(), V).mean(0)
    log_sum = token_cross_entropy(flat, np.zeros(targets.size, int)) + flat[..., 0]
    return _mean(log_sum, 1) - (flat.mean(-2) * share).sum(-1)
