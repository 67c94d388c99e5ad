"""Functions without weights."""

import numpy as np

from parity import draws as parity_draws
from parity import oracle
from parity.case import Given, Layer
from parity.check import draws
from parity.check.subjects import Call
from parity.check.table.entry import WIDE, renamed, subject


def _cross_entropy(g: Given) -> np.ndarray:
    return oracle.cross_entropy(g.arrays["logits"], g.constants["targets"])


FUNCTIONS = (
    subject(
        "softmax",
        Layer(
            ((3, 7), (2, 4, 5), (1, 6)),
            draws.softmax,
            lambda g: oracle.softmax(g.arrays["x"], g.statics["axis"]),
        ),
        Call("run_softmax", renamed(in_features="x", dim="dim")),
        Call("softmax", renamed(x="x", axis="dim")),
        cases=({"shape": (3, 5), "scale": 100.0},),
        beyond=({"shape": (3, 5), "spread": WIDE},),
    ),
    subject(
        "silu",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.silu(g.arrays["x"])),
        Call("run_silu", renamed(in_features="x")),
        Call("silu", renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 1000.0},),
    ),
    subject(
        "gelu",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.gelu(g.arrays["x"])),
        Call("run_gelu", renamed(in_features="x"), year=2024),
        Call("gelu", renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 50.0},),
    ),
    subject(
        "gelu_tanh",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.gelu_tanh(g.arrays["x"])),
        Call("gelu_tanh", renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 50.0},),
    ),
    subject(
        "cross_entropy",
        Layer(((5, 7), (3, 11), (1, 6)), draws.cross_entropy, _cross_entropy),
        Call("run_cross_entropy", renamed(inputs="logits", targets="targets")),
        Call("cross_entropy", renamed(logits="logits", targets="targets")),
        cases=({"shape": (5, 7), "spread": WIDE},),
        beyond=({"shape": (2, 3, 5)}, {"shape": (3, 5), "scale": 100.0}),
    ),
)
