"""What a run is: frozen, validated dataclasses, read from TOML and overridden by flags."""

import contextlib
import dataclasses
import math
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizer.errors import InputError
from tokenizer.files.reading import read_bytes, refuse_utf16

ComputeDtype = Literal["float32", "bfloat16", "float64"]
Schedule = Literal["cosine", "linear", "constant"]
Decay = Literal["all", "matrices"]
TrackerName = Literal["tensorboard", "wandb"]
Architecture = Literal["decoder", "encoder", "encoder_decoder"]
Norm = Literal["rmsnorm", "layernorm", "none"]
NormPosition = Literal["pre", "post"]
Block = Literal["sequential", "parallel"]
Position = Literal["rope", "learned", "sinusoidal", "none"]
FeedForward = Literal["swiglu", "silu", "gelu", "relu"]
Remat = Literal["none", "block"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""Folder of the configs that come with the project, beside the package in a checkout and in an installation."""

MAX_SIZE = 2**31 - 1
"""The greatest size, batch or number of steps: ids, positions and steps are int32."""
MAX_LAYERS = 10_000
"""Every layer's weights have names, which are listed before anything is computed."""
MAX_THREADS = 1024
"""More than any machine has cores. Frameworks take memory and time for each thread that they are asked for."""


def check_threads(threads: int) -> int:
    """The number of threads as it is.

    Raises:
        InputError: it is no number of threads.
    """
    fits = isinstance(threads, int) and 1 <= threads <= MAX_THREADS
    _require(
        fits, f"threads is {threads!r}: give 1 to {MAX_THREADS}; more than the machine has cores is slower"
    )
    return threads


def check_device(device: str) -> str:
    """The name of a device as it is: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: it is another, such as `mps` or `tpu`, which nobody has tested; of GPUs, the backend knows which
            are there.
    """
    fits = isinstance(device, str) and re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device)
    _require(
        bool(fits), f"device {device!r} is not supported: give cpu, cuda, or cuda:N for one of several GPUs"
    )
    return device


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _require_one_of(config: Any, name: str, choices: Any) -> None:
    value, known = getattr(config, name), typing.get_args(choices)
    _require(value in known, f"{name} is {value!r}: give {' or '.join(known)}")


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 < value < math.inf, f"{name} is {value}: give a finite number above 0")
        _require(
            not isinstance(value, int) or value <= MAX_SIZE, f"{name} is {value}: give at most {MAX_SIZE:,}"
        )


