"""How a model is trained."""

import math
from dataclasses import dataclass, field
from typing import Literal

from lm.config.checks import check_device, check_threads, require, require_one_of, require_positive
from lm.config.model import ModelConfig

ComputeDtype = Literal["float32", "bfloat16", "float64"]
Documents = Literal["joined", "packed"]
EvalBy = Literal["windows", "documents"]
Optimizer = Literal["adamw", "muon"]
AdamWForm = Literal["course", "course-2026", "torch"]
MuonScale = Literal["original", "match_rms_adamw"]
MuonDtype = Literal["float32", "bfloat16"]
Schedule = Literal["cosine", "linear", "constant", "warmup-stable-decay"]
Decay = Literal["all", "matrices"]
TrackerName = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, with global-norm clipping and a learning-rate schedule with warm-up."""

    learning_rate: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    min_learning_rate: float = 1e-4
    """Learning rate at the last step, unless the schedule is constant."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 0."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, multiplied by the learning rate of the step."""
    max_grad_norm: float = 1.0
    """Largest global norm of the gradients. Larger gradients are scaled down to it."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up: cosine or linear down to min_learning_rate, constant, or
    warmup-stable-decay: constant, and at the end linear down to min_learning_rate."""
    decay_share: float = 0.2
    """warmup-stable-decay: share of the run's steps, at its end, in which the learning rate falls."""
    decay: Decay = "all"
    """Parameters that decay: all, as in the course, or only matrices, without gains and biases."""
    kind: Optimizer = "adamw"
    """adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest."""
    adamw: AdamWForm = "course"
    """course: Algorithm 1 of 2024 and 2025, which decays last and adds eps to the uncorrected root. course-2026: decay
    first. torch: decay first, and add eps to the corrected root, as torch.optim.AdamW and optax.adamw do."""
    muon_learning_rate: float = 0.02
    """muon: highest learning rate of the blocks' matrices. It follows the same schedule."""
    muon_momentum: float = 0.95
    """muon: decay of the momentum."""
    muon_scale: MuonScale = "original"
    """muon: factor of the orthogonal update of a (rows, columns) matrix. original: sqrt(max(1, rows / columns)).
    match_rms_adamw: 0.2 sqrt(max(rows, columns)), so that learning rates of AdamW fit (Liu et al., 2025)."""
    muon_dtype: MuonDtype = "float32"
    """muon: type in which the update is made orthogonal; float32 means float64 if the weights are."""
    average_decay: float | None = None
    """Decay of a moving average of the weights over the steps (EMA). Evaluation, samples, lm generate, lm score and
    lm export then use the average. If not given: there is none."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "eps", "max_grad_norm")
        require_positive(self, "muon_learning_rate")
        for name, choices in (
            ("kind", Optimizer),
            ("schedule", Schedule),
            ("decay", Decay),
            ("adamw", AdamWForm),
            ("muon_scale", MuonScale),
            ("muon_dtype", MuonDtype),
        ):
            require_one_of(self, name, choices)
        require(
            0 < self.decay_share <= 1, f"decay_share is {self.decay_share}: give a number above 0, at most 1"
        )
        require(
            0 <= self.min_learning_rate <= self.learning_rate,
            f"min_learning_rate {self.min_learning_rate} is not in 0 .. learning_rate {self.learning_rate}: "
            "change one of them",
        )
        for name in ("beta1", "beta2", "muon_momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}: give a number from 0 up to, not including, 1")
        decay = self.average_decay
        require(
            decay is None or 0 < decay < 1, f"average_decay is {decay}: give a number above 0 and below 1"
        )
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} is {value}: give a finite number, 0 or more")

    @property
    def muon_rate(self) -> float:
        """Muon's learning rate as a multiple of AdamW's, at every step."""
        return self.muon_learning_rate / self.learning_rate


@dataclass(frozen=True)
class TrainConfig:
    """A training run, except its files."""

    model: ModelConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    """Number of optimizer steps."""
    batch_size: int = 32
    """Windows in a step's batch."""
    grad_accumulation: int = 1
    """Micro-batches that each batch is split into, to save memory. Must divide batch_size."""
    seed: int = 0
    """Seed of the initial weights, the batches and dropout."""
    z_loss: float = 0.0
    """Training adds this times log(Z)^2 to each token's loss, where Z is the denominator of the softmax (PaLM). The
    training loss that is shown includes it, and the validation loss does not."""
    documents: Documents = "joined"
    """joined: attention and positions of a window run across the ends of documents, as in the course. packed: no token
    attends to another document, and positions start at 0 in each document. For a decoder only."""
    end_token: int | None = None
    """Id of the token between documents, if they are packed or evaluated whole. If not given: the tokenizer's token for
    the end of a text, usually <|endoftext|>."""
    mask_rate: float = 0.15
    """Share of tokens an encoder must predict. 80% of them are replaced by the mask token, 10% by a random token, 10%
    are left as they are."""
    mask_token: int | None = None
    """Id of the mask token of an encoder. If not given: the id of <|mask|> in the tokenizer."""
    compute_dtype: ComputeDtype = "float32"
    """Type of activations. Weights and moments are float32, or float64 if this is float64."""
    log_interval: int = 10
    """Steps between lines in metrics.jsonl."""
    eval_interval: int = 100
    """Steps between evaluations. The last step is evaluated, too."""
    eval_by: EvalBy = "windows"
    """windows: cut the validation text into windows of context_length. documents: begin each window at the start of a
    document, and fill it with whole documents. So each token is predicted from all of its document that precedes it.
    For a decoder only."""
    eval_windows: int | None = None
    """Number of windows, from the start of the validation file, to evaluate on. If not given: all."""
    patience: int | None = None
    """Stop after this many evaluations in a row without a new lowest loss, and keep the best checkpoint. If not given:
    train to the last step."""
    sample_every: int | None = None
    """Steps between samples of the model's text in metrics.jsonl. If not given: no samples."""
    sample_prompt: str = ""
    """Text that the samples continue. If empty: start a new text."""
    skip_nonfinite: bool = False
    """Count steps whose loss or gradient norm is not finite, and continue without them. Otherwise they stop the run."""
    peak_flops: float | None = None
    """Peak floating-point operations per second of a device. If given: show the share that the model uses (MFU)."""
    save_interval: int = 1000
    """Steps between checkpoints. The last step is saved, too."""
    keep_last: int | None = None
    """Number of newest checkpoints to keep; older ones are deleted. If not given: keep all."""
    keep_best: int = 0
    """Number of checkpoints with the lowest validation loss to save at evaluations and to keep beside the newest."""
    device: str = "cpu"
    """Device to compute on: cpu, cuda for a GPU, or cuda:N for one of several GPUs."""
    threads: int | None = None
    """Number of CPU threads, at most 1024. If not given: the framework chooses."""
    fast: bool = True
    """Use the faster forms in `fast`. If false, compute every formula as written, for comparison."""

    def __post_init__(self) -> None:
        require_positive(
            self, "steps", "batch_size", "grad_accumulation", "log_interval", "eval_interval", "save_interval"
        )
        for name in ("keep_last", "eval_windows", "patience", "sample_every", "peak_flops"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"{name} is {value}: give 1 or more")
        check_device(self.device)
        if self.threads is not None:
            check_threads(self.threads)
        require(self.keep_best >= 0, f"keep_best is {self.keep_best}: give 0 or more")
        require(0 <= self.seed < 2**64, f"seed is {self.seed}: give a number from 0 to 2^64 - 1")
        require(
            self.batch_size % self.grad_accumulation == 0,
            f"batch_size {self.batch_size} is not divisible by grad_accumulation {self.grad_accumulation}: "
            "change one of them",
        )
        require_one_of(self, "compute_dtype", ComputeDtype)
        require(0 <= self.z_loss < math.inf, f"z_loss is {self.z_loss}: give a finite number, 0 or more")
        require(0 < self.mask_rate < 1, f"mask_rate is {self.mask_rate}: give a number above 0 and below 1")
        architecture, vocab_size = self.model.architecture, self.model.vocab_size
        if self.mask_token is not None:
            require(
                architecture == "encoder" and 0 <= self.mask_token < vocab_size,
                f"mask_token is {self.mask_token}: an encoder needs one from 0 to vocab_size - 1 = {vocab_size - 1}, "
                "other architectures none",
            )
        require_one_of(self, "documents", Documents)
        require(
            self.documents == "joined" or architecture == "decoder",
            f"documents is {self.documents}, but only a decoder packs documents, and architecture is {architecture}: "
            "give joined",
        )
        require_one_of(self, "eval_by", EvalBy)
        require(
            self.eval_by == "windows" or architecture == "decoder",
            f"eval_by is {self.eval_by}, but only a decoder is evaluated on whole documents, and architecture is "
            f"{architecture}: give windows",
        )
        if self.end_token is not None:
            require(
                self.needs_end_token and 0 <= self.end_token < vocab_size,
                f"end_token is {self.end_token}: packed documents and eval_by documents need one from 0 to "
                f"vocab_size - 1 = {vocab_size - 1}, joined documents in eval_by windows none",
            )
        require(
            self.sample_every is None or architecture != "encoder",
            f"sample_every is {self.sample_every}, but an encoder writes no text: leave it out",
        )
        require(
            self.sample_every is None or architecture != "encoder_decoder" or bool(self.sample_prompt),
            "sample_prompt is empty, but samples of an encoder-decoder need a prefix: give one",
        )

    @property
    def needs_end_token(self) -> bool:
        """Whether training or evaluation must know where documents begin."""
        return self.documents == "packed" or self.eval_by == "documents"

    @property
    def param_dtype(self) -> Literal["float32", "float64"]:
        """Type of weights, sums of gradients and optimizer state."""
        return "float64" if self.compute_dtype == "float64" else "float32"
