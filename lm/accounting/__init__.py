"""What training costs, counted from the config."""

import resource
import sys

from lm.config import ModelConfig


def train_flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of forward and backward for each token of a full window.

    6 for each weight of a matrix product (2 forward, 4 backward; embeddings are looked up, not multiplied), and
    12 num_layers * context_length * d_model for attention's scores and sums, causal or not: the convention of
    PaLM (Chowdhery et al., 2022, appendix B), by which model FLOPs utilisation (MFU) is compared.

    >>> train_flops_per_token(ModelConfig(100, 16, 8, 1, 1, d_ff=24))
    12864
    """
    D, F = config.d_model, config.d_ff
    assert F is not None  # filled in by ModelConfig
    weights = config.num_layers * (4 * D * D + 3 * D * F) + config.vocab_size * D
    return 6 * weights + 12 * config.num_layers * config.context_length * D


def peak_memory() -> int:
    """The most bytes of main memory that this process has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
