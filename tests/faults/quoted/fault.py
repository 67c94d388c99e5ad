"""What a fault is, and the tests that are to notice."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`old`, found once in `file`, becomes `new`; then some test in `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def fault(name: str, file: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, file, old, new, tests)


P = "tests/parity/test_"
SOFTMAX, SILU, LOSS, CLIP = f"{P}softmax.py", f"{P}silu.py", f"{P}cross_entropy.py", f"{P}clip_gradients.py"
LINEAR, EMBEDDING, NORM, SWIGLU = (f"{P}{name}.py" for name in ("linear", "embedding", "rmsnorm", "swiglu"))
ROPE, ATTENTION, HEADS = f"{P}rope.py", f"{P}attention.py", f"{P}multihead_self_attention.py"
BLOCK, MODEL, OPTIMIZER = f"{P}transformer_block.py", f"{P}transformer_lm.py", f"{P}optimizer.py"
SCHEDULE, STEP, RUN = f"{P}schedule.py", f"{P}train_step.py", f"{P}training_run.py"
GELU, LAYERNORM, FEED_FORWARD = (f"{P}{name}.py" for name in ("gelu", "layernorm", "feed_forward"))
FAMILY, DROPOUT, REMAT, FUSED = (f"{P}{name}.py" for name in ("family", "dropout", "remat", "fused"))
DATA, BITS = "tests/lm/data/test_windows.py", f"{P}same_bits.py"
ENCODER, PREFIXED = f"{P}encoder.py", f"{P}encoder_decoder.py"
PAIRS, MASKING = "tests/lm/data/test_pairs.py", "tests/lm/data/test_masking.py"
MESH = "tests/lm/test_mesh.py"
