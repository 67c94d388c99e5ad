"""What `bench train-step` compares: this project's two backends, and the protocol for any other library.

A contender is a function of a module, `MODULE:FUNCTION` (or `MODULE`, which means its function `make`):

    def make(work, weights):
        model = MyModel(work.config.model, weights)      # weights: NumPy arrays under this project's names
        def step(inputs, targets):                       # token ids as NumPy arrays (B, T)
            loss, norm = model.train(inputs, targets)    # forward, backward, clipping and AdamW as in work.config
            return float(loss), float(norm)              # waits for the results
        def read(name):
            return numpy.asarray(model.weights[name])    # the current weight
        return step, read, lambda: None                  # peak bytes of device memory, or None on a CPU

`work.dtype` is float32, tf32 or bfloat16. `work.config` holds the device, the threads and the optimizer's settings.
The step must be the same mathematics as ours: see `epsilon_after_correction`. A contender that cannot run raises
`Unavailable` with a reason, and the table shows the reason.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.children import Unavailable
from lm import backend as backends
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from lm.machine import keep_freed_memory
from lm.mesh import Mesh

Step = Callable[[np.ndarray, np.ndarray], tuple[float, float]]
Read = Callable[[str], np.ndarray]
Memory = Callable[[], int | None]
Contender = tuple[Step, Read, Memory]
Weights = dict[str, np.ndarray]

SIZES = {
    "nano": ModelConfig(vocab_size=64, context_length=32, d_model=16, num_layers=1, num_heads=2),
    "micro": ModelConfig(vocab_size=256, context_length=32, d_model=32, num_layers=2, num_heads=2),
    "small": ModelConfig(2048, 128, d_model=256, num_layers=4, num_heads=8, d_ff=704),
    "tinystories": ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=16, d_ff=1344),
    "gpt2-small": ModelConfig(50_257, 1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048),
}
DTYPES = ("float32", "tf32", "bfloat16")

# Epsilon is large, so that the update is roughly proportional to the gradient and shows an error in it. With 1e-8,
# Adam's first step is the sign of the gradient. optim.AdamW decays weights before the update and ours decays them after
# it. The difference is learning_rate * weight_decay, a millionth of the update.
OPTIMIZER = OptimizerConfig(learning_rate=1e-1, eps=1e-3, beta2=0.95, weight_decay=1e-5, min_learning_rate=0)


@dataclass(frozen=True)
class Work:
    """The training step of one row of the table, which every contender takes."""

    name: str
    """SIZE[@CONTEXT]/BATCH/DTYPE, as on the command line."""
    model: ModelConfig
    batch_size: int
    dtype: str
    device: str
    threads: int

    @property
    def config(self) -> TrainConfig:
        """The settings with which `lm train` would take this step."""
        return TrainConfig(
            self.model,
            OPTIMIZER,
            batch_size=self.batch_size,
            compute_dtype="bfloat16" if self.dtype == "bfloat16" else "float32",
            device=self.device,
            threads=self.threads,
        )


def epsilon_after_correction(optimizer: OptimizerConfig) -> float:
    """Return the epsilon with which an AdamW that adds it to the bias-corrected root takes our first step."""
    return optimizer.eps / float((1 - optimizer.beta2) ** 0.5)


def jax(work: Work, weights: Weights) -> Contender:
    """`jax_impl`, as `lm train --backend jax` runs it."""
    step, read = _make_ours("jax", work, weights)
    import jax

    if work.dtype == "tf32":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    device = jax.devices(work.device)[0]
    return step, read, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use")


def torch(work: Work, weights: Weights) -> Contender:
    """`torch_impl`, as `lm train --backend torch` runs it."""
    step, read = _make_ours("torch", work, weights)
    return step, read, torch_memory(work)


def torch_compiled(work: Work, weights: Weights) -> Contender:
    """`torch_impl` with its model under torch.compile."""
    require_compiler(work.device)
    step, read = _make_ours("torch", work, weights, compiled="model")
    return step, read, torch_memory(work)


def torch_cuda_graphs(work: Work, weights: Weights) -> Contender:
    """`torch_impl` with its model under torch.compile, whose operations a CUDA graph launches together."""
    require_compiler(work.device)
    step, read = _make_ours("torch", work, weights, compiled="model", mode="reduce-overhead")
    return step, read, torch_memory(work)


def torch_compiled_step(work: Work, weights: Weights) -> Contender:
    """`torch_impl` with its whole training step under torch.compile, which breaks the step where the host reads."""
    require_compiler(work.device)
    step, read = _make_ours("torch", work, weights, compiled="step")
    return step, read, torch_memory(work)


def load_ours(name: Any, config: TrainConfig, mesh: Mesh | None = None) -> backends.Backend:
    """Set up this process as the command `lm` does, and load a backend.

    Call this before anything imports torch or JAX. Baselines do not call it: they run with their framework's defaults.
    """
    keep_freed_memory()
    return backends.load(name, config, mesh)


def _make_ours(
    backend_name: Any, work: Work, weights: Weights, compiled: str = "", mode: str | None = None
) -> tuple[Step, Read]:
    backend = load_ours(backend_name, work.config)
    state = backend.load_state(work.config, iter(weights.items()), optimizer_zeros(weights))
    if compiled == "model":
        state.model.compile(mode=mode)
    if work.dtype == "tf32" and backend_name == "torch":
        allow_tf32()
    train_step = backend.make_train_step(work.config)
    if compiled == "step":
        import torch

        train_step = torch.compile(train_step)

    def step(inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        nonlocal state
        batch = Batch(inputs[None], targets[None])
        state, metrics = train_step(state, batch, work.config.optimizer.learning_rate)
        return float(metrics["loss"]), float(metrics["grad_norm"])

    return step, lambda name: dict(backend.read_weights(state))[name].copy()


def optimizer_zeros(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the leaves of AdamW's state before the first step."""
    for moment in ("m", "v"):
        for name, weight in weights.items():
            yield f"{moment}.{name}", np.zeros_like(weight)
    yield "step", np.zeros((), np.int32)


def require_compiler(device: str) -> None:
    """Check that torch.compile finds the C++ compiler that it needs on a CPU.

    Raises:
        Unavailable: It does not.
    """
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        raise Unavailable(
            f"torch.compile needs a C++ compiler, and {compiler} is not installed: install it, or set CXX"
        )


def allow_tf32() -> None:
    """Let float32 products round their factors to TF32."""
    import torch

    torch.set_float32_matmul_precision("high")


def torch_memory(work: Work) -> Memory:
    """Return a function that reports the peak of torch's memory on a GPU."""
    import torch

    return lambda: torch.cuda.max_memory_allocated() if work.device != "cpu" else None
