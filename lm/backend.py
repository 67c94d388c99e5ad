"""What a backend is, and the one place that imports one."""

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
from lm.run.checkpoint import Leaves, Shares

BackendName = Literal["jax", "torch"]


@runtime_checkable
class TrainStep(Protocol):
    def __call__(self, state: Any, batch: Batch, lr: float, /) -> tuple[Any, dict[str, Any]]:
        """One optimizer step. Consumes `state`; returns the new one and `loss`, `grad_norm` and `finite`.

        The metrics are the framework's scalars, so that reading them can wait. A step whose loss or gradient
        norm is not finite leaves the state as it was.
        """


@runtime_checkable
class EvalStep(Protocol):
    def __call__(self, state: Any, batch: Batch, /) -> tuple[float, int, int]:
        """Sum of the losses in nats, number of targets, and number of them that are the likeliest token."""


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
        """The logits after each token, of an encoder at each token, in the weights' type; T is at most context_length.

        Args:
            num_tokens, prefix: As in `lm.data.batch.Batch`, where the architecture needs them.
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
        """Read prompts, padded on the right; return the logits after each one's last token, and the cache.

        Args:
            slots: Slots of the cache, of which position t takes t mod slots: T or more, and context_length, as if not
                given, unless the text will end before that.
            prefix, num_tokens: What the encoder of an encoder-decoder reads, padded, and the tokens of each; the
                prompts are then the starts of the decoder's texts.
        """


@runtime_checkable
class DecodeStep(Protocol):
    def __call__(
        self, state: Any, cache: Any, token_ids: Int[np.ndarray, " B"], positions: Int[np.ndarray, " B"], /
    ) -> tuple[Float[np.ndarray, "B V"], Any]:
        """Read one more token of each sequence, at its position; return the logits after it, and the cache.

        Consumes `cache`.
        """


@runtime_checkable
class Backend(Protocol):
    """A module of plain functions. A state holds weights and, to train on, AdamW's moments and step count.

    With a mesh the state lies on its devices, and the steps take and give such states: every process calls them, with
    the same whole batch, and gets the same metrics.
    """

    def processes(self) -> Processes:
        """The processes that `load` has joined, where it was given a mesh."""

    def init_state(self, config: TrainConfig, seed: int, mesh: Mesh | None = None) -> Any:
        """The state before the first step."""

    def load_state(
        self, config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
    ) -> Any:
        """A state of these leaves, copied. Without optimizer leaves it can be evaluated, but not trained.

        Of each leaf only the slices that this process holds are read.
        """

    def read_weights(self, state: Any) -> Iterator[tuple[str, np.ndarray]]:
        """The weights by name."""

    def read_optimizer(self, state: Any) -> Iterator[tuple[str, np.ndarray]]:
        """`m.<name>` and `v.<name>` of every weight, and `step`."""

    def read_shares(self, state: Any) -> tuple[Shares, Shares]:
        """The same, weights and optimizer, in slices: each slice is of one process, which is to save it."""

    def make_train_step(self, config: TrainConfig, mesh: Mesh | None = None) -> TrainStep: ...

    def make_eval_step(self, config: TrainConfig, mesh: Mesh | None = None) -> EvalStep: ...

    def make_logits(self, config: TrainConfig) -> Logits: ...

    def make_prefill(self, config: TrainConfig) -> Prefill:
        """Not of an encoder, which writes no text."""

    def make_decode_step(self, config: TrainConfig) -> DecodeStep:
        """Likewise."""

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """Have the framework's own profiler trace what runs inside, into files under `folder`."""

    def versions(self) -> dict[str, str]:
        """Names and versions of the libraries beneath."""

    def choices(self, only_measured: bool = False) -> dict[str, str]:
        """What this process chooses by the times of this machine, such as the form of a product, by what it is for.

        Args:
            only_measured: Leave out what `repeat` has told.
        """

    def repeat(self, choices: dict[str, str]) -> None:
        """Choose as another process did, whose `choices` these are, so that the numbers have the same bits."""


def load(name: BackendName, config: TrainConfig, mesh: Mesh | None = None) -> Backend:
    """Import a backend and set its framework up: threads, device, float64; with a mesh, join the other processes.

    Raises:
        InputError: the device is not there, or the mesh's devices or processes are not, or the machine has less memory
            than the weights take.
    """
    if mesh is None:
        refuse_weights(config)
    if name == "jax":
        # Read once, when JAX makes its CPU client.
        if config.threads is not None:
            os.environ["NPROC"] = str(config.threads)
        if config.device == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
    backend = importlib.import_module(f"{name}_impl.backend")
    backend.configure(config, mesh)
    if mesh is None:
        keep_choices(backend)
    return cast(Backend, backend)
