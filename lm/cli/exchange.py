"""The commands that exchange models with other programs: `lm export`, `lm import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.cli.settings import Backend
from lm.terminal import show


@dataclass(frozen=True)
class Export:
    """Write a model and its tokenizer as transformers loads a Llama."""

    checkpoint: Positional[Path]
    """Folder of a run, to export its newest checkpoint, or of one checkpoint."""
    out: Positional[Path]
    """Folder to write."""
    format: Literal["hf"]
    """Format to write. hf is the format of Llama in transformers."""
    best: bool = False
    """Export the checkpoint with the lowest validation loss, not the newest."""
    tokenizer: Path | None = None
    """Folder of the model's tokenizer. If not given: the one in the run's folder."""

    def run(self) -> None:
        from lm.interop.export_llama import export_llama
        from lm.run import checkpoint
        from lm.run.loading import find_tokenizer

        path = (checkpoint.best if self.best else checkpoint.latest)(self.checkpoint)
        tokenizer = find_tokenizer(path, self.tokenizer)
        export_llama(path, tokenizer, self.out)
        show(
            f"{self.out}: {path.name}"
            + ("" if tokenizer else ", without a tokenizer; add one with --tokenizer FOLDER")
        )


@dataclass(frozen=True)
class Import:
    """Make a run from a Llama that transformers saved."""

    source: Positional[Path]
    """Folder with config.json, model.safetensors (or shards and their index), and possibly tokenizer.json."""
    out: Positional[Path]
    """Folder to create for the run."""
    format: Literal["hf"]
    """Format to read. hf is the format of Llama in transformers."""
    backend: Backend = "torch"
    """Framework that later commands use for this run, if they name none."""
    context_length: int | None = None
    """Context length of the run in tokens. If not given: the model's max_position_embeddings."""
    tokenizer: bool = True
    """Also import tokenizer.json, which must be byte-level BPE."""

    def run(self) -> None:
        from lm.interop.import_llama import import_llama

        config, tokenizer = import_llama(
            self.source, self.out, self.backend, self.context_length, self.tokenizer
        )
        model = config.model
        show(
            f"{self.out}: {model.num_layers} layers, d_model {model.d_model}, context {model.context_length}, "
            f"vocabulary {model.vocab_size:,}"
            + ("" if tokenizer else ", without a tokenizer")
            + f"\nto continue training: lm train --init-from {self.out} --config {self.out / 'config.toml'} ..."
        )
