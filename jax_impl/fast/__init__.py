"""Faster forms of the formulas: the same numbers within the budgets of tests/parity, all behind one switch."""

from jax_impl.fast.attention import grouped_query_attention, scaled_dot_product_attention
from jax_impl.fast.gate import gelu_gate, silu_gate
from jax_impl.fast.loss import token_cross_entropy
from jax_impl.fast.product import project
from jax_impl.fast.programs import decoding_options, keep_programs, training_options
from jax_impl.fast.shapes import few_lengths, few_rows, padded
from jax_impl.fast.switch import path, use, used

__all__ = [
    "decoding_options",
    "few_lengths",
    "few_rows",
    "gelu_gate",
    "grouped_query_attention",
    "keep_programs",
    "padded",
    "path",
    "project",
    "scaled_dot_product_attention",
    "silu_gate",
    "token_cross_entropy",
    "training_options",
    "use",
    "used",
]
