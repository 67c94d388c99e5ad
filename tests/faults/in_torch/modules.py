"""What the faults in modules share."""

import copy
from typing import Any

from torch import nn


def with_parts(module: nn.Module, **parts: Any) -> Any:
    """Return a copy of a module that has other parts: functions, weights or modules. The rest is shared."""
    other = copy.copy(module)
    other.__dict__.update(parts)  # found before the module's own parts
    return other