class _FilledIn:
    """Notes the sizes that were not given. It is no field: it is no part of what a config says."""

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

    Sizes that are not given are filled in (`derived`).
    """

    vocab_size: int
    """Number of token ids; the tokenizer's vocabulary must fit."""
    context_length: int
    """Longest sequence the model sees, in tokens; of an encoder-decoder, its decoder."""
    d_model: int
    """Width of the residual stream; a multiple of num_heads."""
    num_layers: int
    """Number of Transformer blocks; of an encoder-decoder, in either half."""
    num_heads: int
    """Attention heads a block; with RoPE, which rotates pairs, d_model / num_heads must be even."""
    d_ff: int | None = None
    """Width of the feed-forward layer; if not given, 4 d_model, of swiglu the multiple of 64 nearest to 8/3 d_model."""
    rope_theta: float = 10_000.0
    """Base of RoPE's wavelengths."""
    architecture: Architecture = "decoder"
    """decoder: causal attention; encoder: attention in both directions; encoder_decoder: a prefix read by an encoder,
    whose hidden states the decoder attends to before its own tokens."""
    norm: Norm = "rmsnorm"
    """rmsnorm, layernorm with bias, or none at all."""
    norm_position: NormPosition = "pre"
    """pre: each branch normalises what it reads, and the stream is normalised at its end; post: the stream is, after
    each branch, and not at its end (Xiong et al., 2020, figure 1)."""
    norm_eps: float = 1e-5
    """Added to the mean square or variance, inside the root."""
    block: Block = "sequential"
    """sequential: attention, then feed-forward; parallel: both read the same normalised stream (GPT-J, PaLM)."""
    position: Position = "rope"
    """rope, learned or sinusoidal embeddings added to the tokens', or none."""
    ffn: FeedForward = "swiglu"
    """swiglu, or two matrices around silu, exact gelu or relu."""
    bias: bool = False
    """Biases in all projections of attention and feed-forward; the head has none."""
    tie_embeddings: bool = False
    """The head is the token embeddings' matrix, which then starts with a deviation of d_model^-0.5."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by num_heads / num_kv_heads query heads; if not given, num_heads."""
    qk_norm: bool = False
    """RMSNorm over each head's queries and keys, before RoPE."""
    embedding_dropout: float = 0.0
    """Share of the embeddings' elements that training drops."""
    attention_dropout: float = 0.0
    """Share of the attention weights that training drops."""
    residual_dropout: float = 0.0
    """Share of each branch's output, before it is added to the stream, that training drops."""
    remat: Remat = "none"
    """block: the backward pass computes each block's activations again, where none keeps them: same numbers."""
    prefix_length: int | None = None
    """Longest prefix that an encoder-decoder's encoder reads, in tokens; if not given, context_length."""

    def __post_init__(self) -> None:
        left_out = {name: size for name, size in self.derived().items() if getattr(self, name) is None}
        for name, size in left_out.items():
            object.__setattr__(self, name, size)
        object.__setattr__(self, "filled_in", frozenset(left_out))
        sizes = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff", "num_kv_heads")
        _require_positive(self, *sizes, "rope_theta", "norm_eps")
        _require(
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
            _require_one_of(self, name, choices)
        _require(
            self.d_model % self.num_heads == 0,
            f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}: change one of them",
        )
        assert self.num_kv_heads is not None
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}: change one of them",
        )
        _require(
            self.position != "rope" or self.d_head % 2 == 0,
            f"the head size d_model / num_heads = {self.d_head} is odd, but RoPE rotates pairs: change one, "
            "or position",
        )
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is {value}: give a number from 0 up to, not including, 1")
        if self.architecture == "encoder_decoder":
            _require_positive(self, "prefix_length")
        else:
            _require(
                self.prefix_length is None,
                f"prefix_length is {self.prefix_length}, but architecture {self.architecture} has no prefix: "
                "leave it out, or give encoder_decoder",
            )

    @property
    def drops(self) -> bool:
        """Whether training drops anything."""
        return max(self.embedding_dropout, self.attention_dropout, self.residual_dropout) > 0

    def derived(self) -> dict[str, int | None]:
        """What the sizes are that can be left out, from those that cannot."""
        # So that SwiGLU's three matrices weigh what the others' two do.
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


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping and a learning-rate schedule with warm-up."""

    learning_rate: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    min_learning_rate: float = 1e-4
    """Learning rate at the last step, unless the schedule is constant."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, times the learning rate of the step."""
    max_grad_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to it."""
    schedule: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: down to min_learning_rate, or constant."""
    decay: Decay = "all"
    """What decays: all parameters, as in the course, or matrices only and no gains and biases."""

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "eps", "max_grad_norm")
        _require_one_of(self, "schedule", Schedule)
        _require_one_of(self, "decay", Decay)
        _require(
            0 <= self.min_learning_rate <= self.learning_rate,
            f"min_learning_rate {self.min_learning_rate} is not in 0 .. learning_rate {self.learning_rate}",
        )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is {value}: give a number from 0 up to, not including, 1")
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"{name} is {value}: give a finite number, 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """A training run, but for its files."""

    model: ModelConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Windows a step."""
    grad_accumulation: int = 1
    """Micro-batches that a step's batch is split into, to save memory; divides batch_size."""
    seed: int = 0
    """Seed of the initial weights and of the batches."""
    mask_rate: float = 0.15
    """Share of the tokens that an encoder is to name, of which 8 in 10 are hidden and 1 is another."""
    mask_token: int | None = None
    """Id that hides a token from an encoder; if not given, that of the tokenizer's <|mask|>."""
    compute_dtype: ComputeDtype = "float32"
    """Type of activations; weights and moments stay float32 (float64 for float64)."""
    log_interval: int = 10
    """Steps between lines in metrics.jsonl."""
    eval_interval: int = 100
    """Steps between evaluations (and after the last step)."""
    eval_windows: int | None = None
    """Evaluate on so many windows from the start of the validation file; on all of it, if not given."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a new lowest loss, and keep the best; never, if not given."""
    sample_every: int | None = None
    """Steps between samples of the model's text, into metrics.jsonl; none, if not given."""
    sample_prompt: str = ""
    """What the samples continue; if empty, the start of a new text."""
    skip_nonfinite: bool = False
    """Count steps whose loss or gradient norm is not finite, and go on without them, where the run would stop."""
    peak_flops: float | None = None
    """Peak floating-point operations a second of a device, to show the share that the model uses (MFU)."""
    save_interval: int = 1000
    """Steps between checkpoints (and after the last step)."""
    keep_last: int | None = None
    """Newest checkpoints to keep, older ones being deleted; all, if not given."""
    keep_best: int = 0
    """Checkpoints of lowest validation loss to save at evaluations, and to keep beside the newest."""
    device: str = "cpu"
    """Where to compute: cpu, or cuda where there is a GPU, or cuda:N for one of several."""
    threads: int | None = None
    """CPU threads, up to 1024; if not given, the framework's own choice."""
    fast: bool = True
    """Use the faster implementations in `fast`; false computes every formula as written, for comparison."""

    def __post_init__(self) -> None:
        _require_positive(
            self, "steps", "batch_size", "grad_accumulation", "log_interval", "eval_interval", "save_interval"
        )
        for name in ("keep_last", "eval_windows", "patience", "sample_every", "peak_flops"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"{name} is {value}: give 1 or more")
        check_device(self.device)
        if self.threads is not None:
            check_threads(self.threads)
        _require(self.keep_best >= 0, f"keep_best is {self.keep_best}: give 0 or more")
        _require(0 <= self.seed < 2**64, f"seed is {self.seed}: give a number from 0 to 2^64 - 1")
        _require(
            self.batch_size % self.grad_accumulation == 0,
            f"batch_size {self.batch_size} is not divisible by grad_accumulation {self.grad_accumulation}",
        )
        _require_one_of(self, "compute_dtype", ComputeDtype)
        _require(0 < self.mask_rate < 1, f"mask_rate is {self.mask_rate}: give a number above 0 and below 1")
        architecture, vocab_size = self.model.architecture, self.model.vocab_size
        if self.mask_token is not None:
            _require(
                architecture == "encoder" and 0 <= self.mask_token < vocab_size,
                f"mask_token is {self.mask_token}: an encoder needs one from 0 to vocab_size - 1 = {vocab_size - 1}, "
                "other architectures none",
            )
        _require(
            self.sample_every is None or architecture != "encoder",
            f"sample_every is {self.sample_every}, but an encoder writes no text: leave it out",
        )
        _require(
            self.sample_every is None or architecture != "encoder_decoder" or bool(self.sample_prompt),
            "sample_prompt is empty: give the prefix that samples of an encoder-decoder follow from",
        )

    @property
    def param_dtype(self) -> Literal["float32", "float64"]:
        """Type of weights, gradients' sums and optimizer state."""
        return "float64" if self.compute_dtype == "float64" else "float32"


