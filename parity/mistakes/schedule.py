"""Mistakes of the learning rate's schedule: a linear warm-up, half a cosine, then the minimum."""

import math
from functools import partial

from parity.mistakes.mistake import mistake
from parity.oracle import cosine_schedule

_mistake = partial(
    mistake,
    formula="t / T_w * max; then min + (1 + cos(pi * (t - T_w) / (T_c - T_w))) / 2 * (max - min); min from T_c on",
    source="Loshchilov and Hutter, 2017, eq. 5; the course's assignment 1, section 4.4",
    pitfall="The schedule's first and last step",
)
_warm_up = partial(_mistake, replaces="warm_up")
_schedule = partial(_mistake, replaces="cosine_schedule")


def _inside(step: int, highest: float, lowest: float, warmup: int, cosine: int, height: float) -> float:
    """Return the right rate outside the cosine, and this height between lowest and highest inside it."""
    if warmup <= step < cosine:
        return lowest + (highest - lowest) * height
    return cosine_schedule(step, highest, lowest, warmup, cosine)


def _height(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _progress(step: int, warmup: int, cosine: int) -> float:
    return (step - warmup) / max(cosine - warmup, 1)


@_warm_up("schedule: warm-up counts from 1")
def _(step: int, highest: float, lowest: float, warmup: int) -> float:
    """The warm-up is (t + 1) / T_w. Step 0 then has a rate above 0, and the maximum comes one step early."""
    return highest * (step + 1) / warmup


@_warm_up("schedule: warm-up ends one step late")
def _(step: int, highest: float, lowest: float, warmup: int) -> float:
    """The warm-up is t / (T_w + 1). The rate jumps to the maximum when the warm-up ends."""
    return highest * step / (warmup + 1)


@_warm_up("schedule: warm-up from the minimum")
def _(step: int, highest: float, lowest: float, warmup: int) -> float:
    """The warm-up rises from the minimum instead of from 0. The first steps are too large."""
    return lowest + (highest - lowest) * step / warmup


@_warm_up("schedule: warm-up in whole numbers")
def _(step: int, highest: float, lowest: float, warmup: int) -> float:
    """t // T_w divides whole numbers, so it is 0 in the whole warm-up. The weights do not move before the warm-up
    ends."""
    return 0.0


@_warm_up("schedule: no warm-up")
def _(step: int, highest: float, lowest: float, warmup: int) -> float:
    """The rate is the maximum before the cosine begins. Large steps then meet the moments while they are still
    noise."""
    return highest


@_schedule("schedule: cosine from step 0")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine's progress is t / T_c: the warm-up is not subtracted. The rate jumps down when the warm-up ends."""
    return _inside(step, highest, lowest, warmup, cosine, _height(step / cosine))


@_schedule("schedule: cosine over T_c steps")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The progress is (t - T_w) / T_c: the warm-up is not subtracted from the cosine's length. The rate jumps to
    the minimum at the end."""
    return _inside(step, highest, lowest, warmup, cosine, _height((step - warmup) / cosine))


@_schedule("schedule: T_c counts from the end of the warm-up")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine ends T_c steps after the warm-up instead of T_c steps after the start. The minimum comes T_w steps
    late."""
    return cosine_schedule(step, highest, lowest, warmup, warmup + cosine)


@_schedule("schedule: progress one step ahead")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The progress is (t - T_w + 1) / (T_c - T_w). The rate falls one step early."""
    return _inside(step, highest, lowest, warmup, cosine, _height(_progress(step + 1, warmup, cosine)))


@_schedule("schedule: cosine one step short")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The progress is (t - T_w) / (T_c - T_w - 1). The minimum comes one step early."""
    return _inside(step, highest, lowest, warmup, cosine, _height(_progress(step, warmup, cosine - 1)))


@_schedule("schedule: cosine one step long")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The progress is (t - T_w) / (T_c - T_w + 1). The rate jumps to the minimum at the end."""
    return _inside(step, highest, lowest, warmup, cosine, _height(_progress(step, warmup, cosine + 1)))


@_schedule("schedule: angle without pi")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine's angle runs from 0 to 1 instead of to pi. The rate falls by a quarter only, then jumps to the
    minimum."""
    return _inside(step, highest, lowest, warmup, cosine, _height(_progress(step, warmup, cosine) / math.pi))


@_schedule("schedule: a whole period of the cosine")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine's angle runs from 0 to 2 pi instead of to pi. The rate reaches the minimum halfway and rises
    again."""
    return _inside(step, highest, lowest, warmup, cosine, _height(2 * _progress(step, warmup, cosine)))


@_schedule("schedule: a quarter period of the cosine")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The rate is min + cos(pi / 2 * progress) * (max - min). It falls late, and steeply at the end."""
    return _inside(
        step, highest, lowest, warmup, cosine, math.cos(math.pi / 2 * _progress(step, warmup, cosine))
    )


@_schedule("schedule: half missing")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """1 + cos is not divided by 2. The cosine starts at about twice the maximum."""
    return _inside(step, highest, lowest, warmup, cosine, 2 * _height(_progress(step, warmup, cosine)))


@_schedule("schedule: cosine rises")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The height is (1 - cos) / 2. The rate rises from the minimum to the maximum, then jumps to the minimum."""
    return _inside(step, highest, lowest, warmup, cosine, 1 - _height(_progress(step, warmup, cosine)))


@_schedule("schedule: line in place of the cosine")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The rate falls by a straight line. It is too small before the middle and too large after it."""
    return _inside(step, highest, lowest, warmup, cosine, 1 - _progress(step, warmup, cosine))


@_schedule("schedule: minimum not added")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine falls from max - min to 0, because the minimum is not added. The rate jumps up to the minimum at
    the end."""
    right = cosine_schedule(step, highest, lowest, warmup, cosine)
    return right - lowest if warmup <= step < cosine else right


@_schedule("schedule: minimum not subtracted from the amplitude")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine's amplitude is max instead of max - min. The rate starts at max + min, above the maximum."""
    right = cosine_schedule(step, highest, lowest, warmup, cosine)
    return right + lowest * _height(_progress(step, warmup, cosine)) if warmup <= step < cosine else right


@_schedule("schedule: minimum as a floor")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The cosine falls to 0 and is cut off at the minimum. The rate reaches the minimum too early."""
    right = cosine_schedule(step, highest, 0.0, warmup, cosine)
    return right if step < warmup else max(right, lowest)


@_schedule("schedule: cosine never ends")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The rate follows the cosine beyond T_c. It rises again after the minimum."""
    if step < cosine:
        return cosine_schedule(step, highest, lowest, warmup, cosine)
    return lowest + (highest - lowest) * _height(_progress(step, warmup, cosine))


@_schedule("schedule: 0 after the cosine")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The rate is 0 after T_c instead of the minimum. Training stops there."""
    return 0.0 if step > cosine else cosine_schedule(step, highest, lowest, warmup, cosine)


@_schedule("schedule: maximum after the cosine")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The rate is the maximum after T_c instead of the minimum. Training restarts with large steps."""
    return highest if step > cosine else cosine_schedule(step, highest, lowest, warmup, cosine)


@_schedule("schedule: maximum and minimum swapped")
def _(step: int, highest: float, lowest: float, warmup: int, cosine: int) -> float:
    """The arguments max_learning_rate and min_learning_rate are swapped. The rate rises in place of falling."""
    return cosine_schedule(step, lowest, highest, warmup, cosine)
