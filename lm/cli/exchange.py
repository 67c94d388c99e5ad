"""Commands that exchange models with other programs: `lm export`, `lm import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.cli.settings import Backend
from lm.terminal import show


@dataclass(frozen=True)
class Export:
    """Write a model in another format: hf is Llama's, with its tokenizer, as transformers loads it."""

    checkpoint: Positional[Path]
    """Folder of a run, for its newest checkpoint, or of one checkpoint."""
    out: Positional[Path]
    """Folder to write."""
    format: Literal["hf"]
    """Format to write: hf."""
    best: bool = False
    """Take the run's checkpoint of the lowest validation loss, not the newest."""
    tokenizer: Path | None = None
    """Folder of the model's tokenizer, if it does not lie in the run's folder."""

    def run(self) -> None:
        from lm.interop.huggingface import export_llama
        from lm.run import checkpoint
        from lm.run import folder as run

        path = (checkpoint.best if self.best else checkpoint.latest)(self.checkpoint)
        tokenizer = run.find_tokenizer(path, self.tokenizer)
        export_llama(path, tokenizer, self.out)
        show(
            f"{self.out}: {path.name}"
            + ("" if tokenizer else ", without a tokenizer; --tokenizer FOLDER gives it one")
        )


@dataclass(frozen=True)
class Import:
    """Make a run of a model in another format: hf is a Llama's folder, as transformers saves it."""

    source: Positional[Path]
    """Folder with config.json, model.safetensors (or shards and their index), and tokenizer.json if there is one."""
    out: Positional[Path]
    """Folder of the run, to be made."""
    format: Literal["hf"]
    """Format to read: hf."""
    backend: Backend = "torch"
    """Framework that commands use the run in where they name none."""
    context_length: int | None = None
    """Context of the run, in tokens, if not the model's own max_position_embeddings."""
    tokenizer: bool = True
    """Import tokenizer.json too, which must be byte-level BPE."""

    def run(self) -> None:
        from lm.interop.huggingface import import_llama

        config, tokenizer = import_llama(
            self.source, self.out, self.backend, self.context_length, self.tokenizer
        )
        model = config.model
        show(
            f"{self.out}: {model.num_layers} layers, d_model {model.d_model}, context {model.context_length}, "
            f"vocabulary {model.vocab_size:,}"
            + ("" if tokenizer else ", without a tokenizer")
            + f"\nto train it on: lm train --init-from {self.out} --config {self.out / 'config.toml'} ..."
        )
