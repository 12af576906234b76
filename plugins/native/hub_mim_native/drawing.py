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
    elif "bool_masked_pos" in output:  # Hiera marks what is visible
        predicted, hidden = _of_hiera(model, pixels, output.logits), ~output.bool_masked_pos
    else:
        predicted, hidden = _unpatchified(model, pixels, output.logits), output.mask.bool()
    side = round(hidden.shape[1] ** 0.5)
    spread = hidden.view(-1, 1, side, side).float()
    mask = torch.nn.functional.interpolate(spread, size=pixels.shape[-2:]).bool()[:, 0]
    note = "mean and spread of each predicted patch are the picture's own" if _normalised(model) else ""
    shown, guess = (_colours(part, processor) for part in (pixels, torch.where(mask[:, None], predicted, pixels)))
    names = [f"row {number}" for number in range(start, start + len(rows))]
    return masked_images(shown, mask.numpy(), guess, path, names=names, note=note, overwrite=overwrite)


def draw_clips(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw clips as VideoMAE sees them, the first frame of each tubelet side by side; see `draw`."""
    from hub_mim.data import encode
    from hub_mim.evaluation import _draws
    from hub_mim.pictures import masked_images
    from hub_mim_native.draws import tube_mask

    batch = encode(processor, rows)
    drawn = _draws(model, seed, start, len(rows), batch, tube_mask)
    with torch.no_grad():
        output = model(**batch, **drawn)
    config, pixels, hidden = model.config, batch["pixel_values"], drawn["bool_masked_pos"]
    step, side = config.tubelet_size, config.patch_size
    high, wide = (length // side for length in pixels.shape[-2:])
    frames = pixels.transpose(1, 2).unflatten(2, (-1, step)).unflatten(4, (high, side)).unflatten(6, (wide, side))
    tubes = frames.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(1, 3).flatten(2, 4)  # B, tubelets, points, channels
    guess = tubes.clone()
    own = tubes[hidden].unflatten(0, (len(rows), -1))
    values = output.logits.view_as(own)
    if _normalised(model):
        mean, spread = _colour_scale(processor)
        plain = own * spread + mean
        values = values * (plain.std(-2, keepdim=True) + 1e-6) + plain.mean(-2, keepdim=True)
        values = (values - mean) / spread
    guess[hidden] = values.flatten(0, 1)
    strips = [_strip(part, len(rows), step, high, wide, side, processor) for part in (tubes, guess)]
    mask = hidden.view(len(rows), -1, high, wide).repeat_interleave(side, 2).repeat_interleave(side, 3)
    mask = mask.transpose(1, 2).flatten(2)
    note = "mean and spread of each predicted patch are the clip's own" if _normalised(model) else ""
    names = [f"row {number}" for number in range(start, start + len(rows))]
    return masked_images(strips[0], mask.numpy(), strips[1], path, names=names, note=note, overwrite=overwrite)


def _strip(tubes: Tensor, rows: int, step: int, high: int, wide: int, side: int, processor: Any) -> Any:
    """Return the first frame of each tubelet, side by side (B, H, frames * W, C) in [0, 1]."""
    first = tubes.view(rows, -1, high, wide, step, side, side, tubes.shape[-1])[:, :, :, :, 0]
    mean, spread = _colour_scale(processor)
    return (first.permute(0, 2, 4, 1, 3, 5, 6).flatten(1, 2).flatten(2, 4) * spread + mean).clamp(0, 1).numpy()


def _colour_scale(processor: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(processor.image_mean), torch.tensor(processor.image_std)


def _of_hiera(model: Any, pixels: Tensor, patches: Tensor) -> Tensor:
    """Return Hiera's predicted patches (B, L, C * P * P) as pictures (B, C, H, W)."""
    size = model.pred_stride
    own = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
    shape = own.shape
    if _normalised(model):
        flat = own.flatten(1, 2).flatten(2)
        patches = patches * (flat.var(-1, keepdim=True) + 1e-6).sqrt() + flat.mean(-1, keepdim=True)
    return patches.reshape(shape).permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape)


def _normalised(model: Any) -> bool:
    config = model.config
    return bool(getattr(config, "norm_pix_loss", False) or getattr(config, "normalize_pixel_loss", False))


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
