"""The table of the numeric subjects: how they are called, drawn, and computed by the oracle."""

from parity.check.optimizers import OPTIMIZERS
from parity.check.subjects import Subject
from parity.check.table.attention import ATTENTION
from parity.check.table.functions import FUNCTIONS
from parity.check.table.layers import LAYERS
from parity.check.table.models import MODELS
from parity.check.table.schedule import SCHEDULES

SUBJECTS: tuple[Subject, ...] = (*FUNCTIONS, *LAYERS, *ATTENTION, *MODELS, *SCHEDULES, *OPTIMIZERS)

__all__ = ["SUBJECTS"]
