"""Schedules as pure functions of the step: learning rates, and whatever else moves during training.

Most recipes need none of this: Trainer's `lr_scheduler_type="cosine_with_min_lr"` and `warmup_steps` serve them.
"""

import math

from hub_mim.checking import takes


@takes(step=">=0", total=">=0", warmup=">=0")
def warmup_cosine(step: float, *, peak: float, total: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """Rise linearly from 0 to `peak`, then fall along half a cosine to `floor`.

    Args:
        step: position, in the unit of `total` and `warmup` (steps or epochs), may be fractional.
        peak: the highest value.
        total: where `floor` is reached; it is kept afterwards.
        warmup: where `peak` is reached.
        floor: the last value.
    Raises:
        ValueError: the warm-up is longer than the whole.
    Source: He et al. 2022 (arXiv:2111.06377), appendix A.1; Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5.
    """
    if warmup > total:
        raise ValueError(f"the warm-up of {warmup} is longer than the whole schedule of {total}")
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / (total - warmup)) if total > warmup else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


@takes(step=">=0", total=">=0")
def ema_decay(step: int, *, start: float, end: float, total: int) -> float:
    """Move a teacher's decay from `start` to `end` along half a cosine; Grill et al. 2020 (BYOL), section 3.2."""
    progress = min(1.0, step / max(1, total))
    return end - (end - start) * 0.5 * (1.0 + math.cos(math.pi * progress))
