"""Pictures: what is hidden, where the prediction of hidden patches comes near, and where a picture is like its caption."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TITLES = ("picture", "hidden", "cosine, predicted and target", "cosine, patch and caption")
GREY = 0.85


@torch.no_grad()
def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw rows as CFM-ViT sees them; see `Method.picture`.

    Beside a picture: its visible patches, with hidden ones in grey; how near the prediction of each hidden patch is to what the
    encoder makes of it; how near each patch of the whole picture is to the caption. The maps of all rows share their colours.
    """
    from hub_mim.data import encode
    from hub_mim.evaluation import _draws

    model.eval()
    batch = {name: value.to(model.device) for name, value in encode(processor, rows).items()}
    out = model(**batch, output_targets=True, **_draws(model, seed, start, len(rows)))
    near = 1 - model._error(out.predictions, out.targets) if _embeds(model) else _correlation(out)
    likeness, grid = caption_maps(model, batch["pixel_values"], out.text_embeds)
    near = near.masked_fill(~out.mask, float("nan")).view(-1, *grid)
    captions = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    pictures = processor.as_pictures(batch["pixel_values"])
    hidden = out.mask.cpu().view(-1, *grid)
    side = model.config.patch_size
    whole = hidden.repeat_interleave(side, 1).repeat_interleave(side, 2)
    masked = torch.where(whole[..., None], torch.tensor(GREY), pictures)
    return _panel([pictures, masked, near.cpu(), likeness.cpu()], captions, path, start, overwrite)


def caption_maps(model: Any, pixel_values: Tensor, text_embeds: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the cosine of each patch with the row's text (B, h, w), and the grid.

    Args:
        model: of pre-training. pixel_values: (B, 3, H, W). text_embeds: unit vectors (B, E).
    """
    from hub_mim_cfm_vit.losses import unit

    features, _, grids = model.cfm_vit.patch_features(pixel_values)
    rows, columns = (int(each) for each in grids[0])
    return (unit(features) @ text_embeds[..., None])[..., 0].view(-1, rows, columns), (rows, columns)


def _embeds(model: Any) -> bool:
    return bool(model.config.reconstruction_target == "embedding")


def _correlation(out: Any) -> Tensor:
    """Return the cosine of predicted and standardised pixels (B, N)."""
    return torch.nn.functional.cosine_similarity(out.predictions.float(), out.targets.float(), dim=-1)


def _panel(columns: list[Tensor], captions: list[str], path: Path, start: int, overwrite: bool) -> Path:
    from hub_mim.pictures import _label, _panels, _save

    count = len(captions)
    shape = columns[0].shape[1] / columns[0].shape[2]
    figure, axes = _panels(len(columns) * count, wide=len(columns), high=min(2.2, 0.4 + 2.6 * shape))
    for place, (title, values) in enumerate(zip(TITLES, columns, strict=True)):
        known = values[values.isfinite()]
        low, high = (float(known.min()), float(known.max())) if values.dim() == 3 and len(known) else (0.0, 1.0)
        shown: Any = None
        for row in range(count):
            axis = axes[row * len(columns) + place]
            colours: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high} if values.dim() == 3 else {}
            shown = axis.imshow(values[row].numpy(), interpolation="nearest", **colours)
            axis.spines[:].set_visible(False)
            _label(axis, title if row == 0 else "", f"row {start + row}" if place == 0 else "")
            if place == len(columns) - 1:
                axis.set_xlabel(_wrapped(captions[row]), fontsize=6)
        if values.dim() == 3:
            figure.colorbar(shown, ax=axes[place :: len(columns)], shrink=0.7).ax.tick_params(labelsize=6)
    return _save(figure, path, overwrite)


def _wrapped(text: str, width: int = 44, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
