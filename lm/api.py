"""A trained model from Python: what `import lm` gives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from lm import backend as backends
from lm.accounting.limits import explained, refuse_generation
from lm.backend import Backend, BackendName, DecodeStep, Logits, Prefill
from lm.config import TrainConfig, check_device
from lm.data.batch import check_token_ids
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.loading import load_ends, load_state, load_tokenizer
from lm.text.complete import Completion, complete
from lm.text.ends import Ends
from lm.text.sampling import SamplingConfig
from lm.text.score import TextScore, score_text
from tokenizer import Tokenizer
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Model:
    """A trained model in one of the backends."""

    config: TrainConfig
    backend: Backend
    state: Any
    """What the backend computes with."""
    path: Path
    """The checkpoint."""
    tokenizer_folder: Path | None = None
    """Where its tokenizer lies, if not in the run's folder."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What makes its tokens of text.

        Raises:
            InputError: the run has none, or not the one that the model was trained with.
        """
        return load_tokenizer(self.path, self.tokenizer_folder)

    @cached_property
    def ends(self) -> Ends:
        """The tokens that begin and end its texts."""
        return load_ends(self.path, self.tokenizer)

    def logits(self, text: str | Sequence[int] | np.ndarray) -> Float[np.ndarray, "*B T V"]:
        """The logits of the token after each of a text's tokens, or of the ids (T) or (B, T); an encoder's at each.

        Raises:
            InputError: there are no tokens, more than context_length, or unknown ones; or the model needs a prefix.
        """
        if self.config.model.architecture == "encoder_decoder":
            raise InputError(
                "an encoder_decoder has no logits without a prefix; give a decoder or an encoder"
            )
        context_length = self.config.model.context_length
        token_ids = self.tokenizer.encode(text) if isinstance(text, str) else text
        try:
            ids = np.asarray(token_ids)
        except (
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # lists of several lengths, or tensors of a GPU
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the ids are no array ({reason}): give whole numbers, as many for each text"
            ) from None
        if ids.ndim not in (1, 2) or not 0 < ids.shape[-1] <= context_length or ids.dtype.kind not in "iu":
            raise InputError(
                f"the ids are {ids.dtype} {ids.shape}: give whole numbers, 1 to the model's context_length "
                f"{context_length} a text"
            )
        check_token_ids(ids, self.config.model.vocab_size)  # before large ones change, by being cast
        ids_BT = ids.reshape(-1, ids.shape[-1]).astype(np.int64)
        if not len(ids_BT):
            return np.empty((*ids.shape, self.config.model.vocab_size), self.config.param_dtype)
        B, T = ids_BT.shape
        num_tokens_B = np.full(B, T) if self.config.model.architecture == "encoder" else None
        with explained(lambda: f"the logits of {ids.size:,} tokens were asked for at once; give fewer"):
            return self._logits(self.state, ids_BT, num_tokens_B).reshape(*ids.shape, -1)

    def generate(self, prompt: str = "", stop_token: str | None = None, **settings: Any) -> str:
        """The text that continues a prompt, up to its end; of an empty prompt, a new text.

        Args:
            stop_token: Special token that ends the text, or none if empty; the model's own ends, if not given.
            settings: Those of `lm.text.sampling.SamplingConfig`, such as max_new_tokens, temperature, top_p and seed.

        Raises:
            InputError: a setting is out of range, the stop token is unknown, or the prompt is longer than the context.
        """
        if settings.get("samples", 1) != 1:
            raise InputError(f"samples is {settings['samples']}, but generate returns one text; use complete")
        return self.complete([prompt], stop_token, **settings)[0].text

    def complete(
        self, prompts: Sequence[str], stop_token: str | None = None, **settings: Any
    ) -> list[Completion]:
        """Continue several prompts at once; of each completion, `text`, `ending`, and in `drawn` its tokens.

        Returns:
            The completions of the first prompt, as many as the setting samples says, then those of the next.

        Raises:
            InputError: as `generate`, or the prompts are no texts.
        """
        texts = prompts if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"the prompts are {prompts!r:.60}: give a list of texts")
        sampling = SamplingConfig(**settings)
        refuse_generation(self.config, len(prompts), sampling)
        completions = [
            Completion(prompt, self.tokenizer, sampling.stop)
            for prompt in prompts
            for _ in range(sampling.samples)
        ]
        for _ in complete(
            self._steps,
            self.state,
            self.config,
            self.tokenizer,
            completions,
            sampling,
            stop_token,
            ends=self.ends,
        ):
            pass
        return completions

    def score(self, text: str, stride: int | None = None) -> TextScore:
        """How likely the model finds a text: nats of each token, their sum, perplexity, bits per byte.

        Args:
            stride: How far the windows move in which a text longer than the context is read (`lm.text.score`).

        Raises:
            InputError: the text is empty, the stride is out of range, or the model's logits are not finite.
        """
        if not isinstance(text, str):
            raise InputError(f"the text is {text!r:.60}: give a string")
        with explained():
            return score_text(self._logits, self.state, self.config, self.tokenizer, text, stride, self.ends)

    # Made once, since JAX compiles what is made anew.
    @cached_property
    def _logits(self) -> Logits:
        return self.backend.make_logits(self.config)

    @cached_property
    def _steps(self) -> tuple[Prefill, DecodeStep]:
        return self.backend.make_prefill(self.config), self.backend.make_decode_step(self.config)


def load(
    run: str | Path,
    backend: BackendName | None = None,
    *,
    best: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    tokenizer: str | Path | None = None,
) -> Model:
    """Load a trained model.

    Args:
        run: The folder of a run, for its newest checkpoint, or of one checkpoint.
        backend: "torch" or "jax"; the one that trained it if not given.
        best: Take the run's checkpoint of the lowest validation loss, not the newest.
        device: "cpu", or "cuda" where there is a GPU.
        threads: CPU threads; if not given, the framework's own choice.
        tokenizer: The folder of the model's tokenizer, if it does not lie in the run's folder.

    Raises:
        InputError: there is no checkpoint, it is damaged, or the backend or device is not there; or the tokenizer is
            not the one that the model was trained with.
    """
    if backend not in (None, *get_args(BackendName)):
        raise InputError(f"backend is {backend!r}: give {' or '.join(get_args(BackendName))}")
    check_device(device)
    path = (checkpoint.best if best else checkpoint.latest)(Path(run))
    folder = None if tokenizer is None else Path(tokenizer)
    if folder is not None:
        load_tokenizer(path, folder)
    config, facts = load_facts(path)
    config = replace(config, device=device, threads=threads)
    module = backends.load(backend or facts["backend"], config)
    with explained():
        state = load_state(path, config, module, with_optimizer=False)
    return Model(config, module, state, path, folder)
