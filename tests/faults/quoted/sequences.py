"""Encoders, encoder-decoders, and what they are trained on."""

from tests.faults.quoted.fault import ENCODER, MASKING, PAIRS, PREFIXED, fault

FAULTS = (
    # Encoders and encoder-decoders
    fault(
        "an encoder attends to the first padding",
        "torch_impl/attention.py",
        "valid_BT = torch.arange(T, device=num_tokens_B.device) < num_tokens_B",
        "valid_BT = torch.arange(T, device=num_tokens_B.device) <= num_tokens_B",
        ENCODER,
    ),
    fault(
        "an encoder attends to what came before only",
        "jax_impl/attention.py",
        "(len(num_tokens_B), 1, T, T))",
        "(len(num_tokens_B), 1, T, T)) & causal_mask(T)[None, None]",
        ENCODER,
    ),
    fault(
        "a prefix's padding is attended to",
        "jax_impl/attention.py",
        "(place_1S < num_tokens_B[:, None]) | (place_1S >= P)",
        "(place_1S < P + 0 * num_tokens_B[:, None]) | (place_1S >= P)",
        PREFIXED,
    ),
    fault(
        "the hidden cache attends to what came before only",
        "torch_impl/attention.py",
        "(causal_mask(P + T, num_tokens_B.device) | (place_S < P))",
        "(causal_mask(P + T, num_tokens_B.device) | ((place_S < P) & (place_S[:, None] >= P)))",
        PREFIXED,
    ),
    fault(
        "the hidden cache attends to the tokens",
        "jax_impl/attention.py",
        "(causal_mask(P + T) | (place_1S < P))",
        "(causal_mask(P + T) | (place_1S < P) | (place_1S.T < P))",
        PREFIXED,
    ),
    fault(
        "RoPE goes on behind a prefix's padding",
        "torch_impl/model.py",
        "place_S - P + num_tokens_B[:, None]",
        "place_S + 0 * num_tokens_B[:, None]",
        PREFIXED,
    ),
    fault(
        "what the hidden cache's padding holds reaches gradients",
        "jax_impl/model.py",
        "cache_BPD = jnp.where(jnp.broadcast_to(is_token_BP1, hidden_BPD.shape), hidden_BPD, 0)",
        "cache_BPD = hidden_BPD",
        PREFIXED,
    ),
    fault(
        "a decoded token takes a slot of the prefix",
        "torch_impl/backend.py",
        "= P + positions_B % cache.slots",
        "= positions_B % cache.slots",
        PREFIXED,
    ),
    fault(
        "RoPE forgets the prefix while decoding",
        "jax_impl/backend.py",
        'place_B1 = position_B1 + num_tokens_B1 if m.position == "rope" else position_B1',
        "place_B1 = position_B1",
        PREFIXED,
    ),
    fault(
        "decoding attends to a prefix's padding",
        "jax_impl/backend.py",
        "jnp.arange(P)[None, :] < num_tokens_B1",
        "jnp.arange(P)[None, :] < P + 0 * num_tokens_B1",
        PREFIXED,
    ),
    # Pairs and masks
    fault(
        "a target is predicted from itself",
        "lm/data/pairs.py",
        "targets[row, : len(target) - 1] = target[1:]",
        "targets[row, : len(target) - 1] = target[:-1]",
        PAIRS,
    ),
    fault(
        "a target's padding counts",
        "lm/data/pairs.py",
        "np.arange(model.context_length) < num_targets[:, None]",
        "np.arange(model.context_length) <= num_targets[:, None]",
        PAIRS,
    ),
    fault(
        "pairs that are held out are trained on",
        "lm/corpora/pair_tasks.py",
        "if is_held_out(*pair) == held_out",
        "if is_held_out(*pair) or not held_out",
        PAIRS,
    ),
    fault(
        "no chosen token stays as it is",
        "lm/data/masking.py",
        "what_NT >= 0.9",
        "what_NT >= 0.8",
        MASKING,
    ),
    fault(
        "padding is chosen to be masked",
        "lm/data/masking.py",
        "np.arange(token_ids_NT.shape[1]) < num_tokens_N[:, None], which_NT, 1.0",
        "np.arange(token_ids_NT.shape[1]) < num_tokens_N[:, None], which_NT, 0.5",
        MASKING,
    ),
    fault(
        "evaluation masks by the seed",
        "lm/data/masking.py",
        'philox(0, "mask evaluation"',
        'philox(config.seed, "mask evaluation"',
        MASKING,
    ),
)
