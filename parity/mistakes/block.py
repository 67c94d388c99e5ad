"""Mistakes of the block: its norms, residuals and order."""

from collections.abc import Callable
from functools import partial, wraps

import numpy as np

from lm.config import ModelConfig
from parity.mistakes.mistake import detach, mistake
from parity.oracle.model import Norms, Sublayer, residual_stream

Stream = Callable[[np.ndarray, Sublayer, Sublayer, Norms, ModelConfig], np.ndarray]

PRE = "x = x + attn(ln1(x)); x = x + ffn(ln2(x))"
POST = "x = ln1(x + attn(x)); x = ln2(x + ffn(x))"
PARALLEL = "h = ln1(x); x = x + attn(h) + ffn(h)"
XIONG = "Xiong et al., 2020, table 1"
VASWANI = "Vaswani et al., 2017, section 3.1"
WANG = "Wang and Komatsuzaki, 2021 (GPT-J)"


def only(norm_position: str, block: str) -> Callable[[Stream], Stream]:
    """Let a variant act on blocks of one kind. Others are right."""

    def decorate(variant: Stream) -> Stream:
        @wraps(variant)
        def chosen(
            x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig
        ) -> np.ndarray:
            is_meant = (config.norm_position, config.block) == (norm_position, block)
            return (variant if is_meant else residual_stream)(x, attend, feed, ln, config)

        return chosen

    return decorate


of_pre_norm = partial(mistake, replaces="residual_stream", formula=PRE, source=XIONG)
of_post_norm = partial(mistake, replaces="residual_stream", formula=POST, source=VASWANI)
of_parallel = partial(mistake, replaces="residual_stream", formula=PARALLEL, source=WANG)


@of_pre_norm("post-norm in place of pre-norm", pitfall="Pre-norm or post-norm")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The norms follow the sums, as in the first Transformer. Here each norm stands before its sublayer."""
    x = ln(1, x + attend(x))
    return ln(2, x + feed(x))


@of_pre_norm("norms of the sublayers' outputs")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Each norm is applied to its sublayer's output, before the sum, and should be applied to its input.
    The sublayers read the unnormed stream."""
    x = x + ln(1, attend(x))
    return x + ln(2, feed(x))


@of_pre_norm("no residual around attention")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Attention's output is not added to the stream, but replaces it. What came before reaches later layers only
    through attention."""
    x = attend(ln(1, x))
    return x + feed(ln(2, x))


@of_pre_norm("no residual around the feed-forward layer")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer's output is not added to the stream, but replaces it.
    The gradient has no short way back."""
    x = x + attend(ln(1, x))
    return feed(ln(2, x))


@of_pre_norm("no residuals")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Both sublayers replace the stream in place of adding to it. Deep models then hardly train."""
    return feed(ln(2, attend(ln(1, x))))


@of_pre_norm("residual of the normed input of attention")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The code writes x = ln1(x), then x + attn(x), so it adds the normed input. The stream itself is lost."""
    x = ln(1, x)
    x = x + attend(x)
    return x + feed(ln(2, x))


@of_pre_norm("residual of the normed input of the feed-forward layer")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The code writes x = ln2(x), then x + ffn(x), so it adds the normed input. The stream itself is lost."""
    x = ln(2, x + attend(ln(1, x)))
    return x + feed(x)


@of_pre_norm("residuals of both normed inputs")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Both sublayers' normed inputs are added in place of the stream. Each norm cuts the stream off."""
    x = ln(1, x)
    x = ln(2, x + attend(x))
    return x + feed(x)


@of_pre_norm("ln1 for both norms")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The first norm's gain also scales the feed-forward layer's input. ln2 has no part in the output."""
    x = x + attend(ln(1, x))
    return x + feed(ln(1, x))


@of_pre_norm("ln2 for both norms")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The second norm's gain also scales attention's input. ln1 has no part in the output."""
    x = x + attend(ln(2, x))
    return x + feed(ln(2, x))


@of_pre_norm("ln1 and ln2 swapped")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """ln2 stands before attention and ln1 before the feed-forward layer. Fresh gains of 1 hide it."""
    x = x + attend(ln(2, x))
    return x + feed(ln(1, x))


