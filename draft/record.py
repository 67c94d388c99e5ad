"""Record losses, hashes of weights after 5 steps, prefill + decode logits. usage: record.py OUT.npz CHOICES.json"""
import hashlib, json, os, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
sys.path.insert(0, os.getcwd())
from lm.backend import load
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.token_files import Batch
import inspect

out, choices_file = sys.argv[1], Path(sys.argv[2])
only = sys.argv[3:]
M = ModelConfig(300, 48, 64, 2, 4)
BIG = ModelConfig(1000, 128, 128, 2, 4)
C = {
 "default": TrainConfig(M, batch_size=6),
 "big": TrainConfig(BIG, batch_size=16),
 "bf16": TrainConfig(M, batch_size=6, compute_dtype="bfloat16"),
 "bf16big": TrainConfig(BIG, batch_size=8, compute_dtype="bfloat16"),
 "f64": TrainConfig(M, batch_size=6, compute_dtype="float64"),
 "layernorm_post": TrainConfig(replace(M, norm="layernorm", norm_position="post", position="learned", ffn="gelu", d_ff=256, bias=True, tie_embeddings=True), OptimizerConfig(decay="matrices"), batch_size=6),
 "parallel": TrainConfig(replace(M, block="parallel", position="sinusoidal", ffn="relu", d_ff=256), batch_size=6),
 "nonorm": TrainConfig(replace(M, norm="none", position="none", ffn="silu", d_ff=256), batch_size=6),
 "gqa": TrainConfig(replace(M, num_kv_heads=2, qk_norm=True), batch_size=6),
 "dropout": TrainConfig(replace(M, embedding_dropout=.1, attention_dropout=.2, residual_dropout=.3), batch_size=6),
 "remat": TrainConfig(replace(M, remat="block", residual_dropout=.1), batch_size=6),
 "accum": TrainConfig(M, batch_size=6, grad_accumulation=2),
 "encoder": TrainConfig(replace(M, architecture="encoder"), batch_size=6),
 "encdec": TrainConfig(replace(M, architecture="encoder_decoder", prefix_length=20, num_kv_heads=2), batch_size=6),
 "encdec_learned": TrainConfig(replace(M, architecture="encoder_decoder", prefix_length=20, position="learned", residual_dropout=.1), batch_size=6),
}
res = {}
chosen = json.loads(choices_file.read_text()) if choices_file.exists() else {}
for name, config in C.items():
    if only and name not in only: continue
    backend = load("torch", config)
    backend.repeat(chosen)
    m = config.model
    state = backend.init_state(config, 0)
    step = backend.make_train_step(config)
    rng = np.random.default_rng(1)
    losses = []
    A, B, T = config.grad_accumulation, config.batch_size // config.grad_accumulation, m.context_length
    for i in range(5):
        ids = rng.integers(0, m.vocab_size, (A, B, T + 1)).astype(np.int32)
        kw = {}
        if m.architecture != "decoder":
            kw["num_tokens"] = rng.integers(3, (m.prefix_length or T) + 1, (A, B)).astype(np.int32)
        if m.architecture == "encoder":
            kw["loss_mask"] = (np.arange(T) < kw["num_tokens"][..., None]) & (rng.random((A, B, T)) < .3)
        if m.architecture == "encoder_decoder":
            kw["prefix"] = rng.integers(0, m.vocab_size, (A, B, m.prefix_length)).astype(np.int32)
        batch = Batch(ids[..., :-1].copy(), ids[..., 1:].copy(), **kw)
        state, metrics = step(state, batch, 1e-3)
        losses.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    res[name + "/losses"] = np.array(losses)
    h = hashlib.sha256()
    for key, x in sorted([*backend.read_weights(state), *backend.read_optimizer(state)]):
        h.update(key.encode()); h.update(np.ascontiguousarray(x).tobytes())
    res[name + "/hash"] = np.array(h.hexdigest())
    ev = backend.make_eval_step(config)(state, batch)
    res[name + "/eval"] = np.array(ev)
    if m.architecture != "encoder":
        ids = rng.integers(0, m.vocab_size, (3, T))
        for kind, lengths in (("uneven", np.array([5, 9, 12])), ("even", np.array([9, 9, 9])), ("one", np.array([7]))):
            b = len(lengths); got = []
            pre = (rng.integers(0, m.vocab_size, (b, m.prefix_length)), rng.integers(3, m.prefix_length + 1, b)) if m.prefix_length else (None, None)
            logits, cache = backend.make_prefill(config)(state, ids[:b, :lengths.max()], lengths, None, *pre)
            got.append(logits); decode = backend.make_decode_step(config)
            steps = T + 4 if m.position not in ("learned",) else T - lengths.max()
            for s in range(steps):
                logits, cache = decode(state, cache, ids[:b, s % T], lengths + s)
                got.append(logits)
            res[f"{name}/decode/{kind}"] = np.stack(got)
    print(name, losses[-1], flush=True)
if not choices_file.exists():
    choices_file.write_text(json.dumps(backend.choices()))
np.savez(out, **res)
