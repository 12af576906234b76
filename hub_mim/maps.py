"""Where a model looks (attention maps) and where it puts rows (embedding maps), as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes

if TYPE_CHECKING:
    import numpy as np

HEADS = 4  # shown beside their mean
MAX_ROWS = 2000  # of an embedding map; more points hide each other


@takes(start=">=0")
def draw_attention(
    source: str | Path,
    rows: list[dict[str, Any]],
    path: Path,
    *,
    start: int = 0,
    layer: int = -1,
    overwrite: bool = False,
) -> Path:
    """Draw what each row's tokens attend to in one layer: the mean of all heads, then the first heads.

    For pictures the attention is drawn at the places it goes to: that of the class token where there is one, else the
    mean over all tokens. For anything else it is a matrix, one line for each token that looks.

    Args:
        source: folder or Hub id. rows: to draw. path: picture to write. overwrite: replace one that is there.
        start: number of the first row, for its name. layer: which, from 0, or from the end below 0.
    Raises:
        ValueError: the model gives no attention, or has no such layer.
    """
    from hub_mim import loading
    from hub_mim.pictures import attention_images, attention_matrices

    model = loading.load(source, attn_implementation="eager").eval()
    processor = loading.load_processor(source)
    weights, picture, grid, first = _attention(model, processor, rows, layer)
    names = [f"row {number}" for number in range(start, start + len(rows))]
    shown = _with_mean(weights)
    if picture is None:
        return attention_matrices(shown, path, names=names, overwrite=overwrite)
    # tokens before the grid: the class token, where there is one
    looks = shown[:, :, 0, first:] if first else shown.mean(2)
    looks = looks.reshape(*looks.shape[:2], *grid)
    return attention_images(picture, looks, path, names=names, overwrite=overwrite)


def _attention(model: Any, processor: Any, rows: list[dict[str, Any]], layer: int) -> tuple[Any, Any, Any, int]:
    """Return weights (B, heads, T, T), the pictures (B, H, W, C) or None, the grid of tokens and what stands before it."""
    import torch

    from hub_mim.data import encode
    from hub_mim.dense import picture_of, token_grid

    batch = encode(processor, rows)
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    found = [each for each in output.get("attentions") or () if each is not None]
    if not found:
        raise ValueError(f"{type(model).__name__} gives no attention weights")
    if not -len(found) <= layer < len(found):
        raise ValueError(f"there is no layer {layer}; {type(model).__name__} has {len(found)} that give attention")
    weights = found[layer]
    if weights.dim() != 4 or len(weights) != len(rows) or weights.shape[2] != weights.shape[3]:
        raise ValueError(
            f"the attention of {type(model).__name__} has the shape {tuple(weights.shape)}, in windows or pools, and is not "
            "of all tokens to all; it cannot be drawn"
        )
    restore = output.get("ids_restore")
    picture = picture_of(batch)
    count = weights.shape[-1] - getattr(model, "trailing_tokens", 0)
    grid, first = token_grid(count, picture, restore)
    weights = torch.cat([weights[:, :, count:], weights[:, :, :count]], 2)  # a token behind the others looks first
    weights = torch.cat([weights[..., count:], weights[..., :count]], 3)
    first += weights.shape[-1] - count
    if restore is not None:
        order = torch.cat([torch.arange(first).expand(len(rows), -1), restore + first], 1)
        weights = weights.gather(2, order[:, None, :, None].expand_as(weights))
        weights = weights.gather(3, order[:, None, None, :].expand_as(weights))
    return weights.float().numpy(), None if picture is None else _colours(picture), grid, first


def _with_mean(weights: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.concatenate([weights.mean(1, keepdims=True), weights[:, :HEADS]], 1)


def _colours(pixels: Any) -> np.ndarray:
    """Return pictures (B, H, W, 3) in [0, 1], each stretched to its own range."""
    pixels = pixels.float()
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    shown: np.ndarray = ((pixels - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1).numpy()
    return shown[..., :3] if shown.shape[-1] >= 3 else shown[..., :1].repeat(3, -1)


@takes(seed=">=0")
def draw_embedding(
    source: str | Path, rows: Any, path: Path, *, label: str | None = None, seed: int = 0, overwrite: bool = False
) -> Path:
    """Draw rows where the model's features put them, in their two main directions, beside a random model and the input.

    Args:
        source: folder or Hub id. rows: the first 2000 are drawn. path: picture to write. overwrite: replace one there.
        label: column by which points are coloured; default the first of `protocols.LABELS` that is there, if any.
        seed: of the random model.
    Raises:
        ValueError: fewer than three rows.
    """
    from hub_mim import loading
    from hub_mim.data import as_records, column_names
    from hub_mim.features import features, raw_features, untrained
    from hub_mim.pictures import scatter
    from hub_mim.protocols import LABELS, read_labels

    rows = as_records(rows.select(range(min(MAX_ROWS, len(rows)))) if hasattr(rows, "select") else rows[:MAX_ROWS])
    if len(rows) < 3:
        raise ValueError(f"there are {len(rows)} rows; an embedding map needs three at least")
    names = column_names(rows)
    chosen = label or next((name for name in LABELS if name in names), None)
    labels = None if chosen is None else read_labels(rows, chosen)
    model, processor = loading.load(source), loading.load_processor(source)
    panels = {
        "features": features(model, processor, rows),
        "of a random model": features(untrained(model, seed), processor, rows),
        "raw input": raw_features(processor, rows),
    }
    return scatter({name: _flat(values) for name, values in panels.items()}, labels, path, overwrite=overwrite)


def _flat(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components of standardised features, and their shares of the variance."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(values)
    kept = PCA(min(2, *scaled.shape), random_state=0).fit(scaled)
    return kept.transform(scaled), kept.explained_variance_ratio_


def draw(
    what: str,
    source: str | Path,
    rows: Any,
    path: Path,
    *,
    row: int,
    count: int,
    overwrite: bool,
    options: Mapping[str, Any],
) -> Path:
    """Draw one of the maps of a source of rows; see `showing.show`."""
    from hub_mim.data import as_records

    if what == "embedding":
        return draw_embedding(source, rows, path, overwrite=overwrite, **options)
    chosen = as_records(rows.select(range(row, min(row + count, len(rows)))))
    return draw_attention(source, chosen, path, start=row, overwrite=overwrite, **options)
