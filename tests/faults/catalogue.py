"""Faults that the tests must catch: each one small substitution in the code of a backend, or in what both share."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`old`, found once in `file`, becomes `new`; then some test in `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _fault(name: str, file: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, file, old, new, tests)


P = "tests/parity/test_"
SOFTMAX, SILU, LOSS, CLIP = f"{P}softmax.py", f"{P}silu.py", f"{P}cross_entropy.py", f"{P}clip_gradients.py"
LINEAR, EMBEDDING, NORM, SWIGLU = (f"{P}{name}.py" for name in ("linear", "embedding", "rmsnorm", "swiglu"))
ROPE, ATTENTION, HEADS = f"{P}rope.py", f"{P}attention.py", f"{P}multihead_self_attention.py"
BLOCK, MODEL, OPTIMIZER = f"{P}transformer_block.py", f"{P}transformer_lm.py", f"{P}optimizer.py"
SCHEDULE, STEP, RUN = f"{P}schedule.py", f"{P}train_step.py", f"{P}training_run.py"
DATA = "tests/lm/test_data.py"

FAULTS = (
    # Functions
    _fault(
        "softmax sums over the wrong axis",
        "torch_impl/functional.py",
        "exp / exp.sum(dim, keepdim=True)",
        "exp / exp.sum(0, keepdim=True)",
        SOFTMAX,
    ),
    _fault(
        "softmax does not subtract the maximum",
        "jax_impl/functional.py",
        "jnp.exp(x32 - jax.lax.stop_gradient(x32.max(axis, keepdims=True)))",
        "jnp.exp(x32)",
        SOFTMAX,
    ),
    _fault(
        "softmax in the type it is given",
        "torch_impl/functional.py",
        "x32 = at_least_float32(x)\n    exp",
        "x32 = x\n    exp",
        SOFTMAX,
    ),
    _fault(
        "silu with GELU's 1.702",
        "torch_impl/functional.py",
        "torch.sigmoid(x32)",
        "torch.sigmoid(1.702 * x32)",
        SILU,
    ),
    _fault(
        "silu loses a term of its gradient",
        "jax_impl/functional.py",
        "x32 * jax.lax.logistic(x32)",
        "x32 * jax.lax.stop_gradient(jax.lax.logistic(x32))",
        SILU,
    ),
    _fault(
        "cross-entropy sums instead of averaging",
        "torch_impl/functional.py",
        "token_cross_entropy(logits, targets).mean()",
        "token_cross_entropy(logits, targets).sum()",
        LOSS,
    ),
    _fault(
        "cross-entropy forgets the maximum it subtracted",
        "jax_impl/functional.py",
        "jnp.take_along_axis(shifted,",
        "jnp.take_along_axis(logits,",
        LOSS,
    ),
    _fault(
        "cross-entropy of bfloat16 logits in bfloat16",
        "jax_impl/functional.py",
        "logits = at_least_float32(logits)",
        "logits = logits",
        LOSS,
    ),
    _fault(
        "cross-entropy of the next id",
        "torch_impl/functional.py",
        "targets[..., None].long()",
        "(targets[..., None].long() + 1) % logits.shape[-1]",
        LOSS,
    ),
    _fault(
        "the norm adds norms, not squares",
        "torch_impl/functional.py",
        "torch.linalg.vector_norm(torch.stack(norms))",
        "torch.stack(norms).sum()",
        CLIP,
    ),
    _fault(
        "the norm of bfloat16 gradients in bfloat16",
        "jax_impl/functional.py",
        "jnp.sum(jnp.square(at_least_float32(x)))",
        "jnp.sum(jnp.square(x)).astype(np.float32)",
        CLIP,
    ),
    _fault(
        "clipping scales small gradients up",
        "torch_impl/functional.py",
        "torch.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)",
        "max_norm / (norm + 1e-6)",
        CLIP,
    ),
    _fault(
        "clipping acts at the limit",
        "jax_impl/functional.py",
        "jnp.where(norm > max_norm,",
        "jnp.where(norm >= max_norm,",
        CLIP,
    ),
    _fault(
        "clipping without its 1e-6",
        "jax_impl/functional.py",
        "max_norm / (norm + 1e-6), 1.0",
        "max_norm / norm, 1.0",
        CLIP,
    ),
    # Layers
    _fault(
        "linear reads its weight transposed",
        "torch_impl/layers.py",
        "x @ self.weight.to(x.dtype).T",
        "x @ self.weight.to(x.dtype).reshape(self.weight.shape[::-1])",
        LINEAR,
    ),
    _fault(
        "linear passes its weight no gradient",
        "jax_impl/layers.py",
        'x @ params["weight"].astype(x.dtype).T',
        'x @ lax.stop_gradient(params["weight"]).astype(x.dtype).T',
        LINEAR,
    ),
    _fault(
        "embedding is off by one row",
        "torch_impl/layers.py",
        "self.weight[token_ids]",
        "self.weight[token_ids - 1]",
        EMBEDDING,
    ),
    _fault(
        "embedding drops the gradients of repeated ids",
        "jax_impl/layers.py",
        'return params["weight"][token_ids]',
        'weight = params["weight"]\n'
        "    once = jnp.zeros_like(weight).at[token_ids].set(jnp.ones((), weight.dtype))\n"
        "    return lax.stop_gradient(weight[token_ids]) + (once * (weight - lax.stop_gradient(weight)))[token_ids]"
        " / jnp.sum(token_ids[..., None] == token_ids[..., None]).astype(weight.dtype)",
        EMBEDDING,
    ),
    _fault(
        "epsilon outside the root",
        "torch_impl/layers.py",
        "torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)",
        "1 / (x32.square().mean(-1, keepdim=True).sqrt() + self.eps)",
        NORM,
    ),
    _fault(
        "the norm subtracts the mean",
        "jax_impl/layers.py",
        "jnp.square(x32).mean(-1, keepdims=True)",
        "x32.var(-1, keepdims=True)",
        NORM,
    ),
    _fault(
        "the norm's gradient takes the root for a constant",
        "torch_impl/layers.py",
        "(x32 * inverse_rms * self.weight)",
        "(x32 * inverse_rms.detach() * self.weight)",
        NORM,
    ),
    _fault(
        "another default of epsilon",
        "jax_impl/layers.py",
        "eps: float = 1e-5",
        "eps: float = 1e-6",
        BLOCK,
    ),
    _fault(
        "the norm squares in bfloat16",
        "jax_impl/layers.py",
        "x32 = at_least_float32(x)",
        "x32 = x",
        NORM,
    ),
    _fault(
        "gate and value change places",
        "torch_impl/layers.py",
        "silu(self.w1(x)) * self.w3(x)",
        "silu(self.w3(x)) * self.w1(x)",
        SWIGLU,
    ),
    _fault(
        "SwiGLU becomes GLU",
        "jax_impl/layers.py",
        'silu(linear(params["w1"], x)) *',
        'lax.logistic(linear(params["w1"], x)) *',
        SWIGLU,
    ),
    # Attention
    _fault(
        "RoPE turns the other way",
        "torch_impl/attention.py",
        "(even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP)",
        "(even_TP * cos_TP + odd_TP * sin_TP, odd_TP * cos_TP - even_TP * sin_TP)",
        ROPE,
    ),
    _fault(
        "RoPE rotates halves",
        "jax_impl/attention.py",
        "reshape(*x_TK.shape[:-1], -1, 2), axis=-1)",
        "reshape(*x_TK.shape[:-1], 2, -1), axis=-2)",
        ROPE,
    ),
    _fault(
        "RoPE's angles in float32",
        "lm/init.py",
        "angles = positions[..., None].astype(np.float64) * frequencies",
        "angles = positions[..., None].astype(np.float32) * frequencies.astype(np.float32)",
        ROPE,
    ),
    _fault(
        "RoPE's wavelengths end too soon",
        "lm/init.py",
        "(-np.arange(0, d_head, 2) / d_head)",
        "(-np.arange(0, d_head, 2) / max(d_head - 2, 1))",
        ROPE,
    ),
    _fault(
        "RoPE in bfloat16",
        "torch_impl/attention.py",
        "at_least_float32(x_TK).unflatten(-1, (-1, 2)).unbind(-1)",
        "x_TK.unflatten(-1, (-1, 2)).unbind(-1)\n    cos_TP, sin_TP = cos_TP.to(x_TK.dtype), sin_TP.to(x_TK.dtype)",
        ROPE,
    ),
    _fault(
        "scores are not scaled",
        "torch_impl/attention.py",
        "at_least_float32(K).mT * Q.shape[-1] ** -0.5",
        "at_least_float32(K).mT",
        ATTENTION,
    ),
    _fault(
        "scores are scaled by the size of the values",
        "jax_impl/attention.py",
        "* Q.shape[-1] ** -0.5",
        "* V.shape[-1] ** -0.5",
        ATTENTION,
    ),
    _fault(
        "scores are rounded to bfloat16",
        "torch_impl/attention.py",
        "at_least_float32(Q) @ at_least_float32(K).mT",
        "at_least_float32(Q @ K.mT)",
        ATTENTION,
    ),
    _fault(
        "the mask is inverted",
        "jax_impl/attention.py",
        "jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)",
        "jnp.where(jnp.broadcast_to(mask, scores.shape), -jnp.inf, scores)",
        ATTENTION,
    ),
    _fault(
        "weights sum to one over the queries",
        "torch_impl/attention.py",
        "total = exp.sum(-1, keepdim=True)",
        "total = exp.sum(-2, keepdim=True)",
        ATTENTION,
    ),
    _fault(
        "a query that sees nothing divides by zero",
        "torch_impl/attention.py",
        "exp / torch.where(total == 0.0, 1.0, total)",
        "exp / total",
        ATTENTION,
    ),
    _fault(
        "a query that sees nothing subtracts infinity",
        "jax_impl/attention.py",
        "jnp.where(largest == -jnp.inf, 0.0, largest)",
        "largest",
        ATTENTION,
    ),
    _fault(
        "NaN in unseen keys and values leaks",
        "jax_impl/attention.py",
        "(jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))",
        "(x for x in (K, V))",
        ATTENTION,
    ),
    _fault(
        "the mask adds -1e9",
        "torch_impl/attention.py",
        "scores = torch.where(mask, scores, -torch.inf)",
        "scores = scores + torch.where(mask, 0.0, -1e9)",
        ATTENTION,
    ),
    _fault(
        "a token does not see itself",
        "torch_impl/attention.py",
        "device=device).tril()",
        "device=device).tril(-1)",
        ATTENTION,
    ),
    _fault(
        "tokens see the future",
        "jax_impl/attention.py",
        "jnp.tril(jnp.ones((T, T), dtype=bool))",
        "jnp.triu(jnp.ones((T, T), dtype=bool))",
        ATTENTION,
    ),
    _fault(
        "attention passes its maximum a gradient twice",
        "jax_impl/attention.py",
        "weights = exp / jnp.where(total == 0.0, 1.0, total)",
        "weights = exp / jax.lax.stop_gradient(jnp.where(total == 0.0, 1.0, total))",
        ATTENTION,
    ),
    _fault(
        "heads interleave in the projections",
        "torch_impl/attention.py",
        "projection(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)",
        "projection(x_BTD).unflatten(-1, (-1, self.num_heads)).movedim(-1, -3)",
        HEADS,
    ),
    _fault(
        "keys are not turned",
        "jax_impl/attention.py",
        "rope(q_BHTK, tables), rope(k_BHTK, tables)",
        "rope(q_BHTK, tables), k_BHTK",
        HEADS,
    ),
    _fault(
        "heads are joined before time and heads change places",
        "jax_impl/attention.py",
        "out_BHTK.swapaxes(-2, -3).reshape(x_BTD.shape)",
        "out_BHTK.reshape(x_BTD.shape)",
        HEADS,
    ),
    _fault(
        "the cache writes keys as values",
        "jax_impl/attention.py",
        "self.v_BHSK.at[rows_B1, :, slots_BT].set(v_BHTK.swapaxes(1, 2))",
        "self.v_BHSK.at[rows_B1, :, slots_BT].set(k_BHTK.swapaxes(1, 2))",
        HEADS,
    ),
    _fault(
        "the cache is off by one slot",
        "torch_impl/attention.py",
        "index = slots_BT[:, None, :, None]",
        "index = ((slots_BT + 1) % self.k_BHSK.shape[2])[:, None, :, None]",
        HEADS,
    ),
    # Model
    _fault(
        "a residual connection is lost",
        "torch_impl/model.py",
        "return x_BTD + self.ffn(self.ln2(x_BTD))",
        "return self.ffn(self.ln2(x_BTD))",
        BLOCK,
    ),
    _fault(
        "the feed-forward layer reads the stream unnormalised",
        "jax_impl/model.py",
        'rmsnorm(params["ln2"], x_BTD)',
        "x_BTD",
        BLOCK,
    ),
    _fault(
        "the first norm serves twice",
        "torch_impl/model.py",
        "self.ffn(self.ln2(x_BTD))",
        "self.ffn(self.ln1(x_BTD))",
        BLOCK,
    ),
    _fault(
        "the final norm is left out",
        "jax_impl/model.py",
        'return rmsnorm(params["ln_final"], x_BTD), written',
        "return x_BTD, written",
        MODEL,
    ),
    _fault(
        "the last layer is left out",
        "jax_impl/model.py",
        'enumerate(params["layers"])',
        'enumerate(params["layers"][:-1])',
        MODEL,
    ),
    _fault(
        "layers share one cache",
        "torch_impl/model.py",
        "caches[i] if caches else None",
        "caches[0] if caches else None",
        MODEL,
    ),
    _fault(
        "decoding is off by one position",
        "torch_impl/backend.py",
        "tables = _tables(config, positions_B[:, None, None])",
        "tables = _tables(config, positions_B[:, None, None] + 1)",
        MODEL,
    ),
    _fault(
        "prefill answers for the token before the last",
        "jax_impl/backend.py",
        "lengths_B - 1]",
        "lengths_B - 2]",
        MODEL,
    ),
    # Optimizers and schedule
    _fault(
        "epsilon after bias correction",
        "torch_impl/optimizer.py",
        "v.sqrt().add_(eps)",
        "v.sqrt().add_(eps * math.sqrt(1 - beta2**t))",
        OPTIMIZER,
    ),
    _fault(
        "decay by the bias-corrected rate",
        "jax_impl/optimizer.py",
        "p - rate * weight_decay * p",
        "p - step_size * weight_decay * p",
        OPTIMIZER,
    ),
    _fault(
        "decay before the update",
        "torch_impl/optimizer.py",
        "p.addcdiv_(m, v.sqrt().add_(eps), value=-step_size)\n",
        'p.sub_(p, alpha=lr * group["weight_decay"])\n'
        "                p.addcdiv_(m, v.sqrt().add_(eps), value=-step_size)\n                continue\n",
        OPTIMIZER,
    ),
    _fault(
        "decay without the learning rate",
        "torch_impl/optimizer.py",
        'alpha=lr * group["weight_decay"]',
        'alpha=1e-3 * group["weight_decay"]',
        OPTIMIZER,
    ),
    _fault(
        "stale bias correction",
        "jax_impl/optimizer.py",
        "step.astype(p.dtype)\n        m =",
        "jnp.maximum(state.step, 1).astype(p.dtype)\n        m =",
        OPTIMIZER,
    ),
    _fault(
        "bias correction by cancellation",
        "jax_impl/optimizer.py",
        "-jnp.expm1(t * math.log(beta))",
        "1 - beta**t",
        OPTIMIZER,
    ),
    _fault(
        "the second moment decays like the first",
        "torch_impl/optimizer.py",
        "v.mul_(beta2)",
        "v.mul_(beta1)",
        OPTIMIZER,
    ),
    _fault(
        "the first moment is a sum",
        "jax_impl/optimizer.py",
        "beta1 * m + (1 - beta1) * g",
        "beta1 * m + g",
        OPTIMIZER,
    ),
    _fault(
        "Nesterov's step",
        "torch_impl/optimizer.py",
        "p.addcdiv_(m, ",
        "p.addcdiv_(beta1 * m + (1 - beta1) * p.grad, ",
        OPTIMIZER,
    ),
    _fault(
        "SGD counts steps from one",
        "torch_impl/optimizer.py",
        "math.sqrt(t + 1)",
        "math.sqrt(t + 2)",
        OPTIMIZER,
    ),
    _fault(
        "SGD divides by steps, not their root",
        "jax_impl/optimizer.py",
        "jnp.sqrt(state.step.astype(p.dtype) + 1)",
        "(state.step.astype(p.dtype) + 1)",
        OPTIMIZER,
    ),
    _fault(
        "warm-up is one step ahead",
        "lm/schedule.py",
        "return step / warmup_steps",
        "return (step + 1) / warmup_steps",
        SCHEDULE,
    ),
    _fault(
        "the cosine counts the warm-up",
        "lm/schedule.py",
        "progress = (step - warmup_steps) /",
        "progress = step /",
        SCHEDULE,
    ),
    # Steps, runs, checkpoints
    _fault(
        "gradients of the last step stay",
        "torch_impl/backend.py",
        "state.optimizer.zero_grad()",
        "pass",
        RUN,
    ),
    _fault(
        "the step forgets to clip",
        "jax_impl/backend.py",
        "adamw_update(clipped, optimizer",
        "adamw_update(gradients, optimizer",
        RUN,
    ),
    _fault(
        "each micro-batch counts as a whole batch",
        "torch_impl/backend.py",
        "/ batch.num_targets\n            loss.backward()",
        "/ inputs_BT.numel()\n            loss.backward()",
        RUN,
    ),
    _fault(
        "the loop's learning rate is one step late",
        "lm/train.py",
        "                step + 1,\n                optimizer.learning_rate,",
        "                step,\n                optimizer.learning_rate,",
        RUN,
    ),
    _fault(
        "the learning rate stays the first one's",
        "torch_impl/backend.py",
        'state.optimizer.param_groups[0]["lr"] = lr',
        'state.optimizer.param_groups[0].setdefault("lr", lr)',
        RUN,
    ),
    _fault(
        "batches are shifted by one",
        "lm/data.py",
        "return Batch(windows[..., :-1], windows[..., 1:])",
        "return Batch(windows[..., :-1], windows[..., :-1])",
        DATA,
    ),
    _fault(
        "the last token is never drawn",
        "lm/data.py",
        "integers(bits, len(tokens) - context_length)",
        "integers(bits, len(tokens) - context_length - 1)",
        DATA,
    ),
    _fault(
        "a checkpoint forgets v",
        "torch_impl/backend.py",
        "adamw.get(moment, torch.zeros_like(p))",
        'adamw.get("m", torch.zeros_like(p)) * (moment == "m")',
        RUN,
    ),
    _fault(
        "a checkpoint forgets the step",
        "torch_impl/backend.py",
        'adamw.state[p]["step"] = int(array)',
        'adamw.state[p]["step"] = 0',
        RUN,
    ),
    _fault(
        "a new learning rate compiles anew",
        "jax_impl/backend.py",
        "@partial(jax.jit, donate_argnums=0)",
        "@partial(jax.jit, donate_argnums=0, static_argnums=3)",
        STEP,
    ),
    _fault(
        "the first id out of range passes",
        "lm/data.py",
        "high >= vocab_size",
        "high > vocab_size",
        STEP,
    ),
    _fault(
        "XLA multiplies as it likes",
        "jax_impl/backend.py",
        '"jax_default_matmul_precision", "highest"',
        '"jax_default_matmul_precision", "default"',
        STEP,
    ),
)
