"""A model that transformers saved: its config, its weights and its tokenizer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lm.accounting.limits import refuse_more_than_memory
from lm.flops import parameters
from lm.init import parameter_shapes
from lm.interop.import_model import Saved, find_saved, read_tokenizer
from lm.interop.tensors import check_finite
from parity.check.hf.answer import KEPT, Questions
from tokenizer import Tokenizer
from tokenizer.errors import InputError


class FolderWeights(Mapping[str, np.ndarray]):
    """The weights by our names, in float32. Each is read from its file when it is asked for."""

    def __init__(self, saved: Saved) -> None:
        self._saved = saved
        self._places = {ours: name for name, layout in saved.layouts.items() for ours in layout.parts}

    def __getitem__(self, name: str) -> np.ndarray:
        theirs = self._places[name]
        array = self._saved.layouts[theirs].to_ours(self._saved.tensors[theirs].read())[name]
        ((_, checked),) = check_finite([(name, array)], self._saved.folder)
        return checked.astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Folder:
    """A model that transformers saved."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: the folder is malformed, or its model needs something that ours do not support.
        """
        self.path, self.saved = path, find_saved(path)
        self.config, self.weights = self.saved.model, FolderWeights(self.saved)
        self.tokenizer: Tokenizer | None = None
        try:
            self.tokenizer, why = read_tokenizer(path, self.config)
        except InputError as error:
            why = f"since its tokenizer cannot be read ({error})"
        self.notes = () if self.tokenizer else (f"the model is asked with random ids alone, {why}",)

    def describe(self) -> str:
        """Return the family and the sizes, for readers."""
        m = self.config
        count = sum(parameters(m).values())
        return f"{self.saved.family.name} of {count:,} parameters: {m.num_layers} layers, d_model {m.d_model}"

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