def from_dict(cls: type, values: Any, where: str) -> Any:
    """Build a config dataclass from parsed TOML or JSON, refusing unknown keys and wrong types.

    Raises:
        InputError: names the key, the file (`where`) and what fits.
    """
    _require(isinstance(values, dict), f"{where}: expected a table of keys, found {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        _require(key in fields, f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        _require(not required or name in values, f"{where}: the key '{name}' is missing")
    kwargs = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**kwargs)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if typing.get_origin(hint) is Literal:
        options = (str,)
    if float in options and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) not in options:
        raise InputError(f"{where} is {value!r}: give {kind_of(hint)}")
    return value


def kind_of(hint: Any) -> str:
    """A type in words.

    >>> kind_of(int | None)
    'a whole number or nothing'
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_KINDS.get(option, "a text") for option in options)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}


def load_config(path: Path) -> TrainConfig:
    """Read a TrainConfig from a TOML file, whose tables `model` and `optimizer` are the nested configs.

    The file may be a pipe, or standard input if its name is -.

    Raises:
        InputError: it cannot be read, or a key or a value does not fit.
    """
    try:
        data = read_bytes(path)
        refuse_utf16(data, path)
        values = tomllib.loads(data.decode("utf-8-sig"))
    except (InputError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); see configs/ for examples") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a TOML file, see configs/"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not a TOML file ({error}); see configs/ for examples") from None
    return from_dict(TrainConfig, values, str(path))
