"""Running sums of named losses, which stay on the device until they are logged."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, stack, zeros


class LossSums:
    """Weighted means of named losses over steps and processes.

    Args:
        clean: count what is no number as 0.
    """

    def __init__(self, clean: bool = False):
        self.clean = clean
        self.sums: dict[str, tuple[Tensor, float]] = {}

    def add(self, losses: Mapping[str, Tensor], weight: float) -> None:
        """Add losses, one number each, with a weight: the rows they are means of, or a process's share of a step."""
        for name, value in losses.items():
            value = value.detach().mean() if value.dim() else value.detach()  # one value a device under DataParallel
            if self.clean:
                value = value.nan_to_num(0.0, 0.0, 0.0)
            if name in self.sums:
                total, weights = self.sums[name]
                self.sums[name] = total.add_(value, alpha=weight), weights + weight
            else:
                self.sums[name] = value.float() * weight, weight

    def take(self, prefix: str, accelerator: Any) -> dict[str, float]:
        """Return the mean of each loss since the last call, over all processes; the only look at the device."""
        named, self.sums = self.sums, {}
        names = list(named)
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            names = list(dict.fromkeys(gather_object(names)))  # a task may have come up on one process only
        if not names:
            return {}
        absent = zeros((), device=accelerator.device), 0.0
        pairs = [named.get(name, absent) for name in names]
        totals = stack([total for total, _ in pairs])
        sums = stack([totals, totals.new_tensor([weight for _, weight in pairs])])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, "sum")
        return {f"{prefix}/{name}": total / weight for name, total, weight in zip(names, *sums.tolist(), strict=True)}
