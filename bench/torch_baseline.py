"""The torch.nn baseline: the same model and step as a user of torch would write them.

It uses nn.Linear, nn.RMSNorm, scaled_dot_product_attention, cross_entropy, fused optim.AdamW, torch's clipping, and
autocast for bfloat16.
"""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contenders import (
    Contender,
    Weights,
    Work,
    allow_tf32,
    epsilon_after_correction,
    require_compiler,
    torch_memory,
)
from lm.config import ModelConfig
from lm.init import rope_tables


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.d_model
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.v_proj, self.output_proj = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        projected: Tensor = self.output_proj(out.transpose(1, 2).flatten(2))
        return projected


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs by RoPE, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F_ = config.d_model, config.d_ff
        assert F_ is not None
        self.w1, self.w2 = nn.Linear(D, F_, bias=False), nn.Linear(F_, D, bias=False)
        self.w3 = nn.Linear(D, F_, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln1, self.attn = nn.RMSNorm(config.d_model, eps=1e-5), Attention(config)
        self.ln2, self.ffn = nn.RMSNorm(config.d_model, eps=1e-5), FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x), cos, sin)
        out: Tensor = x + self.ffn(self.ln2(x))
        return out


class Model(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_final = nn.RMSNorm(config.d_model, eps=1e-5)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        assert config.d_head is not None
        tables = rope_tables(config.rope_theta, config.d_head, np.arange(config.context_length))
        for name, table in zip(("cos", "sin"), tables, strict=True):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.token_embeddings(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.lm_head(self.ln_final(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def eager(work: Work, weights: Weights) -> Contender:
    """The baseline in eager mode."""
    return _make(work, weights, compiled=False)


def compiled(work: Work, weights: Weights) -> Contender:
    """The baseline with its model and loss under torch.compile."""
    require_compiler(work.device)
    return _make(work, weights, compiled=True)


def _make(work: Work, weights: Weights, compiled: bool) -> Contender:
    torch.set_num_threads(work.threads)
    torch.set_float32_matmul_precision("highest")
    if work.dtype == "tf32":
        allow_tf32()
    o = work.config.optimizer
    model = Model(work.config.model)
    model.load_state_dict({name: torch.from_numpy(weight.copy()) for name, weight in weights.items()})
    model.to(work.device)
    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        o.learning_rate,
        (o.beta1, o.beta2),
        epsilon_after_correction(o),
        o.weight_decay,
        fused=True,
    )
    mixed = (
        torch.autocast(torch.device(work.device).type, torch.bfloat16)
        if work.dtype == "bfloat16"
        else contextlib.nullcontext()
    )

    def step(inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        ids, target_ids = (torch.tensor(a, dtype=torch.long, device=work.device) for a in (inputs, targets))
        optimizer.zero_grad()
        with mixed:
            loss = model(ids, target_ids)
        loss.backward()
        # Take the norm of each row first: on a CPU, torch's norm of millions of float32 numbers is off by 5e-4.
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([torch.linalg.vector_norm(g, dim=-1) for g in gradients])
        nn.utils.clip_grads_with_norm_(model.parameters(), o.max_grad_norm, norm)
        optimizer.step()
        return loss.item(), norm.item()

    def read(name: str) -> np.ndarray:
        return model.get_parameter(name).detach().cpu().numpy().copy()

    return step, read, torch_memory(work)
