"""Every layer in the frameworks' other modes: JAX without jit, torch compiled."""

import os
import subprocess
import sys

import pytest

from parity.case import Case
from parity.layers import LAYERS
from tests.parity.support import COMPILER, THOROUGH, assert_parity, variant
from tests.source import ROOT

COMPILED = """
import torch
from lm.budgets import relative_error
from parity.case import Case
from parity.layers import LAYERS
from parity.problem import Problem
from parity.in_torch import evaluate
for layer in {layers!r}:
    torch.compiler.reset()  # the layers share the code that calls them, and torch counts its versions
    problem = Problem(Case(layer, LAYERS[layer].shapes[-1], {seed}), "float32")
    # This backend runs a graph as it is. The mode "eager" would run the layer without a graph.
    compiler = {compiler!r} if layer in {whole!r} else "eager_noexcept"
    output, gradients = evaluate(layer, problem.given, problem.cotangent, "float32", compiler)
    assert relative_error(output, problem.output) <= problem.bound(), layer
    for name, gradient in problem.gradients.items():
        assert relative_error(gradients[name], gradient, problem.flow) <= problem.bound(name), (layer, name)
    print(layer)
"""


# Operation by operation, a block compiles some hundred programs that the layers in it already have.
COMPOSED = {
    "multihead_self_attention",
    "multihead_self_attention with rope",
    "transformer_block",
    "transformer_lm",
    "training loss",
}
COMPOSED |= {"multihead_self_attention with rope", "multihead_self_attention of groups"}
COMPOSED |= {"multihead_self_attention with a d_head"}
COMPOSED |= {"transformer_lm of the family", "transformer_lm of documents"}
COMPOSED |= {"encoder_stack", "transformer_encoder", "prefix_decoder", "encoder_decoder"}


@pytest.mark.parametrize(
    "layer", LAYERS if THOROUGH else [layer for layer in LAYERS if layer not in COMPOSED]
)
def test_jax_without_jit(layer: str) -> None:
    assert_parity(Case(layer, LAYERS[layer].shapes[-1], 1), "float32", modes=[("eager", "eager")])


def test_torch_compiled() -> None:
    """No layer may break the graph, and a step's graph can be differentiated ahead of time. The thorough profile
    generates code by inductor, which needs a C++ compiler.

    The test has a process of its own: torch.compile cannot trace signatures that are checked at every call.
    """
    # Whole models contain the other layers.
    models = {
        "training loss",
        "transformer_lm of documents",
        "encoder_decoder",
    }
    within = set() if THOROUGH else COMPOSED - models
    layers = [layer for layer in LAYERS if layer not in within]
    # torch cannot trace the hash of a dropout's place.
    dropped = {f"{part}_dropout": 0.0 for part in ("embedding", "attention", "residual")}
    seed = variant(position="rope", layer_types=("sliding", "full"), **dropped)
    # Tracing a model's gradient takes ten times as long as its graph, and a step has all of the formulas' forms.
    whole = layers if THOROUGH else ["training loss"]
    program = COMPILED.format(compiler=COMPILER, whole=whole, layers=layers, seed=seed)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == layers
