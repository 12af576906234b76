"""Pictures of spectrograms: with hidden patches, as predicted, as they are."""

from pathlib import Path
from typing import Any

import torch

from hub_mim.patches import unpatchify


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw the first unit of rows as MW-MAE sees them; see `Method.picture`.

    Where the model predicts standardised patches, each patch's mean and deviation are the clip's own.
    """
    from hub_mim.data import encode
    from hub_mim.evaluation import _draws
    from hub_mim.pictures import masked_spectrograms

    config = model.config
    frames = config.spectrogram_size[0]
    values = encode(processor, rows)["input_values"][:, :frames]
    with torch.no_grad():
        out = model(values, **_draws(model, seed, start, len(rows)))
    patch, grid = (config.patch_size[0], config.patch_size[1]), config.grid
    guess = out.predictions
    if config.norm_patch_loss:
        own = values.unfold(1, patch[0], patch[0]).unfold(2, patch[1], patch[1]).flatten(3).flatten(1, 2)
        variance, mean = torch.var_mean(own, dim=-1, correction=0, keepdim=True)
        guess = guess * (variance + 1e-6).sqrt() + mean
    predicted = unpatchify(guess, patch, grid)[:, 0]
    mask = out.mask.view(-1, *grid).repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)
    seconds = frames * getattr(processor, "hop_length", 160) / processor.sampling_rate
    names = [f"row {number}" for number in range(start, start + len(rows))]
    return masked_spectrograms(
        values.numpy(), mask.numpy(), predicted.numpy(), path, seconds=seconds, names=names, overwrite=overwrite
    )
