"""What our two backends compute."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm import backend as backends
from lm.backend import Backend, BackendName
from lm.config import TrainConfig
from lm.text.generate import generate
from lm.text.sampling import SamplingConfig
from parity.check.hf.answer import Numbers, Questions, Texts


class Ours:
    """One of our backends with the folder's weights, which are read leaf by leaf."""

    def __init__(self, name: BackendName, config: TrainConfig, weights: Mapping[str, np.ndarray]) -> None:
        self.name, self.config = f"{name}_impl", config
        self.backend: Backend = backends.load(name, config)
        self._in_framework = importlib.import_module(f"parity.check.hf.in_{name}")
        self.state = self.backend.load_state(config, ((name, weights[name]) for name in weights), None)

    def numbers(self, ids: np.ndarray) -> list[Numbers]:
        """Return the logits and hidden states of some texts, in each mode of the backend."""
        found: list[Numbers] = self._in_framework.compute_numbers(self.backend, self.state, self.config, ids)
        return found

    def texts(self, questions: Questions, theirs: Texts) -> list[Texts]:
        """Continue each prompt by its likeliest tokens: alone, all in one batch, and without a cache.

        Without a cache, one pass over each of transformers' texts gives the choice after each of its tokens. So the
        whole text is chosen without a cache if each choice is the text's next token.
        """
        prompts = questions.prompts
        alone = [self._generate([prompt], questions.new_tokens)[0] for prompt in prompts]
        batched = self._generate(prompts, questions.new_tokens)
        whole = [[*p, *text] for p, text in zip(prompts, theirs.continuations, strict=True)]
        ids = np.zeros((len(whole), max(map(len, whole))), np.int64)
        for row, text in enumerate(whole):
            ids[row, : len(text)] = text
        logits = self.backend.make_logits(self.config)(self.state, ids)
        chosen = logits.argmax(-1)
        without = [chosen[row, len(p) - 1 : len(whole[row]) - 1].tolist() for row, p in enumerate(prompts)]
        return [
            Texts(f"{self.name}, with a cache", alone),
            Texts(f"{self.name}, in a batch", batched),
            Texts(f"{self.name}, without a cache", without),
        ]

    def _generate(self, prompts: Any, new_tokens: int) -> list[list[int]]:
        steps = self.backend.make_prefill(self.config), self.backend.make_decode_step(self.config)
        sampling = SamplingConfig(max_new_tokens=new_tokens, temperature=0.0)
        out: list[list[int]] = [[] for _ in prompts]
        for drawn in generate(*steps, self.state, self.config, prompts, sampling):
            out[drawn.row].append(drawn.token)
        return out
