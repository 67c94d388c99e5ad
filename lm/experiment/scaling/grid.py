"""The runs of a scaling law: compute budgets, model sizes, tokens and learning rates."""

import math
from dataclasses import dataclass, replace

from lm.config import ModelConfig, TrainConfig
from lm.experiment.runs import Changes, apply_changes
from lm.flops import matmuls, train_flops_per_token

BUDGETS = (0.6e12, 1.2e12, 2.4e12, 4.8e12)
"""Training FLOPs of the grid, before `--budget` multiplies them."""
BEYOND = 4
"""The prediction is for this multiple of the largest budget."""
SIZES_OF_A_BUDGET = 5
REPEAT_EVERY = 3
"""Every third run is repeated with another seed."""
RATE_FACTORS = (0.5, 1.0, 2.0)
"""Multiples of the rule's rates that the sweep compares."""


Size = tuple[int, int]
"""(d_model, layers)."""

SIZES: tuple[Size, ...] = ((24, 2), (32, 2), (48, 2), (64, 3), (96, 3), (128, 4))
"""Sizes of the grid, rising."""
_HEAD = 16
_WIDEST = 512


def sized(base: TrainConfig, size: Size) -> ModelConfig:
    """Return the baseline's model in a size."""
    return apply_changes(base, shape(size)).model


def shape(size: Size) -> Changes:
    """Return the settings of a size: heads about 16 wide, at least two of them."""
    d_model, num_layers = size
    return {"d_model": d_model, "num_layers": num_layers, "num_heads": max(2, d_model // _HEAD)}


def multiplied(model: ModelConfig) -> int:
    """Count the weights that multiply activations: all matrices except the embedding, which is looked up.

    So the products of weights take 6 x count x tokens FLOPs in training. Attention's scores and sums come on top.
    """
    products = [m for m in matmuls(model) if not m.name.endswith(("scores", "weighted_sum"))]
    return sum(m.flops for m in products) // (2 * model.context_length)


@dataclass(frozen=True)
class Cell:
    """A run of the grid: a size, trained on the tokens that a budget pays for."""

    budget: float
    size: Size
    seed: int
    """Added to the config's seed."""

    def changes(self, base: TrainConfig, rate_factor: float = 1.0) -> Changes:
        """Return the changes of the baseline that make this run.

        Args:
            rate_factor: Multiple of the rule's rates.
        """
        per_step = train_flops_per_token(sized(base, self.size)) * tokens_per_step(base)
        seed = {"seed": base.seed + self.seed} if self.seed else {}
        return {
            **shape(self.size),
            "steps": max(1, round(self.budget / per_step)),
            **rates(base, rate_factor),
            **seed,
        }


def tokens_per_step(config: TrainConfig) -> int:
    """Return the number of tokens in a step's batch."""
    return config.batch_size * config.model.context_length


def rates(base: TrainConfig, factor: float) -> Changes:
    """Return a multiple of the rule's learning rates. The rule: every size takes the rates of the config.

    Muon's update of a matrix has a fixed spectral norm. So a rate changes what a layer computes by as much in a wide
    model as in a narrow one (Bernstein, 2025, "Deriving Muon").
    """
    o = base.optimizer
    changes = {"learning_rate": o.learning_rate * factor}
    return changes | ({"muon_learning_rate": o.muon_learning_rate * factor} if o.kind == "muon" else {})


def cells(budget: float) -> list[Cell]:
    """Return the runs of the grid: some sizes for each budget, and every third run with another seed, too.

    Args:
        budget: Multiple of all budgets.
    """
    found = []
    for i, flops in enumerate(BUDGETS):
        first = i * (len(SIZES) - SIZES_OF_A_BUDGET) // (len(BUDGETS) - 1)
        found += [Cell(flops * budget, size, 0) for size in SIZES[first : first + SIZES_OF_A_BUDGET]]
    return found + [replace(cell, seed=1) for cell in found[::REPEAT_EVERY]]


def sweep_cells(budget: float) -> list[Cell]:
    """Return the runs whose rates the sweep changes: a small and a large model, each on its own budget."""
    return [Cell(BUDGETS[0] * budget, SIZES[0], 0), Cell(BUDGETS[-2] * budget, SIZES[-2], 0)]


def best_size(base: TrainConfig, parameters: float) -> Size:
    """Return the size whose weights that multiply are nearest in number, by ratio."""
    ladder = [(d_model, _layers(d_model)) for d_model in range(_HEAD, _WIDEST + 1, _HEAD)]
    return min(ladder, key=lambda size: abs(math.log(multiplied(sized(base, size)) / parameters)))


def _layers(d_model: int) -> int:
    """Return the depth of the widest size of the grid that is at most this wide. Beyond the grid, depth grows on."""
    return max([layers for width, layers in SIZES if width <= d_model], default=1) + max(0, d_model // 64 - 2)
