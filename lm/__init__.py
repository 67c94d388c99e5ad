"""What both backends of twinlm share: data, initial weights, checkpoints, the training loop, the command.

From Python, in either backend:

    import lm
    model = lm.load("runs/demo/torch", backend="jax")    # a run or a checkpoint; without backend, what trained it
    print(model.generate("Once upon a time", temperature=0.8, seed=1))
    model.logits("Once upon a time")                     # NumPy: (tokens, vocabulary); ids are taken too
    model.score("Once upon a time").bits_per_byte        # and nats of each token, total_nats, perplexity
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # What they need comes with the first use, so that `import lm` and the command's help stay light.
    if name in ("Model", "load"):
        from lm import api

        return getattr(api, name)
    raise AttributeError(f"module 'lm' has no attribute '{name}'")
