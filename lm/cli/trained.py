"""The flags of the commands that load a trained model, and `lm eval`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tyro import MISSING

from lm.cli.settings import Backend, Compiles
from lm.config import EvalBy, TrainConfig, check_device
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Trained(Compiles):
    """Base class of the commands that load a trained model."""

    checkpoint: Path
    """Folder of a run, to use its newest checkpoint, or of one checkpoint."""
    backend: Backend | None = None
    """Framework to run in. If not given: the one that trained the model."""
    device: str = "cpu"
    """Device to compute on: cpu, cuda, or cuda:N for one of several GPUs."""
    threads: int | None = None
    """Number of CPU threads. If not given: the framework's choice."""
    best: bool = False
    """Use the checkpoint with the lowest validation loss, not the newest."""
    tokenizer: Path | None = None
    """Folder of the model's tokenizer. If not given: the one in the run's folder."""

    def __post_init__(self) -> None:
        check_device(self.device)

    @property
    def path(self) -> Path:
        """Folder of the checkpoint to use."""
        from lm.run import checkpoint

        return (checkpoint.best if self.best else checkpoint.latest)(self.checkpoint)

    def load(self) -> tuple[TrainConfig, Any, Any]:
        """Return the model's config, its backend, and its state without the optimizer's part."""
        from lm.api import load

        model = load(self.checkpoint, self.backend, best=self.best, device=self.device, threads=self.threads)
        return model.config, model.backend, model.state


@dataclass(frozen=True)
class Eval(Trained):
    """Print the loss of a model on a token file."""

    tokens: Path = MISSING
    """Token file to evaluate on, from lm tokenizer encode with the model's tokenizer."""
    batch_size: int | None = None
    """Windows to compute at once. If not given: as in training, or fewer so that logits fit in 64 MiB."""
    eval_by: EvalBy | None = None
    """documents: begin each window at the start of a document, so that no document is cut unless it is longer than the
    context. windows: cut the text into windows of equal length. If not given: as in training."""

    def run(self) -> None:
        from lm.data.sources import add_end_token, open_evaluation, text_facts
        from lm.run.evaluate import bits_per_byte, entropy_floor, evaluate
        from lm.run.facts import load_facts
        from lm.run.inputs import refuse_other_tokenizer
        from lm.run.loading import find_tokenizer

        _, run_facts = load_facts(self.path)
        refuse_other_tokenizer(self.tokens, run_facts["tokenizer_sha256"], str(self.checkpoint))
        config, backend, state = self.load()
        tokenizer = find_tokenizer(self.path, self.tokenizer)
        if self.eval_by not in (None, config.eval_by):
            end_token = config.end_token if config.documents == "packed" else None
            config = replace(config, eval_by=self.eval_by, end_token=end_token)
            config = add_end_token(config, tokenizer, self.tokens)
        data = open_evaluation(config, self.tokens)
        facts = text_facts(self.tokens, data, config, tokenizer)
        result = evaluate(backend.make_eval_step(config), state, data, config, self.batch_size)
        if not math.isfinite(result.loss):
            raise InputError(
                f"{self.path}: the loss on {self.tokens} is {result.loss}, because the model's logits are not finite; "
                "use an earlier checkpoint"
            )
        print(f"loss           {result.loss:.4f} nats per token over {result.num_targets:,} tokens")
        floor = entropy_floor(facts)
        if floor is not None:
            print(f"entropy floor  {floor:.4f} nats per token, which no model can beat")
            print(f"excess         {result.loss - floor:.4f} nats per token above the floor")
        print(f"perplexity     {result.perplexity:.3f}")
        bits = bits_per_byte(result, facts)
        if bits is not None:
            print(f"bits per byte  {bits:.4f}")
        print(f"accuracy       {result.accuracy:.2%}")
