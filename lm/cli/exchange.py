"""The commands that exchange models with other programs: `lm export`, `lm import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lm.cli.settings import Backend
from lm.terminal import show

FamilyName = Literal[
    "llama", "mistral", "qwen2", "qwen3", "gpt2", "olmo2", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"
]


@dataclass(frozen=True)
class Export:
    """Write a model and its tokenizer as transformers loads them."""

    checkpoint: Positional[Path]
    """Folder of a run, to export its newest checkpoint, or of one checkpoint."""
    out: Positional[Path]
    """Folder to write."""
    format: Literal["hf"]
    """Format to write. hf is the format of transformers."""
    family: FamilyName | None = None
    """Family to write, as model_type names it. If not given: the family that the model was imported from, or the
    simplest that can express the model."""
    best: bool = False
    """Export the checkpoint with the lowest validation loss, not the newest."""
    tokenizer: Path | None = None
    """Folder of the model's tokenizer. If not given: the one in the run's folder."""

    def run(self) -> None:
        from lm.interop.export_model import export_model
        from lm.run import checkpoint
        from lm.run.loading import find_tokenizer

        path = (checkpoint.best if self.best else checkpoint.latest)(self.checkpoint)
        tokenizer = find_tokenizer(path, self.tokenizer)
        exported = export_model(path, tokenizer, self.out, self.family)
        why = ", since training has changed the weights" if exported.widened else ""
        show(
            f"{self.out}: {path.name} as {exported.family.name}, in {' and '.join(exported.dtypes)}"
            + why
            + ("" if tokenizer else ", without a tokenizer; add one with --tokenizer FOLDER")
        )


@dataclass(frozen=True)
class Import:
    """Make a run from a model that transformers saved.

    Its family is GPT-2, Llama, Mistral, Qwen 2 or 3, Gemma 1, 2 or 3 (text), OLMo 2 or Phi-3.
    """

    source: Positional[Path]
    """Folder with config.json, model.safetensors (or shards and their index), and possibly tokenizer.json."""
    out: Positional[Path]
    """Folder to create for the run."""
    format: Literal["hf"]
    """Format to read. hf is the format of transformers. config.json names the family."""
    backend: Backend = "torch"
    """Framework that later commands use for this run, if they name none."""
    context_length: int | None = None
    """Context length of the run in tokens. If not given: the model's max_position_embeddings."""
    tokenizer: bool = True
    """Also import tokenizer.json, if it is byte-level BPE. If it is another kind, the run takes token ids."""

    def run(self) -> None:
        from lm.interop.import_model import import_model

        imported = import_model(self.source, self.out, self.backend, self.context_length, self.tokenizer)
        model = imported.config.model
        show(
            f"{self.out}: {imported.family.name}, {model.num_layers} layers, d_model {model.d_model}, "
            f"context {model.context_length}, vocabulary {model.vocab_size:,}"
            + ("" if imported.tokenizer else f"\nwithout a tokenizer, {imported.without_tokenizer}")
            + f"\nto continue training: lm train --init-from {self.out} --config {self.out / 'config.toml'} ..."
        )
