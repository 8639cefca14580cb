"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Rate of update ``step`` (from 0): linear from 0 up to ``peak``, then half a cosine down to 0.

    Update ``warmup_steps - 1`` is the first at the peak, and the rate would be 0 at update ``total_steps``, which is
    never made: no update is wasted on a rate of 0.
    """
    assert 0 <= step < total_steps, (step, total_steps)
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return peak * (0.5 * (1.0 + math.cos(math.pi * progress)))
