"""The other architectures on the same stack: encoder, decoder after a prefix, and both together."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lm.config import LayerType, ModelConfig
from torch_impl.attention import Context
from torch_impl.dtypes import Device, Dtype
from torch_impl.functional import DropoutKey
from torch_impl.masks import padding_mask, prefix_mask
from torch_impl.model import Stack, TransformerLM


def encode(
    stack: Stack,
    token_ids_BT: Int[Tensor, "B T"],
    num_tokens_B: Int[Tensor, " B"],
    key: DropoutKey | None = None,
) -> Float[Tensor, "B T D"]:
    """Return the hidden states of an encoder, whose sequences are padded to T."""
    T = token_ids_BT.shape[1]
    tables = stack.tables(T)
    rope: Any = tables["full"] if stack.config.position == "rope" else None
    context = Context(padding_mask(num_tokens_B, T), rope, key=key)
    return stack.hidden_states(stack.embed(token_ids_BT, tables, key), {"full": context})


class TransformerEncoder(TransformerLM):
    """Token ids to logits of the token at each place, from the tokens on both sides (Devlin et al., 2019)."""

    def forward(  # type: ignore[override]
        self,
        token_ids_BT: Int[Tensor, "B T"],
        num_tokens_B: Int[Tensor, " B"],
        key: DropoutKey | None = None,
    ) -> Float[Tensor, "B T V"]:
        return self.logits(encode(self, token_ids_BT, num_tokens_B, key))


def after_prefix(
    decoder: "PrefixDecoder",
    hidden_BPD: Float[Tensor, "B P D"],
    num_tokens_B: Int[Tensor, " B"],
    token_ids_BT: Int[Tensor, "B T"],
    key: DropoutKey | None = None,
) -> tuple[Float[Tensor, "B S D"], dict[LayerType, Context]]:
    """Return the stream before the first block, of a hidden prefix and the tokens after it, and the blocks' contexts.

    Added positions count the tokens from 0. RoPE's positions of the tokens continue from the prefix's end, so that
    padding counts nowhere.
    """
    (P, T), device = (hidden_BPD.shape[1], token_ids_BT.shape[1]), hidden_BPD.device
    is_token_BP1 = (torch.arange(P, device=device) < num_tokens_B[:, None])[..., None]
    x_BTD = decoder.embed(token_ids_BT, decoder.tables(T), key)
    x_BSD = torch.cat((torch.where(is_token_BP1, hidden_BPD, 0), x_BTD), dim=1)
    rope: Any = None
    if decoder.config.position == "rope":
        place_S = torch.arange(P + T, device=device)
        place_BS = torch.where(place_S < P, place_S, place_S - P + num_tokens_B[:, None])
        # Every head of a sequence has the sequence's positions.
        rope = tuple(table[place_BS[:, None]] for table in decoder.tables(P + T)["full"])
    return x_BSD, {"full": Context(prefix_mask(num_tokens_B, P, T), rope, key=key)}


class PrefixDecoder(TransformerLM):
    """Hidden states of a prefix, and the token ids after it, to logits of the next token.

    The prefix is put before the tokens' embeddings. All blocks see one sequence, in which the prefix attends to all of
    the prefix, and a token to all of the prefix and to the tokens up to itself.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_BPD: Float[Tensor, "B P D"],
        num_tokens_B: Int[Tensor, " B"],
        token_ids_BT: Int[Tensor, "B T"],
        key: DropoutKey | None = None,
    ) -> Float[Tensor, "B T V"]:
        x_BSD = self.hidden_states(*after_prefix(self, hidden_BPD, num_tokens_B, token_ids_BT, key))
        return self.logits(x_BSD[:, hidden_BPD.shape[1] :])


class EncoderDecoder(nn.Module):
    """A prefix, which the encoder reads, and the token ids after it, to logits of the next token."""

    def __init__(
        self, config: ModelConfig, compute_dtype: Dtype = None, device: Device = None, dtype: Dtype = None
    ) -> None:
        super().__init__()
        assert config.prefix_length is not None
        self.encoder = Stack(config, config.prefix_length, compute_dtype, device, dtype)
        self.decoder = PrefixDecoder(config, compute_dtype, device, dtype)

    def forward(
        self,
        token_ids_BT: Int[Tensor, "B T"],
        num_tokens_B: Int[Tensor, " B"],
        prefix_BP: Int[Tensor, "B P"],
        key: DropoutKey | None = None,
    ) -> Float[Tensor, "B T V"]:
        in_encoder, in_decoder = (key.within(half) if key else None for half in ("encoder", "decoder"))
        hidden_BPD = encode(self.encoder, prefix_BP, num_tokens_B, in_encoder)
        return self.decoder(hidden_BPD, num_tokens_B, token_ids_BT, in_decoder)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "decoder": TransformerLM,
    "encoder": TransformerEncoder,
    "encoder_decoder": EncoderDecoder,
}
"""Each takes a batch's `model_inputs` by name, and a dropout key."""
