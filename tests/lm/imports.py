"""What the processes of tests/lm/processes.py find imported. Nothing is computed: that would start threads."""

import warnings

import jax_impl.backend
import lm.cli.train
import lm.run.train
import torch_impl.backend

__all__ = ["jax_impl", "lm", "torch_impl"]

warnings.filterwarnings("ignore", message=".*os.fork")
