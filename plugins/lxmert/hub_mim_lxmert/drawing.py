"""Where words look: the cross-attention of the last layer."""

from pathlib import Path
from typing import Any

import torch

from hub_mim.data import encode
from hub_mim_regions.drawing import draw_rows


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw for each row how much each word looks at each region, mean over heads.

    Args:
        model: pre-trained. processor: its processor. rows: pairs. path: picture to write.
        start, seed: not read: nothing is masked. overwrite: replace a picture that is there.
    """
    batch = encode(processor, rows)
    with torch.no_grad():
        out = model.lxmert(**batch, output_attentions=True)
    return draw_rows(processor, rows, batch, out.cross_attentions[-1].mean(1), path, overwrite)
