"""What a model is: one member of the family of Transformers."""

from dataclasses import dataclass
from typing import Any, Literal

from lm.config.checks import MAX_LAYERS, require, require_one_of, require_positive

Architecture = Literal["decoder", "encoder", "encoder_decoder"]
Norm = Literal["rmsnorm", "layernorm", "none"]
NormPosition = Literal["pre", "post"]
Block = Literal["sequential", "parallel"]
Position = Literal["rope", "learned", "sinusoidal", "none"]
FeedForward = Literal["swiglu", "silu", "gelu", "relu"]
Remat = Literal["none", "block"]


class _FilledIn:
    """Holds the names of the sizes that were not given. They are not a field: not part of the config's content."""

    __slots__ = ("filled_in",)
    filled_in: frozenset[str]

    # For copy and pickle, which would assign to a frozen class.
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "filled_in": self.filled_in}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class ModelConfig(_FilledIn):
    """One model of the family; by default a pre-norm decoder with RMSNorm, RoPE, SwiGLU, no biases and its own head.

    Sizes that are not given are filled in (`derived_sizes`).
    """

    vocab_size: int
    """Number of token ids. The tokenizer's vocabulary must fit."""
    context_length: int
    """Longest sequence that the model reads, in tokens. For an encoder-decoder: that its decoder reads."""
    d_model: int
    """Width of the residual stream. A multiple of num_heads."""
    num_layers: int
    """Number of Transformer blocks. For an encoder-decoder: in each half."""
    num_heads: int
    """Attention heads of a block. RoPE rotates pairs, so with it d_model / num_heads must be even."""
    d_ff: int | None = None
    """Width of the feed-forward layer. If not given: 4 d_model; for swiglu the multiple of 64 nearest 8/3 d_model."""
    rope_theta: float = 10_000.0
    """Base of RoPE's wavelengths."""
    architecture: Architecture = "decoder"
    """decoder: causal attention. encoder: attention in both directions. encoder_decoder: an encoder reads a prefix,
    and a decoder attends to the encoder's hidden states as if they stood before its own tokens."""
    norm: Norm = "rmsnorm"
    """rmsnorm, layernorm with bias, or none."""
    norm_position: NormPosition = "pre"
    """pre: normalise the input of each branch, and the residual stream after the last block. post: normalise the
    residual stream after each branch, and not again at the end (Xiong et al., 2020, figure 1)."""
    norm_eps: float = 1e-5
    """Added to the mean square or variance, inside the root."""
    block: Block = "sequential"
    """sequential: attention, then feed-forward. parallel: both read the same normalised input (GPT-J, PaLM)."""
    position: Position = "rope"
    """rope, learned or sinusoidal embeddings that are added to the tokens' embeddings, or none."""
    ffn: FeedForward = "swiglu"
    """swiglu, or two matrices around silu, exact gelu or relu."""
    bias: bool = False
    """Add biases to all projections of attention and feed-forward. The head has none."""
    tie_embeddings: bool = False
    """Use the token embeddings' matrix as the head. Its standard deviation then starts at d_model^-0.5."""
    num_kv_heads: int | None = None
    """Heads of keys and values. num_heads / num_kv_heads query heads share each. If not given: num_heads."""
    qk_norm: bool = False
    """Apply RMSNorm to each head's queries and keys, before RoPE."""
    embedding_dropout: float = 0.0
    """Share of the embeddings' elements that training drops."""
    attention_dropout: float = 0.0
    """Share of the attention weights that training drops."""
    residual_dropout: float = 0.0
    """Share of each branch's output that training drops before the output is added to the residual stream."""
    remat: Remat = "none"
    """none: keep all activations for the backward pass. block: recompute each block's activations in the backward pass,
    with the same numbers."""
    prefix_length: int | None = None
    """Longest prefix that the encoder of an encoder-decoder reads, in tokens. If not given: context_length."""

    def __post_init__(self) -> None:
        left_out = {name: size for name, size in self.derived_sizes().items() if getattr(self, name) is None}
        for name, size in left_out.items():
            object.__setattr__(self, name, size)
        object.__setattr__(self, "filled_in", frozenset(left_out))
        sizes = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff", "num_kv_heads")
        require_positive(self, *sizes, "rope_theta", "norm_eps")
        require(
            self.num_layers <= MAX_LAYERS, f"num_layers is {self.num_layers}: give at most {MAX_LAYERS:,}"
        )
        for name, choices in (
            ("architecture", Architecture),
            ("norm", Norm),
            ("norm_position", NormPosition),
            ("block", Block),
            ("position", Position),
            ("ffn", FeedForward),
            ("remat", Remat),
        ):
            require_one_of(self, name, choices)
        require(
            self.d_model % self.num_heads == 0,
            f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}: change one of them",
        )
        assert self.num_kv_heads is not None
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}: change one of them",
        )
        require(
            self.position != "rope" or self.d_head % 2 == 0,
            f"the head size d_model / num_heads = {self.d_head} is odd, but RoPE rotates pairs: change one of them, "
            "or position",
        )
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}: give a number from 0 up to, not including, 1")
        if self.architecture == "encoder_decoder":
            require_positive(self, "prefix_length")
        else:
            require(
                self.prefix_length is None,
                f"prefix_length is {self.prefix_length}, but architecture {self.architecture} has no prefix: "
                "leave it out, or give encoder_decoder",
            )

    @property
    def drops(self) -> bool:
        """Whether training drops anything."""
        return max(self.embedding_dropout, self.attention_dropout, self.residual_dropout) > 0

    def derived_sizes(self) -> dict[str, int | None]:
        """Return the values that sizes take if they are not given, computed from the required ones."""
        # SwiGLU's three matrices then have as many weights as two matrices of width 4 d_model.
        gated = max(64, round(8 * self.d_model / 3 / 64) * 64)
        return {
            "d_ff": gated if self.ffn == "swiglu" else 4 * self.d_model,
            "num_kv_heads": self.num_heads,
            "prefix_length": self.context_length if self.architecture == "encoder_decoder" else None,
        }

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads
