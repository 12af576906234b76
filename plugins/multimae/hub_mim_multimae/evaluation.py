"""How well hidden patches are predicted, beside what needs no model: the mean of the visible ones, and interpolation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hub_mim.masking import EVALUATION, row_seeds
from hub_mim.results import Result
from hub_mim_multimae.embeddings import Grid, maps_of
from hub_mim_multimae.objectives import target_patches

BATCH = 32
MEASURES = {"continuous": "absolute error", "categorical": "accuracy"}


def reconstruction(
    model: Any, processor: Any, rows: list[dict[str, Any]], *, seed: int = 0, inputs: str = "", **options: Any
) -> list[Result]:
    """Measure each modality's prediction where it is hidden.

    Args:
        model: of pre-training. processor: see `data.encode`. rows: list of dicts.
        seed: of each row's mask.
        inputs: names, parted by commas: these modalities are seen whole, every other one is hidden whole; default the
            masks of pre-training.
    Returns:
        For a continuous modality the mean absolute error on the model's scale, for a categorical one the share of right
        classes: of the model, of the row's visible patches' mean (or most frequent class), and of their interpolation by
        inverse squared distance.
    Raises:
        ValueError: `inputs` names no modality.
    """
    names = [name.strip() for name in inputs.split(",") if name.strip()]
    for name in names:
        if name not in model.config.names:
            raise ValueError(f"inputs names {name!r}; the modalities are {', '.join(model.config.names)}")
    sums: dict[tuple[str, str], list[float]] = {}
    for start in range(0, len(rows), BATCH):
        for key, (total, count) in _batch(model, processor, rows[start : start + BATCH], names, seed, start).items():
            kept = sums.setdefault(key, [0.0, 0.0])
            kept[0], kept[1] = kept[0] + total, kept[1] + count
    told = f" from {'+'.join(names)}" if names else ""
    return [
        Result(
            metric_type=f"{task} {measure}{told}{f' ({source})' if source else ''}",
            metric_value=total / max(count, 1.0),
            dataset_name="",
            task_type="image-to-image",
        )
        for (task, source), (total, count) in sums.items()
        for measure in [MEASURES[model.config.modality(task).kind]]
    ]


def whole_masks(maps: dict[str, Tensor], grid: Grid, visible: Sequence[str]) -> dict[str, Tensor]:
    """Return masks that show some modalities whole and hide all others whole: cross-modal prediction."""
    first = next(iter(maps.values()))
    shape = len(first), grid[0] * grid[1]
    return {name: torch.full(shape, name not in visible, device=first.device) for name in maps}


def _batch(
    model: Any, processor: Any, rows: list[dict[str, Any]], names: list[str], seed: int, start: int
) -> dict[tuple[str, str], tuple[float, float]]:
    from hub_mim.data import encode

    batch = {name: value.to(model.device) for name, value in encode(processor, rows).items()}
    maps, grid = maps_of(model, batch)
    seeds = row_seeds(seed, EVALUATION, torch.arange(start, start + len(rows), device=model.device))
    mask = whole_masks(maps, grid, names) if names else None
    with torch.no_grad():
        out = model.eval()(**batch, mask=mask, row_seed=seeds, return_loss=False)
    found = {}
    for task, target in model.config.targets.items():
        if task != target or target not in maps:
            continue
        wanted = target_patches(model.config, task, maps[target])
        modality = model.config.modality(target)
        classes = modality.num_classes if modality.categorical else 0
        guesses = {"": _as_guess(out.predictions[task], classes)}
        if not names:
            guesses |= baselines(wanted, out.scored[task], out.valid[task], grid, classes, modality.channels)
        for source, guess in guesses.items():
            right = (guess == wanted).float() if classes else (guess - wanted).abs()
            scored = out.scored[task]
            if not bool(scored.any()):
                continue  # seen whole: nothing was predicted
            found[task, source] = float(right.mean(2)[scored].sum()), float(scored.sum())
    return found


def _as_guess(prediction: Tensor, classes: int) -> Tensor:
    return prediction.unflatten(2, (classes, -1)).argmax(2) if classes else prediction.float()


def baselines(
    wanted: Tensor, hidden: Tensor, valid: Tensor, grid: Grid, classes: int, channels: int = 1
) -> dict[str, Tensor]:
    """Return what the visible patches alone suggest for the hidden ones.

    Args:
        wanted: (B, N, values), classes as whole numbers. hidden, valid: bool (B, N). grid: of patches.
        classes: how many, 0 for a continuous modality. channels: of a continuous one; a patch is guessed as one colour.
    Returns:
        By name, predictions as `wanted`. Where no patch of a row is visible both are 0 (the mean of standardised values, the
        first class).
    """
    if classes:
        summary = torch.nn.functional.one_hot(wanted, classes).float().mean(2)  # B, N, classes
    else:
        summary = wanted.float().unflatten(2, (channels, -1)).mean(3)  # B, N, channels
    seen = (valid & ~hidden).float()
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1).float().to(summary)
    near = 1 / torch.cdist(places, places).square().clamp(min=1e-3)
    found = {}
    for name, weights in (("mean of visible", torch.ones_like(near)), ("interpolation", near)):
        share = weights[None] * seen[:, None]
        guess = share @ summary / share.sum(2, keepdim=True).clamp(min=1e-9)
        colour = (
            guess.repeat_interleave(wanted.shape[2] // channels, 2) if not classes else guess.argmax(2, keepdim=True)
        )
        found[name] = colour.expand_as(wanted)
    return found
