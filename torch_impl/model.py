"""The Transformer: blocks of attention and feed-forward on one residual stream."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lm.config import ModelConfig
from lm.init import rope_tables
from torch_impl.attention import LayerCache, MultiHeadSelfAttention, Rope, causal_mask
from torch_impl.layers import Embedding, Linear, RMSNorm, SwiGLU


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): pre-norm (Xiong et al., 2020, figure 1b)."""

    def __init__(
        self, config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.ln1 = RMSNorm(config.d_model, device=device, dtype=dtype)
        self.attn = MultiHeadSelfAttention(config.d_model, config.num_heads, device, dtype)
        self.ln2 = RMSNorm(config.d_model, device=device, dtype=dtype)
        self.ffn = SwiGLU(config.d_model, config.d_ff, device, dtype)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "*M T S"],
        tables: Rope,
        cache: LayerCache | None = None,
        slots_BT: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x_BTD = x_BTD + self.attn(self.ln1(x_BTD), mask, tables, cache, slots_BT)
        return x_BTD + self.ffn(self.ln2(x_BTD))


class TransformerLM(nn.Module):
    """Token ids to logits of the next token.

    Args:
        compute_dtype: Type of the activations; the weights' own if not given.
    """

    cos: Float[Tensor, "T P"]
    sin: Float[Tensor, "T P"]

    def __init__(
        self,
        config: ModelConfig,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device, dtype)
        self.layers = nn.ModuleList(TransformerBlock(config, device, dtype) for _ in range(config.num_layers))
        self.ln_final = RMSNorm(config.d_model, device=device, dtype=dtype)
        self.lm_head = Linear(config.d_model, config.vocab_size, device, dtype)
        self.compute_dtype = compute_dtype or self.lm_head.weight.dtype
        for name, table in zip(
            ("cos", "sin"),
            rope_tables(config.rope_theta, config.d_head, np.arange(config.context_length)),
            strict=True,
        ):
            table_TP = torch.tensor(table, device=device, dtype=self.lm_head.weight.dtype)
            self.register_buffer(name, table_TP, persistent=False)

    def hidden_states(
        self,
        token_ids_BT: Int[Tensor, "B T"],
        mask: Bool[Tensor, "*M T S"],
        tables: Rope,
        caches: list[LayerCache] | None = None,
        slots_BT: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after the last block, normalised. Caches, one a layer, are written in place."""
        x_BTD = self.token_embeddings(token_ids_BT).to(self.compute_dtype)
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, mask, tables, caches[i] if caches else None, slots_BT)
        return self.ln_final(x_BTD)

    def forward(self, token_ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        T = token_ids_BT.shape[1]
        mask = causal_mask(T, token_ids_BT.device)
        return self.lm_head(self.hidden_states(token_ids_BT, mask, (self.cos[:T], self.sin[:T])))
