"""What both backends of twinlm share: data, initial weights, checkpoints, the training loop, the command.

Use from Python, in either backend:

    import lm
    model = lm.load("runs/demo/torch", backend="jax")    # a run or checkpoint; by default its own backend
    print(model.generate("Once upon a time", temperature=0.8, seed=1))
    model.logits("Once upon a time")                     # NumPy (tokens, vocabulary); token ids will do, too
    model.score("Once upon a time").bits_per_byte        # also perplexity, total_nats, and nats of each token
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Import their modules at first use, so that `import lm` and the command's help stay fast.
    if name in ("Model", "load"):
        from lm import api

        return getattr(api, name)
    raise AttributeError(f"module 'lm' has no attribute '{name}'")
