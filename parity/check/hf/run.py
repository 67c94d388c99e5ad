"""Run `lm check --hf`: ask the oracle, transformers and both backends, one after the other, and judge."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.backend import BackendName
from lm.budgets import Dtype
from lm.config import TrainConfig
from lm.terminal import Shown
from parity.check.hf import theirs
from parity.check.hf.answer import Numbers, Texts
from parity.check.hf.folder import Folder, refuse_size
from parity.check.hf.judge import (
    Difference,
    Measured,
    Part,
    find_differences,
    judge_numbers,
    judge_texts,
    measure,
)
from parity.check.hf.ours import Ours
from parity.check.hf.truth import compute_truth
from parity.check.hf.work import TEXT, Work, choose_work

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class HFVerdict:
    """Both backends beside transformers on one model."""

    folder: Path
    model: str
    """The family and the sizes, for readers."""
    work: Work
    measured: tuple[Measured, ...]
    texts: Texts
    """What transformers wrote."""
    shown: tuple[tuple[str, str], ...]
    """Each prompt and its continuation, as text or as ids."""
    differences: tuple[Difference, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def is_off(self) -> bool:
        """Whether a part is off."""
        return any(part.is_off for part in self.parts)


def progress(text: str) -> None:
    """Say on standard error what is being done."""
    print(f"lm: {text}", file=Shown(sys.stderr), flush=True)


def run_hf(path: Path, say: Callable[[str], None] = progress) -> HFVerdict:
    """Compare both backends with transformers on a model that transformers saved.

    Args:
        say: Receives what is being done.

    Raises:
        InputError: transformers is not installed, the folder is malformed or needs what our models do not support, or
            this machine has too little memory.
    """
    version = theirs.import_transformers().__version__
    folder = Folder(path)
    work = choose_work(folder.config, folder.tokenizer)
    refuse_size(folder, work.questions)
    questions, found, differences = work.questions, [], []

    def note(numbers: Numbers) -> Measured:
        found.append(measure(numbers, truth, folder.config))
        return found[-1]

    say("the float64 oracle")
    truth = compute_truth(folder.config, folder.weights, questions.ids)
    for dtype in DTYPES:
        config = TrainConfig(folder.config, compute_dtype=dtype)
        say(f"transformers {version} in {dtype}")
        model = theirs.load_model(path, dtype)
        of_theirs = note(theirs.compute_numbers(model, dtype, questions.ids))
        if dtype == "float32":
            texts, error = theirs.write_texts(model, questions), of_theirs.precision.error
        model = None
        for name in BACKENDS:
            gc.collect()
            say(f"{name}_impl in {dtype}")
            ours = Ours(name, config, folder.weights)
            for numbers in ours.numbers(questions.ids):
                note(numbers)
            if dtype == "float32":
                for text in ours.texts(questions, texts):
                    differences += find_differences(text, texts, questions.prompts, error)
            del ours
    parts = [judge_numbers([m for m in found if m.precision.dtype == dtype]) for dtype in DTYPES]
    parts.append(judge_texts(differences, len(questions.prompts), questions.new_tokens))
    if folder.tokenizer:
        parts.insert(0, _judge_tokenizer(folder))
    return HFVerdict(
        path,
        f"{folder.describe()}; transformers {version}",
        work,
        tuple(found),
        texts,
        tuple(
            (folder.show(prompt), folder.show(text))
            for prompt, text in zip(questions.prompts, texts.continuations, strict=True)
        ),
        tuple(differences),
        tuple(parts),
        folder.notes,
    )


def _judge_tokenizer(folder: Folder) -> Part:
    """Compare our ids of the short story with those of the library tokenizers."""
    from tokenizers import Tokenizer as Library

    library: Any = Library.from_file(str(folder.path / "tokenizer.json"))
    expected = library.encode(TEXT, add_special_tokens=False).ids
    assert folder.tokenizer is not None
    ids = folder.tokenizer.encode(TEXT)
    if ids == expected:
        return Part("tokenizer", False, f"the {len(ids)} ids of a short story are those of tokenizers")
    first = next(
        (i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), len(ids)
    )
    return Part(
        "tokenizer", True, f"the ids of a short story differ from those of tokenizers at token {first + 1}"
    )
