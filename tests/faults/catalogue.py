"""Faults that the tests must catch: each one small substitution in the code of a backend, or in what both share."""

from tests.faults import attention, gradients, layers, model, sequences, training

FAULTS = tuple(
    fault for module in (layers, attention, model, gradients, training, sequences) for fault in module.FAULTS
)
