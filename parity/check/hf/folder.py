"""A model that transformers saved: its config, its weights and its tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lm.accounting.limits import refuse_more_than_memory
from lm.budgets import as_dtype
from lm.files import read_json
from lm.flops import parameters
from lm.init import parameter_shapes
from parity.check.hf.answer import KEPT, Questions
from parity.check.models import read_model
from tokenizer import Tokenizer
from tokenizer.errors import InputError


class Folder:
    """A model that transformers saved."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: the folder is malformed, or its model needs something that ours do not support.
        """
        self.path = path
        self.family: str = read_json(path / "config.json", "give a folder that transformers saved").get(
            "model_type"
        )
        model = read_model(path)
        self.config = model.config
        self.weights: Mapping[str, np.ndarray] = {
            name: as_dtype(w, "float32") for name, w in model.weights.items()
        }
        self.notes: tuple[str, ...] = ()
        self.tokenizer = self._read_tokenizer()

    def _read_tokenizer(self) -> Tokenizer | None:
        path = self.path / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_tokenizers_json(path)
            if tokenizer.vocab_size > self.config.vocab_size:
                raise InputError(f"{path} has more ids than the model")
        except InputError as error:
            self.notes = (f"the model is asked with random ids alone, because it has no tokenizer: {error}",)
            return None
        return tokenizer

    def describe(self) -> str:
        """Return the family and the sizes, for readers."""
        m = self.config
        count = sum(parameters(m).values())
        return f"{self.family} of {count:,} parameters: {m.num_layers} layers, d_model {m.d_model}"

    def show(self, ids: Sequence[int]) -> str:
        """Return the text of some ids, or the ids without a tokenizer."""
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(list(ids))


def refuse_size(folder: Folder, questions: Questions) -> None:
    """Refuse a model that this machine's memory cannot hold. One implementation is loaded at a time.

    Raises:
        InputError: it does not fit.
    """
    m, q = folder.config, questions
    count, (B, T), V = sum(parameters(m).values()), q.ids.shape, m.vocab_size
    # Weights in float32, and the copy in bfloat16 that a product may make.
    weights = 6 * count
    read = sum(len(prompt) + q.new_tokens for prompt in q.prompts)
    logits = 4 * V * (B * T + read)
    kept = 8 * B * (8 * min(T, KEPT) * V + 2 * T * m.d_model * (m.num_layers + 1))
    largest = 8 * max(int(np.prod(shape)) for shape in parameter_shapes(m).values())
    refuse_more_than_memory(
        weights + logits + kept + largest,
        f"{folder.path}: lm check --hf with {count:,} parameters takes",
        "the size: check a smaller model of the same family",
    )
