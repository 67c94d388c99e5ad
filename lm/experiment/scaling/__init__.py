"""Scaling laws: the loss as a function of model size and training tokens."""
