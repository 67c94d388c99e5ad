# mypy: ignore-errors
"""Functions that fail in many ways."""

import os
import sys
import time

import numpy as np

print("printing at import")
HELD = []


def softmax(x, axis):
    print("last words", flush=True)
    os._exit(3)


def silu(x):
    time.sleep(1000)


def gelu(x):
    while True:
        HELD.append(np.ones(10_000_000))


def gelu_tanh(x):
    print("printing in a call", file=sys.stderr)
    sys.exit("leaving")


def cross_entropy(logits, targets):
    return "a text"


def linear(x, weight):
    return (x @ weight.T)[None]


def embedding(weight, token_ids):
    return weight[token_ids], None


def rmsnorm(x, weight, eps):
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * weight


def layernorm(x, weight, bias, eps):
    return x * np.nan


def swiglu(x, w1, w2, w3):
    return np.random.default_rng().standard_normal(x.shape)


def feed_forward(x, w1, w2):
    raise NotImplementedError


def rope(x, positions, theta):
    raise ValueError("this one\nalways fails")


def scaled_dot_product_attention(Q, K, V, mask):
    return None


def multihead_self_attention(x, weights):
    return x


def transformer_block(x, weights, num_heads, theta):
    return transformer_block(x, weights, num_heads, theta)


def cosine_schedule(step, highest, lowest, warmup_steps, cosine_steps):
    if step < warmup_steps:
        return highest * step / warmup_steps
    share = min(1, (step - warmup_steps) / (cosine_steps - warmup_steps))
    return lowest + (highest - lowest) * (1 + np.cos(np.pi * share)) / 2