@of_pre_norm("attention reads the unnormed stream")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Attention reads x, not ln1(x). ln1 has no part in the output."""
    x = x + attend(x)
    return x + feed(ln(2, x))


@of_pre_norm("feed-forward layer reads the unnormed stream")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer reads x, not ln2(x). ln2 has no part in the output."""
    x = x + attend(ln(1, x))
    return x + feed(x)


@of_pre_norm("block without norms")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Neither sublayer's input is normed. Both gains have no part in the output."""
    x = x + attend(x)
    return x + feed(x)


@of_pre_norm("feed-forward layer before attention")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer comes first and attention second, each with its own norm. The order is the other one."""
    x = x + feed(ln(2, x))
    return x + attend(ln(1, x))


@of_pre_norm("parallel in place of sequential", pitfall="Pre-norm or post-norm")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer reads the block's input, so it does not see attention's output.
    Both outputs are added to the input."""
    return x + attend(ln(1, x)) + feed(ln(2, x))


@of_pre_norm("second residual of the block's input")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer's output is added to the block's input, not to the stream after attention.
    Attention's output reaches the stream only through the feed-forward layer."""
    return x + feed(ln(2, x + attend(ln(1, x))))


@of_pre_norm("feed-forward layer reads attention's output")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer reads attention's output without the residual. The stream itself does not reach it."""
    attended = attend(ln(1, x))
    return x + attended + feed(ln(2, attended))


@of_pre_norm("input of the block added twice")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The block's input is added again after the feed-forward layer. The stream doubles in every block."""
    attended = x + attend(ln(1, x))
    return x + attended + feed(ln(2, attended))


@of_pre_norm("feed-forward layer missing")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The block ends after attention. The feed-forward layer and ln2 have no part in the output."""
    return x + attend(ln(1, x))


@of_pre_norm("attention missing")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The block has only its feed-forward layer. No position sees another."""
    return x + feed(ln(2, x))


@of_pre_norm("residual stream detached")
@only("pre", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The stream is detached where the sublayers' outputs are added to it. The output is right, and the gradient
    flows only through the sublayers."""
    x = detach(x) + attend(ln(1, x))
    return detach(x) + feed(ln(2, x))


@of_post_norm("pre-norm in place of post-norm", pitfall="Pre-norm or post-norm")
@only("post", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Each norm stands before its sublayer, and should follow the sum. The stream leaves the block unnormed."""
    x = x + attend(ln(1, x))
    return x + feed(ln(2, x))


@of_post_norm("post-norm before the sum")
@only("post", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Each norm is applied to its sublayer's output, before the residual is added. It should norm the sum."""
    x = x + ln(1, attend(x))
    return x + ln(2, feed(x))


@of_post_norm("post-norm without residuals")
@only("post", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The sublayers' outputs are normed without the stream that should be added to them. Deep models then hardly
    train."""
    return ln(2, feed(ln(1, attend(x))))


@of_post_norm("post-norm: ln1 and ln2 swapped")
@only("post", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """ln2 follows attention and ln1 the feed-forward layer. Fresh gains of 1 hide it."""
    x = ln(2, x + attend(x))
    return ln(1, x + feed(x))


@of_post_norm("post-norm: second residual of the block's input")
@only("post", "sequential")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer's output is added to the block's input, not to ln1's output.
    Attention's output reaches the stream only through the feed-forward layer."""
    return ln(2, x + feed(ln(1, x + attend(x))))


@of_parallel("sequential in place of parallel", pitfall="Pre-norm or post-norm")
@only("pre", "parallel")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The feed-forward layer follows attention and reads its sum, normed by ln1 again.
    In a parallel block both read one normed input."""
    x = x + attend(ln(1, x))
    return x + feed(ln(1, x))


@of_parallel("parallel: feed-forward layer reads the unnormed stream")
@only("pre", "parallel")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """Only attention reads the normed input. The feed-forward layer reads the stream itself."""
    return x + attend(ln(1, x)) + feed(x)


@of_parallel("parallel: residual of the normed input")
@only("pre", "parallel")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The code writes x = ln1(x), then adds both outputs to it. The stream itself is lost."""
    x = ln(1, x)
    return x + attend(x) + feed(x)


@of_parallel("parallel without a residual")
@only("pre", "parallel")
def _(x: np.ndarray, attend: Sublayer, feed: Sublayer, ln: Norms, config: ModelConfig) -> np.ndarray:
    """The outputs of both sublayers are added to each other, not to the stream. The stream itself is lost."""
    x = ln(1, x)
    return attend(x) + feed(x)
