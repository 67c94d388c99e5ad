"""What a model is: one member of the family of Transformers."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lm.config.checks import MAX_LAYERS, require, require_one_of, require_positive

Architecture = Literal["decoder", "encoder", "encoder_decoder"]
Norm = Literal["rmsnorm", "layernorm", "none"]
NormGain = Literal["weight", "one_plus_weight"]
NormPosition = Literal["pre", "post", "branch", "sandwich"]
Block = Literal["sequential", "parallel"]
Position = Literal["rope", "learned", "sinusoidal", "none"]
RopeScaling = Literal["none", "linear", "llama3"]
FeedForward = Literal["swiglu", "geglu_tanh", "silu", "gelu", "gelu_tanh", "relu", "relu2"]
AttentionBias = Literal["as bias", "none", "qkv", "all"]
QKNormOver = Literal["head", "all_heads"]
LayerType = Literal["full", "sliding"]
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
    """Width of the residual stream."""
    num_layers: int
    """Number of Transformer blocks. For an encoder-decoder: in each half."""
    num_heads: int
    """Attention heads of a block."""
    d_ff: int | None = None
    """Width of the feed-forward layer. If not given: 4 d_model; with a gate the multiple of 64 nearest 8/3 d_model."""
    rope_theta: float = 10_000.0
    """Base of RoPE's wavelengths."""
    architecture: Architecture = "decoder"
    """decoder: causal attention. encoder: attention in both directions. encoder_decoder: an encoder reads a prefix,
    and a decoder attends to the encoder's hidden states as if they stood before its own tokens."""
    norm: Norm = "rmsnorm"
    """rmsnorm, layernorm with bias, or none."""
    norm_gain: NormGain = "weight"
    """What a norm multiplies by: its weight, which starts at 1, or 1 + weight, where the weight starts at 0 (Gemma)."""
    norm_position: NormPosition = "pre"
    """pre: normalise the input of each branch, and the residual stream after the last block. post: normalise the
    residual stream after each branch, and not again at the end (Xiong et al., 2020, figure 1). branch: normalise the
    output of each branch, and the stream at the end (OLMo 2). sandwich: normalise the input and the output of each
    branch, and the stream at the end (Gemma 2)."""
    norm_eps: float = 1e-5
    """Added to the mean square or variance, inside the root."""
    block: Block = "sequential"
    """sequential: attention, then feed-forward. parallel: both read the same normalised input (GPT-J, PaLM)."""
    position: Position = "rope"
    """rope, learned or sinusoidal embeddings that are added to the tokens' embeddings, or none."""
    ffn: FeedForward = "swiglu"
    """swiglu or geglu_tanh, whose gates are silu and the tanh form of gelu; or two matrices around silu, exact gelu,
    its tanh form, relu or squared relu."""
    bias: bool = False
    """Add biases to all projections of attention and feed-forward. The head has none."""
    attention_bias: AttentionBias = "as bias"
    """Which projections of attention have biases: those that the setting bias says, none, those of queries, keys and
    values (qkv), or all."""
    tie_embeddings: bool = False
    """Use the token embeddings' matrix as the head. Its standard deviation then starts at d_model^-0.5."""
    num_kv_heads: int | None = None
    """Heads of keys and values. num_heads / num_kv_heads query heads share each. If not given: num_heads."""
    d_head: int | None = None
    """Width of one attention head. RoPE rotates pairs, so with it d_head must be even. If not given:
    d_model / num_heads."""
    qk_norm: bool = False
    """Apply RMSNorm to queries and keys, before RoPE."""
    qk_norm_over: QKNormOver = "head"
    """What one norm of queries or keys covers: each head by itself, with one gain for all heads, or all heads at once
    (OLMo 2)."""
    score_dim: float | None = None
    """Attention scores are q k / sqrt(score_dim). If not given: d_head."""
    score_softcap: float | None = None
    """Replace each score s by cap tanh(s / cap). If not given: leave it."""
    logit_softcap: float | None = None
    """Replace each logit s by cap tanh(s / cap). If not given: leave it."""
    scale_embeddings: bool = False
    """Multiply the embeddings of tokens by sqrt(d_model)."""
    rope_scaling: RopeScaling = "none"
    """How RoPE's frequencies are stretched for contexts longer than those of pretraining. linear: divide all by
    rope_factor (Chen et al., 2023). llama3: divide the low ones by rope_factor, leave the high ones, and blend between
    (Llama 3.1)."""
    rope_factor: float = 1.0
    """Factor of rope_scaling, at least 1."""
    rope_low_freq_factor: float = 1.0
    """llama3: wavelengths above rope_original_context / rope_low_freq_factor are stretched in full."""
    rope_high_freq_factor: float = 4.0
    """llama3: wavelengths below rope_original_context / rope_high_freq_factor are left."""
    rope_original_context: int = 8192
    """llama3: context length of pretraining, in tokens."""
    sliding_window: int | None = None
    """Number of tokens that a query of a sliding layer attends to: itself and those before it."""
    layer_types: tuple[LayerType, ...] = ()
    """Attention of each layer in order, full or sliding; a shorter list repeats. If not given: sliding in all layers if
    there is a sliding_window, otherwise full."""
    sliding_rope_theta: float | None = None
    """Base of RoPE's wavelengths in sliding layers, without rope_scaling. If not given: RoPE is as in full layers."""
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
        require_positive(self, *sizes, "d_head", "rope_theta", "norm_eps")
        given = ("score_dim", "score_softcap", "logit_softcap", "sliding_window", "sliding_rope_theta")
        require_positive(self, *(name for name in given if getattr(self, name) is not None))
        require(
            self.num_layers <= MAX_LAYERS, f"num_layers is {self.num_layers}: give at most {MAX_LAYERS:,}"
        )
        for name, choices in (
            ("architecture", Architecture),
            ("norm", Norm),
            ("norm_gain", NormGain),
            ("norm_position", NormPosition),
            ("block", Block),
            ("position", Position),
            ("rope_scaling", RopeScaling),
            ("ffn", FeedForward),
            ("attention_bias", AttentionBias),
            ("qk_norm_over", QKNormOver),
            ("remat", Remat),
        ):
            require_one_of(self, name, choices)
        assert self.num_kv_heads is not None
        assert self.d_head is not None
        require(
            "d_head" not in left_out or self.d_model % self.num_heads == 0,
            f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}: change one or give d_head",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}: change one of them",
        )
        require(
            self.position != "rope" or self.d_head % 2 == 0,
            f"d_head {self.d_head} is odd, but RoPE rotates pairs: change d_head, d_model or num_heads, or position",
        )
        self._check_rope_scaling()
        self._check_layer_types()
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

    def _check_rope_scaling(self) -> None:
        scaling = ("rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context")
        require_positive(self, *scaling)
        require(self.rope_factor >= 1, f"rope_factor is {self.rope_factor}: give at least 1")
        require(
            self.rope_high_freq_factor > self.rope_low_freq_factor,
            f"rope_high_freq_factor {self.rope_high_freq_factor} is not above rope_low_freq_factor "
            f"{self.rope_low_freq_factor}: change one of them",
        )
        for name in ("rope_scaling", "sliding_rope_theta"):
            require(
                self.position == "rope" or getattr(self, name) in ("none", None),
                f"{name} is {getattr(self, name)}, but position is {self.position}: leave it out, or give rope",
            )

    def _check_layer_types(self) -> None:
        for kind in self.layer_types:
            require(
                kind in get_args(LayerType),
                f"layer_types holds {kind!r}: give {' or '.join(get_args(LayerType))}",
            )
        slides = self.sliding_window is not None
        require(
            slides == ("sliding" in self.used_layer_types),
            f"sliding_window is {self.sliding_window}, and layer_types is {' '.join(self.layer_types) or 'empty'}: "
            "give a window and sliding layers, or neither",
        )
        require(
            slides or self.sliding_rope_theta is None,
            f"sliding_rope_theta is {self.sliding_rope_theta}, but no layer slides: leave it out, or give "
            "sliding_window",
        )
        require(
            not slides or self.architecture == "decoder",
            f"sliding_window is {self.sliding_window}, but architecture is {self.architecture}: leave it out, or give "
            "decoder",
        )

    def layer_type(self, i: int) -> LayerType:
        """Return the attention of layer `i`."""
        types = self.layer_types or (("full",) if self.sliding_window is None else ("sliding",))
        return types[i % len(types)]

    @property
    def used_layer_types(self) -> tuple[LayerType, ...]:
        """The kinds of attention that occur, in the order of their first layers."""
        return tuple(dict.fromkeys(self.layer_type(i) for i in range(self.num_layers)))

    def window(self, layer_type: LayerType) -> int | None:
        """Return the number of tokens that a query of such a layer attends to; None if it attends to all before it."""
        return self.sliding_window if layer_type == "sliding" else None

    @property
    def norm_offset(self) -> float:
        """What is added to a norm's weight before the norm multiplies by it."""
        return 0.0 if self.norm_gain == "weight" else 1.0

    @property
    def has_bias_of_qkv(self) -> bool:
        """Whether the projections of queries, keys and values have biases."""
        return self.bias if self.attention_bias == "as bias" else self.attention_bias != "none"

    @property
    def has_bias_of_output(self) -> bool:
        """Whether attention's output projection has a bias."""
        return self.bias if self.attention_bias == "as bias" else self.attention_bias == "all"

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, so that scores are divided by sqrt(score_dim) in place of sqrt(d_head)."""
        assert self.d_head is not None
        return 1.0 if self.score_dim is None else float((self.d_head / self.score_dim) ** 0.5)

    @property
    def has_gate(self) -> bool:
        """Whether the feed-forward layer has a gate, and so a third matrix."""
        return self.ffn in ("swiglu", "geglu_tanh")

    @property
    def drops(self) -> bool:
        """Whether training drops anything."""
        return max(self.embedding_dropout, self.attention_dropout, self.residual_dropout) > 0

    def derived_sizes(self) -> dict[str, int | None]:
        """Return the values that sizes take if they are not given, computed from the required ones."""
        # A gate's three matrices then have as many weights as two matrices of width 4 d_model.
        gated = max(64, round(8 * self.d_model / 3 / 64) * 64)
        return {
            "d_ff": gated if self.has_gate else 4 * self.d_model,
            "num_kv_heads": self.num_heads,
            "d_head": self.d_model // max(self.num_heads, 1),  # 0 heads are refused later
            "prefix_length": self.context_length if self.architecture == "encoder_decoder" else None,
        }
