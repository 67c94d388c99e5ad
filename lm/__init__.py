"""What both backends of twinlm share: data, initial weights, checkpoints, the training loop, the command."""

__version__ = "0.1.0"
