"""Faults in torch_impl/model.py."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import (
    BLOCK,
    CONVENTIONS,
    DOCUMENTS,
    EMBEDDING,
    FAMILY,
    FEED_FORWARD,
    MATRIX,
    MODEL,
    REMAT,
    SOFTCAP,
    WINDOWS,
    fault,
    inside,
)
from tests.faults.in_torch.modules import with_parts


@fault("the feed-forward layer takes SiLU for GELU", "torch_impl.model.FEED_FORWARDS", FEED_FORWARD)
def _(feed_forwards: Any) -> Any:
    return {**feed_forwards, "gelu": feed_forwards["silu"]}


@fault("a residual connection is lost", "torch_impl.model.TransformerBlock.forward", BLOCK)
def _(forward: Any) -> Any:
    def broken(self: Any, x_BTD: Tensor, context: Any, cache: Any = None) -> Tensor:
        from torch_impl.model import dropout, post_norm, pre_norm

        drop = partial(dropout, rate=self.config.residual_dropout, key=context.key)
        attended_BTD = self.attn(pre_norm(self.ln1, x_BTD, self.config), context, cache)
        x_BTD = post_norm(self.ln1, x_BTD + drop(attended_BTD, place="attn"), self.config)
        fed_BTD = self.ffn(pre_norm(self.ln2, x_BTD, self.config))
        return post_norm(self.ln2, drop(fed_BTD, place="ffn"), self.config)

    return broken


@fault("the first norm serves twice", "torch_impl.model.TransformerBlock.forward", BLOCK)
def _(forward: Any) -> Any:
    return lambda self, *args: forward(with_parts(self, ln2=self.ln1), *args)


@fault(
    "the parallel feed-forward layer reads the stream unnormalised",
    "torch_impl.model.ParallelBlock.forward",
    FAMILY,
)
def _(forward: Any) -> Any:
    return lambda self, x_BTD, *args: forward(with_parts(self, ffn=lambda _: self.ffn(x_BTD)), x_BTD, *args)


@fault("a parallel block is decoded without its norm", "torch_impl.model.ParallelBlock.forward", FAMILY)
def _(forward: Any) -> Any:
    def broken(self: Any, x_BTD: Tensor, context: Any, cache: Any = None) -> Tensor:
        if cache is None or x_BTD.shape[1] > 1:
            return forward(self, x_BTD, context, cache)
        return forward(with_parts(self, ffn=lambda _: self.ffn(x_BTD)), x_BTD, context, cache)

    return broken


@fault("remat recomputes nothing", "torch_impl.model.recomputed", REMAT)
def _(recomputed: Any) -> Any:
    return lambda block, *args: block(*args)


@fault("post-norm has a norm at its end", "torch_impl.model.Stack.__init__", FAMILY)
def _(init: Any) -> Any:
    def broken(
        self: Any, config: Any, length: int, compute_dtype: Any = None, device: Any = None, dtype: Any = None
    ) -> None:
        from torch_impl.model import make_norm

        init(self, config, length, compute_dtype, device, dtype)
        if config.norm_position == "post":
            self.ln_final = make_norm(config, device, dtype)

    return broken


@fault("decoding is off by one position", "torch_impl.generation.position_tables", MODEL)
def _(position_tables: Any) -> Any:
    return lambda config, positions, *args: position_tables(config, positions + 1, *args)


@fault("layers share one cache", "torch_impl.model.Stack.hidden_states", MODEL)
def _(hidden_states: Any) -> Any:
    def broken(self: Any, x_BTD: Tensor, contexts: Any, caches: Any = None) -> Tensor:
        return hidden_states(self, x_BTD, contexts, caches and caches[:1] * len(caches))

    return broken


@fault("torch's attention crosses the border of a document", "torch_impl.model.document_mask", DOCUMENTS)
def _(document_mask: Any) -> Any:
    return lambda starts_BT, *window: document_mask(torch.zeros_like(starts_BT), *window)


@fault("torch's positions run on after a document", "torch_impl.model.TransformerLM.forward", DOCUMENTS)
def _(forward: Any) -> Any:
    def broken(self: Any, token_ids_BT: Tensor, key: Any = None, starts_BT: Any = None) -> Tensor:
        if starts_BT is None:
            return forward(self, token_ids_BT, key)

        def with_starts(document_mask: Any) -> Any:
            return lambda _, *window: document_mask(starts_BT, *window)

        run = inside("torch_impl.model.document_mask", with_starts, forward)
        return run(self, token_ids_BT, key, torch.zeros_like(starts_BT))

    return broken


@fault("all of torch's layers slide", "torch_impl.model.TransformerLM.causal_contexts", WINDOWS)
def _(causal_contexts: Any) -> Any:
    def broken(*args: Any) -> Any:
        contexts = causal_contexts(*args)
        return dict.fromkeys(contexts, contexts.get("sliding", contexts.get("full")))

    return broken


@fault("torch's sliding layers have the theta of the full ones", "torch_impl.model.position_tables", WINDOWS)
def _(position_tables: Any) -> Any:
    return lambda config, positions, length, layer_type: position_tables(config, positions, length)


@fault("torch scales the embeddings of positions, too", "torch_impl.model.Stack.embed", EMBEDDING)
def _(embed: Any) -> Any:
    def broken(self: Any, token_ids_BT: Tensor, tables: Any, key: Any = None) -> Tensor:
        if self.config.scale_embeddings and self.config.position == "sinusoidal":
            tables = {kind: (table * self.config.d_model**0.5,) for kind, (table,) in tables.items()}
        return embed(self, token_ids_BT, tables, key)

    return broken


@fault("torch's final norm forgets the 1", "torch_impl.model.Stack.__init__", MATRIX)
def _(init: Any) -> Any:
    def broken(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.ln_final.offset = 0.0

    return broken


@fault("torch normalises a branch before it drops", "torch_impl.model.TransformerBlock.forward", MATRIX)
def _(forward: Any) -> Any:
    def broken(self: Any, *args: Any) -> Tensor:
        from torch_impl.model import branch_norm

        def normed(branch: Any, norm: Any, after: Any) -> Any:
            return lambda *x: branch_norm(norm, after, branch(*x), self.config)

        def leave_out(_: Any) -> Any:
            return lambda norm, after, x, config: x

        normed_first = with_parts(
            self,
            attn=normed(self.attn, self.ln1, self.ln1_after),
            ffn=normed(self.ffn, self.ln2, self.ln2_after),
        )
        return inside("torch_impl.model.branch_norm", leave_out, forward)(normed_first, *args)

    return broken


@fault("torch's sandwich takes its first norm twice", "torch_impl.model.branch_norm", CONVENTIONS)
def _(branch_norm: Any) -> Any:
    return lambda norm, after, x, config: branch_norm(norm, norm, x, config)


@fault("torch's logits have no cap", "torch_impl.model.TransformerLM.logits", SOFTCAP)
def _(logits: Any) -> Any:
    return inside("torch_impl.model.softcap", lambda _: lambda x, cap: x, logits)
