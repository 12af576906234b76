"""How far to trust the Transformer beside the normal model: least squares on cells that training has not seen."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hub_mim.masking import row_seeds

PRIOR_CELLS = 100  # held-out cells that an even blend counts for: a small table's few would choose by chance


class Blend:
    """Gather cells batch by batch; `weight()` is that of the Transformer, in [0, 1]."""

    def __init__(self) -> None:
        self.product = self.power = 0.0
        self.cells = 0

    def add(self, model: Any, batch: dict[str, Tensor], hidden: Tensor) -> None:
        """Predict the observed cells that `hidden` (B, L) names from the others, by both models.

        Args:
            model: `ReMaskerForPreTraining` with `linear_skip="blend"` and a blend of 1.
            batch: `values`, `observed` and, with categories, `codes`.
            hidden: bool (B, L), observed cells.
        """
        observed = batch["observed"] & ~hidden
        ours = model(**batch | {"observed": observed}, mask=~observed, return_loss=False).predictions.double()
        values = batch["values"].masked_fill(~batch["observed"], 0.0)
        normal = model.decoder.skip(values.masked_fill(~observed, 0.0), observed).double()
        numeric = torch.tensor([levels == 0 for levels in model.config.cardinalities], device=hidden.device)
        cells = hidden & numeric
        apart, left = (ours - normal)[cells], (values.double() - normal)[cells]
        self.product += float(apart @ left)
        self.power += float(apart @ apart)
        self.cells += int(cells.sum())

    def weight(self) -> float:
        """Return the least-squares weight, drawn towards an even blend where there are few cells."""
        found = min(1.0, max(0.0, self.product / self.power)) if self.power > 0 else 0.5
        share = self.cells / (self.cells + PRIOR_CELLS)
        return share * found + (1 - share) * 0.5


def blends(model: Any) -> bool:
    """Tell whether a model has a normal model to blend with."""
    return model.config.linear_skip == "blend" and model.decoder.skip is not None


@torch.no_grad()
def on_finish(model: Any, batches: Iterable[dict[str, Any]], seed: int) -> None:
    """Choose the blend of a pre-trained model on its held-out rows, cells hidden as in training."""
    if not blends(model):
        return
    model.eval()
    model.config.blend = 1.0
    blend = Blend()
    for batch in batches:
        rows = {name: value for name, value in batch.items() if name in ("values", "codes", "observed")}
        seeds = row_seeds(seed, 0, batch["row_index"])
        blend.add(model, rows, model.draw_mask(rows["observed"], row_seed=seeds) & rows["observed"])
    model.config.blend = blend.weight()
