"""What a backend is, and the only place that imports one."""

import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from lm.accounting.limits import refuse_weights
from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.mesh import Mesh, Processes
from lm.programs import keep_choices
from lm.run.leaves import Leaves, Shares

BackendName = Literal["jax", "torch"]


@runtime_checkable
class TrainStep(Protocol):
    def __call__(self, state: Any, batch: Batch, lr: float, /) -> tuple[Any, dict[str, Any]]:
        """Take one optimizer step. Consume `state`; return the new state and `loss`, `grad_norm` and `finite`.

        The metrics are Python's or the framework's scalars, so that the host need not wait for them. If the loss or the
        gradient norm is not finite, the new state equals the old one.
        """


@runtime_checkable
class EvalStep(Protocol):
    def __call__(self, state: Any, batch: Batch, /) -> tuple[float, int, int]:
        """Return the sum of the losses in nats, the number of targets, and how many targets are the likeliest token."""


@runtime_checkable
class Logits(Protocol):
    def __call__(
        self,
        state: Any,
        token_ids: Int[np.ndarray, "B T"],
        num_tokens: Int[np.ndarray, " B"] | None = None,
        prefix: Int[np.ndarray, "B P"] | None = None,
        /,
    ) -> Float[np.ndarray, "B T V"]:
        """Return the logits after each token (for an encoder: at each token), in the weights' type.

        Args:
            token_ids: T is at most context_length.
            num_tokens, prefix: As in `lm.data.batch.Batch`, if the architecture needs them.
        """


@runtime_checkable
class Prefill(Protocol):
    def __call__(
        self,
        state: Any,
        token_ids: Int[np.ndarray, "B T"],
        lengths: Int[np.ndarray, " B"],
        slots: int | None = None,
        prefix: Int[np.ndarray, "B P"] | None = None,
        num_tokens: Int[np.ndarray, " B"] | None = None,
        /,
    ) -> tuple[Float[np.ndarray, "B V"], Any]:
        """Read prompts, padded on the right. Return the logits after each prompt's last token, and the cache.

        Args:
            lengths: Number of tokens of each prompt.
            slots: Slots of the cache, at least T. Position t takes slot t mod slots. If not given: context_length.
                Fewer suffice if the text will end earlier.
            prefix: For an encoder-decoder: what the encoder reads, padded. The prompts then begin the decoder's texts.
            num_tokens: Number of tokens of each prefix.
        """


@runtime_checkable
class DecodeStep(Protocol):
    def __call__(
        self, state: Any, cache: Any, token_ids: Int[np.ndarray, " B"], positions: Int[np.ndarray, " B"], /
    ) -> tuple[Float[np.ndarray, "B V"], Any]:
        """Read one more token of each sequence, at its position. Return the logits after it, and the cache.

        Consumes the given `cache`.
        """


@runtime_checkable
class Backend(Protocol):
    """A module of plain functions. A state holds weights and, for training, AdamW's moments and step count.

    With a mesh, the state is sharded over its devices. Every process then calls the steps with the same whole batch,
    and gets the same metrics.
    """

    def processes(self) -> Processes:
        """Return the processes that `load` joined, or this process alone without a mesh."""

    def init_state(self, config: TrainConfig, seed: int, mesh: Mesh | None = None) -> Any:
        """Return the state before the first step."""

    def load_state(
        self, config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
    ) -> Any:
        """Return a state with copies of these leaves. Without optimizer leaves it can be evaluated, but not trained.

        Each process reads only the slices that it holds.
        """

    def read_weights(self, state: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the weights by name."""

    def read_optimizer(self, state: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Yield `m.<name>` and `v.<name>` of every weight, and `step`."""

    def read_shares(self, state: Any) -> tuple[Shares, Shares]:
        """Return weights and optimizer as shares. Each process saves the slices in its shares."""

    def averaged(self, state: Any, /) -> AbstractContextManager[Any]:
        """Return a context with the state to evaluate: its weights are the averages, if the run has them."""

    def make_train_step(self, config: TrainConfig, mesh: Mesh | None = None) -> TrainStep: ...

    def make_eval_step(self, config: TrainConfig, mesh: Mesh | None = None) -> EvalStep: ...

    def make_logits(self, config: TrainConfig) -> Logits: ...

    def make_prefill(self, config: TrainConfig) -> Prefill:
        """Return the function that reads prompts. An encoder has none, because it writes no text."""

    def make_decode_step(self, config: TrainConfig) -> DecodeStep:
        """Return the function that reads one more token. An encoder has none."""

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """Trace what runs inside with the framework's profiler, into files under `folder`."""

    def versions(self) -> dict[str, str]:
        """Return the names and versions of the framework's libraries."""

    def choices(self, only_measured: bool = False) -> dict[str, str]:
        """Return what this process chose by measuring times on this machine, such as the form of each product.

        Args:
            only_measured: Leave out the choices that `repeat` was given.
        """

    def repeat(self, choices: dict[str, str]) -> None:
        """Repeat another process's `choices`, so that the numbers have the same bits."""


def load(name: BackendName, config: TrainConfig, mesh: Mesh | None = None) -> Backend:
    """Import a backend and set up its framework: threads, device, float64. With a mesh, join the other processes.

    Raises:
        InputError: the device, or one of the mesh's devices or processes, is not available; or the weights do not fit
            into the machine's memory.
    """
    if mesh is None:
        refuse_weights(config)
    if name == "jax":
        # XLA reads both variables once, when JAX makes its CPU client.
        if config.threads is not None:
            os.environ["NPROC"] = str(config.threads)
        if config.device == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
    backend = importlib.import_module(f"{name}_impl.backend")
    backend.configure(config, mesh)
    if mesh is None:
        keep_choices(backend)
    return cast(Backend, backend)
