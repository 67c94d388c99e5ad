"""The model a third time: NumPy in float64, written for clarity, sharing no code with either backend.

Both backends are held to this package. Its files are named as theirs: functional -> layers -> attention -> model ->
sequences -> optimizer. Gradients come from the complex step (`gradients`). So every function here also takes
complex128 and stays analytic: it takes no absolute value and no conjugate, and a maximum, which only shifts an
exponent, is the maximum of the real part. Every array, weights included, may have further leading axes, so that many
perturbations are computed at once.

`bpe` and `data` are apart: they say exactly what texts, token ids, batches and checkpoints are right.
"""

from parity.oracle.attention import (
    attention_scores,
    causal_mask,
    multihead_self_attention,
    rope,
    scaled_dot_product_attention,
    window_mask,
)
from parity.oracle.functional import (
    clip_gradients,
    cross_entropy,
    gelu,
    gelu_tanh,
    global_norm,
    relu,
    relu2,
    silu,
    softcap,
    softmax,
    token_cross_entropy,
)
from parity.oracle.gradients import Weights, gradient
from parity.oracle.layers import ACTIVATIONS, GATES, embedding, feed_forward, layernorm, linear, rmsnorm
from parity.oracle.model import (
    make_drop,
    sinusoids,
    submodule,
    transformer_block,
    transformer_lm,
)
from parity.oracle.optimizer import SGD, AdamW, Muon, cosine_schedule, newton_schulz, orthogonalize
from parity.oracle.replacing import function, replaced
from parity.oracle.sequences import encoder_decoder, encoder_stack, prefix_decoder, transformer_encoder

__all__ = [
    "ACTIVATIONS",
    "GATES",
    "SGD",
    "AdamW",
    "Muon",
    "Weights",
    "attention_scores",
    "causal_mask",
    "clip_gradients",
    "cosine_schedule",
    "cross_entropy",
    "embedding",
    "encoder_decoder",
    "encoder_stack",
    "feed_forward",
    "function",
    "gelu",
    "gelu_tanh",
    "global_norm",
    "gradient",
    "layernorm",
    "linear",
    "make_drop",
    "multihead_self_attention",
    "newton_schulz",
    "orthogonalize",
    "prefix_decoder",
    "relu",
    "relu2",
    "replaced",
    "rmsnorm",
    "rope",
    "scaled_dot_product_attention",
    "silu",
    "sinusoids",
    "softcap",
    "softmax",
    "submodule",
    "token_cross_entropy",
    "transformer_block",
    "transformer_encoder",
    "transformer_lm",
    "window_mask",
]
