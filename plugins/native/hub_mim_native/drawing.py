"""Pictures: with their hidden patches, as predicted (visible patches pasted in), as they are."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw rows of pictures as MAE or SimMIM sees them.

    Where the model predicts normalised patches (`norm_pix_loss`), each patch's mean and spread come from the picture
    itself, and the drawing says so: the model alone does not tell them.

    Args:
        model: a pre-training model of transformers for pictures. processor: its image processor.
        rows: list of dicts. path: picture to write. overwrite: replace one that is there.
        start: number of the first row, which with `seed` decides the masks.
    """
    from hub_mim import plugins
    from hub_mim.data import encode
    from hub_mim.evaluation import _draws
    from hub_mim.method import resolve
    from hub_mim.pictures import masked_images

    method = plugins.method_for_model_type(model.config.model_type)
    batch = encode(processor, rows)
    pixels = batch["pixel_values"]
    drawn = _draws(model, seed, start, len(rows), batch, resolve(method.draws) if method.draws else None)
    with torch.no_grad():
        output = model(**batch, **drawn)
    if "bool_masked_pos" in drawn:
        predicted, hidden = output.reconstruction, drawn["bool_masked_pos"]
    else:
        predicted, hidden = _unpatchified(model, pixels, output.logits), output.mask.bool()
    side = round(hidden.shape[1] ** 0.5)
    spread = hidden.view(-1, 1, side, side).float()
    mask = torch.nn.functional.interpolate(spread, size=pixels.shape[-2:]).bool()[:, 0]
    note = "mean and spread of each predicted patch are the picture's own" if _normalised(model) else ""
    shown, guess = (_colours(part, processor) for part in (pixels, torch.where(mask[:, None], predicted, pixels)))
    names = [f"row {number}" for number in range(start, start + len(rows))]
    return masked_images(shown, mask.numpy(), guess, path, names=names, note=note, overwrite=overwrite)


def _normalised(model: Any) -> bool:
    return bool(getattr(model.config, "norm_pix_loss", False))


def _unpatchified(model: Any, pixels: Tensor, patches: Tensor) -> Tensor:
    """Return MAE's predicted patches (B, L, D) as pictures (B, C, H, W)."""
    if _normalised(model):
        own = model.patchify(pixels)
        patches = patches * (own.var(-1, keepdim=True) + 1e-6).sqrt() + own.mean(-1, keepdim=True)
    return model.unpatchify(patches)


def _colours(pixels: Tensor, processor: Any) -> Any:
    """Return pictures (B, H, W, C) in [0, 1], the processor's normalisation undone."""
    mean, spread = (torch.tensor(getattr(processor, name)).view(1, -1, 1, 1) for name in ("image_mean", "image_std"))
    return (pixels * spread + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
