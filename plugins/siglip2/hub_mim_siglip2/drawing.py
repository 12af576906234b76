"""Pictures: each row beside its text and where the text is found in it, and how alike all pictures and texts are."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 8  # rows


def similarity_maps(model: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
    """Return for each row the cosine of every patch with the row's text, (rows, columns) of patches each."""
    from hub_mim_siglip2.contrast import unit
    from hub_mim_siglip2.modeling_siglip2_mim import PICTURE

    with torch.no_grad():
        vectors, _, shapes = model.patch_features(**{name: batch[name] for name in PICTURE if name in batch})
        texts = unit(model.get_text_features(batch["input_ids"]).pooler_output)
        cosines = (unit(vectors) @ texts[:, :, None])[..., 0].float().cpu().numpy()
    return [
        each[: high * wide].reshape(high, wide) for each, (high, wide) in zip(cosines, shapes.tolist(), strict=True)
    ]


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw rows: picture and text, the text's similarity with each patch, and the matrix of all pairs' probabilities.

    Args:
        model: pre-trained. processor: its processor. rows: pairs. path: picture to write.
        start: number of the first row. seed: not read: nothing is masked. overwrite: replace a picture that is there.
    """
    from hub_mim.data import encode
    from hub_mim.pictures import _panels, _save
    from hub_mim.texts import text_of

    rows = rows[:MOST]
    batch = encode(processor, rows)
    with torch.no_grad():
        out = model.towers(**batch)
    maps, chances = similarity_maps(model, batch), out.logits_per_image.sigmoid().float().cpu().numpy()
    figure, axes = _panels(2 * len(rows) + 1, wide=4, high=2.6)
    for number, row in enumerate(rows):
        shown, found = axes[2 * number], axes[2 * number + 1]
        picture = row["image"].convert("RGB")
        shown.imshow(np.asarray(picture))
        shown.set_title(f"{start + number}: {_wrapped(str(text_of(row)[0]))}", fontsize=6)
        whole = (0, picture.width, picture.height, 0)
        found.imshow(np.asarray(picture.convert("L")), cmap="gray", extent=whole)
        seen = found.imshow(maps[number], cmap="magma", alpha=0.6, extent=whole)
        figure.colorbar(seen, ax=found, fraction=0.046).ax.tick_params(labelsize=6)
        found.set_title("cosine of patch and text", fontsize=6)
        for axis in (shown, found):
            axis.set_axis_off()
    last = axes[2 * len(rows)]
    drawn = last.imshow(chances, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=last, fraction=0.046).ax.tick_params(labelsize=6)
    last.set_title("chance that picture and text are a pair", fontsize=6)
    last.set_xlabel("text", fontsize=6)
    last.set_ylabel("picture", fontsize=6)
    numbers = [str(start + number) for number in range(len(rows))]
    last.set_xticks(range(len(rows)), numbers, fontsize=6)
    last.set_yticks(range(len(rows)), numbers, fontsize=6)
    return _save(figure, path, overwrite)


def _wrapped(text: str, width: int = 40, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
