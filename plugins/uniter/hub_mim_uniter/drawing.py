"""Which word is which region: the plan of the optimal transport."""

from pathlib import Path
from typing import Any

import torch

from hub_mim.data import encode
from hub_mim_regions.drawing import draw_rows
from hub_mim_uniter.transport import alignment


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw for each row how much of each region goes to each word.

    Args:
        model: pre-trained. processor: its processor. rows: pairs. path: picture to write.
        start, seed: not read: nothing is masked. overwrite: replace a picture that is there.
    """
    batch = encode(processor, rows)
    real = batch["attention_mask"].bool(), batch["visual_attention_mask"].bool()
    with torch.no_grad():
        out = model.uniter(**batch)
        config = model.config
        _, plan, _ = alignment(out.text_hidden, out.region_hidden, *real, config.ot_beta, config.ot_steps)
    return draw_rows(processor, rows, batch, plan.transpose(1, 2), path, overwrite)
