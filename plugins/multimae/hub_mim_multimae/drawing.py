"""Pictures: for each row and task what was visible, what was predicted, and what is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hub_mim.patches import patchify, unpatchify


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw rows as MultiMAE sees them: a line for each modality; see `Method.picture`.

    What a row lacks is drawn as predicted from its other modalities. Depth goes from dark (near) to bright (far).
    """
    from hub_mim.data import encode
    from hub_mim.evaluation import _draws

    batch = encode(processor, rows)
    with torch.no_grad():
        out = model(**batch, **_draws(model, seed, start, len(rows)))
    return draw_output(model, batch, out, path, start=start, overwrite=overwrite)


def draw_from(
    model: Any,
    processor: Any,
    rows: list[dict[str, Any]],
    visible: Sequence[str],
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Draw what a pre-training model makes of some modalities: these are seen whole, every other one is predicted whole.

    Args:
        model: of pre-training. processor: see `data.encode`. rows: list of dicts. visible: names of modalities.
        path: picture to write. overwrite: replace one that is there.
    """
    from hub_mim.data import encode
    from hub_mim_multimae.embeddings import maps_of
    from hub_mim_multimae.evaluation import whole_masks

    batch = encode(processor, rows)
    maps, grid = maps_of(model, batch)
    with torch.no_grad():
        out = model.eval()(**batch, mask=whole_masks(maps, grid, visible))
    return draw_output(model, batch, out, Path(path), overwrite=overwrite)


def draw_output(
    model: Any,
    batch: dict[str, Tensor],
    out: Any,
    path: Path,
    *,
    start: int = 0,
    overwrite: bool = False,
) -> Path:
    """Draw what a pre-training model made of a batch."""
    from hub_mim.pictures import masked_images
    from hub_mim_multimae.embeddings import maps_of

    maps, grid = maps_of(model, batch)
    tasks = [task for task, target in model.config.targets.items() if task == target and target in maps]
    size = tuple(length * model.config.patch_size for length in grid)
    shown, guessed, hidden, names = [], [], [], []
    for number in range(len(next(iter(maps.values())))):
        for task in tasks:
            values, prediction = maps[task][number : number + 1], out.predictions[task][number : number + 1]
            gone = out.mask[task][number] | ~out.valid[task][number]
            original, predicted = _as_pictures(model, task, values, prediction, gone, grid)
            shown.append(_scaled(original, size))
            guessed.append(_scaled(predicted, size))
            side = model.config.patch_size
            hidden.append(gone.view(grid).repeat_interleave(side, 0).repeat_interleave(side, 1).numpy())
            names.append(f"{start + number} {task}")
    return masked_images(np.stack(shown), np.stack(hidden), np.stack(guessed), path, names=names, overwrite=overwrite)


def _as_pictures(
    model: Any, task: str, values: Tensor, prediction: Tensor, gone: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the original and the prediction, visible patches pasted in, as colours (H, W, 3) in [0, 1]."""
    modality, side = model.config.modality(task), model.config.patch_side(task)
    if modality.categorical:
        seen = patchify(values[:, None], (side, side), order="channel_first")
        guess = prediction.unflatten(2, (modality.num_classes, -1)).argmax(2)
    else:
        seen, guess = patchify(values, (side, side), order="channel_first"), prediction
    pasted = torch.where(gone[None, :, None], guess, seen)
    maps = [unpatchify(each, (side, side), grid, order="channel_first")[0] for each in (seen, pasted)]
    if modality.categorical:
        return tuple(_palette(each[0], modality.num_classes) for each in maps)  # type: ignore[return-value]
    if modality.channels >= 3 and modality.mean:
        mean, std = (torch.tensor(each)[:3, None, None] for each in (modality.mean, modality.std))
        return tuple((each[:3] * std + mean).clamp(0, 1).permute(1, 2, 0) for each in maps)  # type: ignore[return-value]
    low, high = maps[0][0].aminmax()
    grey = [((each[0] - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) for each in maps]
    return tuple(_coloured(each) for each in grey)  # type: ignore[return-value]


def _palette(classes: Tensor, count: int) -> Tensor:
    from matplotlib import colormaps

    table = colormaps["tab20"](np.arange(count) % 20)[:, :3]
    return torch.from_numpy(table[classes.numpy()]).float()


def _coloured(values: Tensor) -> Tensor:
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["viridis"](values.numpy())[..., :3]).float()


def _scaled(picture: Tensor, size: tuple[int, ...]) -> np.ndarray:
    whole = interpolate(picture.permute(2, 0, 1)[None], size=size, mode="nearest-exact")[0]
    return whole.permute(1, 2, 0).numpy()
