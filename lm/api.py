"""Load and use a trained model from Python: `lm.load` and `lm.Model`."""

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
from lm.run.loading import find_tokenizer, load_ends, load_state, load_tokenizer
from lm.text.complete import Completion, complete
from lm.text.ends import Ends
from lm.text.exact import Exact, make_exact, refuse_inexact
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
    """The backend's state, without an optimizer."""
    path: Path
    """Folder of the checkpoint."""
    tokenizer_folder: Path | None = None
    """Folder of the tokenizer, if it is not in the run's folder."""
    exact: bool = False
    """Whether log-probabilities have the same bits in every batch (`lm.text.exact`)."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with.

        Raises:
            InputError: it is missing, or another one lies in its place.
        """
        return load_tokenizer(self.path, self.tokenizer_folder)

    @cached_property
    def ends(self) -> Ends:
        """The tokens that begin and end the model's texts."""
        return load_ends(self.path, find_tokenizer(self.path, self.tokenizer_folder))

    def logits(self, text: str | Sequence[int] | np.ndarray) -> Float[np.ndarray, "*B T V"]:
        """Return the logits after each token of a text; for an encoder, the logits at each token.

        Args:
            text: A text, token ids (T), or several sequences of ids (B, T).

        Raises:
            InputError: there are no tokens, more than context_length, or unknown ids; or the model needs a prefix.
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
        ) as error:  # lists of unequal lengths, or tensors on a GPU
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the ids are not an array ({reason}): give whole numbers, equally many for each text"
            ) from None
        if ids.ndim not in (1, 2) or not 0 < ids.shape[-1] <= context_length or ids.dtype.kind not in "iu":
            raise InputError(
                f"the ids are {ids.dtype} {ids.shape}: give whole numbers, for each text 1 to the model's "
                f"context_length {context_length}"
            )
        check_token_ids(ids, self.config.model.vocab_size)  # before the cast, which would change large ids
        ids_BT = ids.reshape(-1, ids.shape[-1]).astype(np.int64)
        if not len(ids_BT):
            return np.empty((*ids.shape, self.config.model.vocab_size), self.config.param_dtype)
        B, T = ids_BT.shape
        num_tokens_B = np.full(B, T) if self.config.model.architecture == "encoder" else None
        with explained(lambda: f"the logits of {ids.size:,} tokens were asked for at once; give fewer"):
            return self._logits(self.state, ids_BT, num_tokens_B).reshape(*ids.shape, -1)

    def generate(self, prompt: str = "", stop_token: str | None = None, **settings: Any) -> str:
        """Return the text that continues a prompt, or a new text if the prompt is empty.

        Args:
            stop_token: Special token that ends the text; "" for none. If not given: the model's own ends.
            settings: Fields of `lm.text.sampling.SamplingConfig`, such as max_new_tokens, temperature, top_p and seed.

        Raises:
            InputError: a setting is out of range, the stop token is unknown, or the prompt is longer than the context.
        """
        if settings.get("samples", 1) != 1:
            raise InputError(f"samples is {settings['samples']}, but generate returns one text; use complete")
        return self.complete([prompt], stop_token, **settings)[0].text

    def complete(
        self, prompts: Sequence[str | Sequence[int]], stop_token: str | None = None, **settings: Any
    ) -> list[Completion]:
        """Continue several prompts at once. Each completion has a `text`, an `ending`, and its tokens in `drawn`.

        Args:
            prompts: Texts, or lists of token ids, for which a model needs no tokenizer. Without one, `text` is empty.
            stop_token: As in `generate`.
            settings: As in `generate`.

        Returns:
            The completions of the first prompt (as many as the setting `samples`), then those of the next prompt.

        Raises:
            InputError: as `generate`, or a prompt is neither a text nor token ids.
        """
        texts = prompts if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [None]
        if not all(isinstance(text, str) or _are_ids(text) for text in texts):
            raise InputError(
                f"the prompts are {prompts!r:.60}: give a list of texts, or of lists of token ids"
            )
        sampling = SamplingConfig(**settings)
        refuse_generation(self.config, len(prompts), sampling)
        needs_text = stop_token or sampling.stop or any(isinstance(prompt, str) for prompt in prompts)
        tokenizer = self.tokenizer if needs_text else find_tokenizer(self.path, self.tokenizer_folder)
        completions = [
            Completion(prompt, tokenizer, sampling.stop)
            for prompt in prompts
            for _ in range(sampling.samples)
        ]
        for _ in complete(
            self._steps,
            self.state,
            self.config,
            tokenizer,
            completions,
            sampling,
            stop_token,
            ends=self.ends,
        ):
            pass
        return completions

    def score(self, text: str | Sequence[int], stride: int | None = None) -> TextScore:
        """Return how likely the model finds a text: nats of each token, their sum, perplexity, bits per byte.

        Args:
            text: A text, or token ids, for which a model needs no tokenizer.
            stride: Number of tokens by which the windows of a text longer than the context move (`lm.text.score`).

        Raises:
            InputError: the text is empty, the stride is out of range, or the model's logits are not finite.
        """
        if not isinstance(text, str) and not _are_ids(text):
            raise InputError(f"the text is {text!r:.60}: give a string, or a list of token ids")
        tokenizer = self.tokenizer if isinstance(text, str) else None
        with explained():
            return score_text(self._logits, self.state, self.config, tokenizer, text, stride, self.ends)

    # Made once, because JAX compiles each newly made function.
    @cached_property
    def _logits(self) -> Logits:
        return self._exact.logits if self.exact else self.backend.make_logits(self.config)

    @cached_property
    def _steps(self) -> tuple[Prefill, DecodeStep]:
        if self.exact:
            return self._exact.prefill, self._exact.decode_step
        return self.backend.make_prefill(self.config), self.backend.make_decode_step(self.config)

    @cached_property
    def _exact(self) -> Exact:
        return make_exact(self.backend, self.config)


def _are_ids(value: object) -> bool:
    """Return whether a value is a sequence of whole numbers."""
    return isinstance(value, Sequence) and all(
        isinstance(i, int | np.integer) and not isinstance(i, bool) for i in value
    )


def load(
    run: str | Path,
    backend: BackendName | None = None,
    *,
    best: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    tokenizer: str | Path | None = None,
    exact: bool = False,
) -> Model:
    """Load a trained model.

    Args:
        run: The folder of a run, for its newest checkpoint, or the folder of a checkpoint.
        backend: "torch" or "jax". If not given: the backend that trained the model.
        best: Take the checkpoint with the lowest validation loss instead of the newest.
        device: "cpu", or "cuda" for a GPU.
        threads: Number of CPU threads. If not given: the framework chooses.
        tokenizer: The folder of the model's tokenizer, if it is not in the run's folder.
        exact: Give a text the same log-probabilities, bit by bit, alone and in a batch, written and scored. It takes
            about twice the time.

    Raises:
        InputError: there is no checkpoint, it is damaged, the backend or device is not available, the tokenizer is
            not the one that the model was trained with, or the model cannot be exact.
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
    if exact:
        refuse_inexact(config)
    module = backends.load(backend or facts["backend"], config)
    with explained():
        state = load_state(path, config, module, with_optimizer=False)
    return Model(config, module, state, path, folder, exact)
