"""How fast two runs of one model diverge: `python -m parity.divergence` prints the table of docs/parity.md.

Training applies a map again and again. At small learning rates roundings only add up. At large ones the map is chaotic:
a difference in the last bit grows from step to step, until the two runs have nothing in common.
"""

from collections.abc import Iterator

import numpy as np

from lm.backend import BackendName, load
from lm.budgets import Dtype
from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.windows import get_batch
from lm.schedule import schedule

MODEL = ModelConfig(vocab_size=48, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=64)
STEPS = 300
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
SHOWN = (1, 10, 30, 100, 200, 300)


def weights_of_run(
    name: BackendName, dtype: Dtype, learning_rate: float, device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Yield all weights as one vector, after each step of a run."""
    optimizer = OptimizerConfig(learning_rate, learning_rate / 10, warmup_steps=30)
    config = TrainConfig(MODEL, optimizer, steps=STEPS, batch_size=8, compute_dtype=dtype, device=device)
    backend = load(name, config)
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    rng = np.random.default_rng(0)
    # Each token depends on the token before it.
    likely, tokens = rng.integers(0, MODEL.vocab_size, (MODEL.vocab_size, 3)), [0]
    for choice in rng.integers(0, 3, 4000):
        tokens.append(int(likely[tokens[-1], choice]))
    for t in range(STEPS):
        lr = schedule("cosine", t + 1, learning_rate, learning_rate / 10, 30, STEPS)
        state, _ = step(state, get_batch(np.array(tokens), 0, t, config.batch_size, MODEL.context_length), lr)
        weights = sorted(backend.read_weights(state), key=lambda leaf: leaf[0])
        yield np.concatenate([w.ravel() for _, w in weights]).astype(np.float64)


def divergence(dtype: Dtype, learning_rate: float) -> list[float]:
    """Return ||torch - JAX|| / ||JAX|| of all weights, after each step."""
    runs = zip(*(weights_of_run(name, dtype, learning_rate) for name in BACKENDS), strict=True)
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in runs]


if __name__ == "__main__":
    print("| precision | learning rate |", *(f"step {t} |" for t in SHOWN))
    print("| --- | --- |", *("--- |" for _ in SHOWN))
    dtypes: tuple[Dtype, ...] = ("float64", "float32")
    for dtype in dtypes:
        for learning_rate in (1e-3, 1e-2, 1e-1, 1.0):
            found = divergence(dtype, learning_rate)
            print(f"| {dtype} | {learning_rate:g} |", *(f"{found[t - 1]:.0e} |" for t in SHOWN), flush=True)
