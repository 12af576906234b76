"""Dense probes: a class for each token of a frozen encoder, learnt from label maps or labels along time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hub_mim import probes
from hub_mim.checking import takes
from hub_mim.features import RAW_WORDS, as_tokens, untrained, valid_tokens
from hub_mim.label_maps import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

RAW_SIDE = 4  # a token's place in the picture is averaged to so many points a side before it is compared as it is


def judge(
    name: str,
    model: Any,
    processor: Any,
    rows: Any,
    *,
    source: Any = None,
    train: Any = None,
    label: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Any] | None = None,
    **extraction: Any,
) -> list[dict[str, Any]]:
    """Return how well linear probes name the class of every token: accuracy and mean intersection over union.

    A label map (a picture of class numbers, or H x W numbers) must show what the processor makes the model see; each
    token gets the class of most of its points. A list of labels is spread along the tokens of the row. 255 and negative
    numbers are left out.

    Args:
        label: column of the label maps; default the first of `LABELS` that is there.
        options: `tokens`: learn from at most so many of a row; `epochs`, `batch_size`: see `probes.batched_linear`.
        name, model, processor, rows, source, train, seeds, extraction: see `protocols.judge`.
    Raises:
        ValueError: no such column, labels that are no map and no list, one class only, tokens that form no grid.
    """
    from hub_mim.protocols import PROTOCOLS, chosen_options, figure

    protocol = PROTOCOLS[name]
    chosen = chosen_options(name, protocol, options or {})
    extraction.pop("pooling", None)  # nothing is pooled
    found: dict[str, dict[str, list[float]]] = {}
    for what in ("", "untrained", "raw input"):
        cached: dict[int, Any] = {}
        for seed in seeds:
            key = seed if what == "untrained" else 0
            if key not in cached:
                encoder = untrained(model, seed) if what == "untrained" else model
                raw = what == "raw input"
                sets = [rows] if train is None else [train, rows]
                cached = {
                    key: [labelled_tokens(encoder, processor, part, label, raw=raw, **extraction) for part in sets]
                }
            learnt, judged = _parts(cached[key], protocol.test_share, seed)
            for metric, value in _measure(learnt, judged, seed, chosen).items():
                guess = metric.endswith(FREQUENT)
                if guess and what:
                    continue  # the same whatever the features are
                by_source = found.setdefault(metric.removesuffix(FREQUENT), {})
                by_source.setdefault(FREQUENT.strip() if guess else what, []).append(value)
    return [
        figure(name, protocol, metric, source, values, seeds)
        for metric, by_source in found.items()
        for source, values in by_source.items()
    ]


FREQUENT = " most frequent class"
Tokens = tuple["np.ndarray", "np.ndarray"]  # features (T, D) and classes (T,) of one row


@takes(batch_size=">=1")
def labelled_tokens(
    model: Any,
    processor: Any,
    rows: Any,
    label: str | None = None,
    *,
    raw: bool = False,
    batch_size: int = 64,
    dtype: Any = None,
) -> list[Tokens]:
    """Return the tokens of every row that have a class, with these; see `judge`. With `raw` the input at their places."""
    from contextlib import nullcontext

    import torch

    from hub_mim.data import batches, encode
    from hub_mim.protocols import label_column

    column = label_column(rows, label)
    model.eval()
    found: list[Tokens] = []
    for part in batches(rows, batch_size):
        encoded = encode(processor, part.without(column))
        batch = {name: value.to(model.device) for name, value in encoded.items()}
        with torch.no_grad(), torch.autocast(model.device.type, dtype) if dtype else nullcontext():
            output = model(**batch)
        whole = as_tokens(output)
        count = whole.shape[1] - getattr(model, "trailing_tokens", 0)
        hidden, valid = whole[:, :count], valid_tokens(output, batch, whole)[:, :count].cpu().numpy()
        picture = picture_of(batch)
        grid, first = token_grid(hidden.shape[1], picture, output.get("ids_restore"))
        values = _in_order(hidden, output.get("ids_restore"), first)
        if raw:
            values = _raw(batch, picture, grid, first)
        features = values.float().cpu().numpy()
        for number, row in enumerate(part):
            keep = valid[number, first:]
            classes = token_classes(row[column], grid if picture is not None else (1, int(keep.sum())), column)
            known = classes >= 0
            found.append((features[number][keep][known], classes[known]))
    return found


@takes(grid=">=1 R S")
def token_classes(labels: Any, grid: tuple[int, int], column: str = "label") -> np.ndarray:
    """Return the most frequent class among the labels of each token, -1 where none has one, int64 (tokens,).

    Args:
        labels: picture or numbers (H, W), or (L,) along time. grid: tokens along both sides.
        column: their name, for the message.
    Raises:
        ValueError: they are neither.
    """
    import numpy as np

    table = np.asarray(labels)
    table = table[None] if table.ndim == 1 else table
    if table.ndim != 2 or table.dtype.kind not in "iub" or 0 in table.shape:
        raise ValueError(
            f"the labels in {column!r} are {table.dtype} of shape {table.shape}; a dense probe needs a map of whole numbers "
            "(height, width), or a list of them along time"
        )
    # each token sees the same number of points, at least one
    places = [
        np.arange(count * max(1, size // count)) * size // (count * max(1, size // count))
        for size, count in zip(table.shape, grid, strict=True)
    ]
    spread = table.astype(np.int64)[np.ix_(*places)]
    high, wide = (len(place) // count for place, count in zip(places, grid, strict=True))
    cells = spread.reshape(grid[0], high, grid[1], wide).swapaxes(1, 2).reshape(grid[0] * grid[1], -1)
    classes = np.unique(cells[(cells >= 0) & (cells != IGNORED)])
    if not len(classes):
        return np.full(len(cells), -1)
    counts = np.stack([(cells == value).sum(1) for value in classes], 1)
    return np.where(counts.max(1) > 0, classes[counts.argmax(1)], -1)


def picture_of(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Return the first input that is pictures (B, C, H, W), None where there is none."""
    return next((v for v in batch.values() if v.dim() == 4 and (v.is_floating_point() or v.element_size() == 1)), None)


def token_grid(count: int, picture: Tensor | None, restore: Tensor | None) -> tuple[tuple[int, int], int]:
    """Return tokens along both sides of a picture, (1, T) where there is none, and how many tokens come before them."""
    if picture is None:
        return (1, count), 0
    ratio = picture.shape[-2] / picture.shape[-1]
    starts = range(min(count, 10)) if restore is None else [count - restore.shape[1]]
    for first in starts:
        wide = round(((count - first) / ratio) ** 0.5)
        high = round(wide * ratio)
        if wide * high == count - first:
            return (high, wide), first
    raise ValueError(
        f"{count} tokens form no grid over pictures of {tuple(picture.shape[-2:])}; a dense probe needs one token a place"
    )


def _in_order(hidden: Tensor, restore: Tensor | None, first: int) -> Tensor:
    """Return the tokens of places in the picture's order; encoders that hide some (MAE) give them shuffled."""
    hidden = hidden[:, first:]
    if restore is None:
        return hidden
    if restore.shape[1] != hidden.shape[1]:
        raise ValueError("the encoder hides tokens; load it with mask_ratio=0")
    return hidden.gather(1, restore[..., None].expand(-1, -1, hidden.shape[-1]))


def _raw(batch: Mapping[str, Tensor], picture: Tensor | None, grid: tuple[int, int], first: int) -> Tensor:
    """Return the input at the places of the tokens (B, T, D)."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, interpolate

    if picture is not None:
        points = adaptive_avg_pool2d(picture.float(), (grid[0] * RAW_SIDE, grid[1] * RAW_SIDE))
        return (
            points.unfold(2, RAW_SIDE, RAW_SIDE)
            .unfold(3, RAW_SIDE, RAW_SIDE)
            .permute(0, 2, 3, 1, 4, 5)
            .flatten(3)
            .flatten(1, 2)
        )
    for value in batch.values():
        if value.is_floating_point() and value.dim() in (2, 3):
            channels = value.float().view(*value.shape[:2], -1).transpose(1, 2)
            return interpolate(channels, size=grid[1]).transpose(1, 2)
    words = next(value for value in batch.values() if value.dim() == 2)
    return torch.eye(RAW_WORDS)[words.cpu() % RAW_WORDS][:, first:]


def _parts(sets: list[list[Tokens]], share: float, seed: int) -> tuple[list[Tokens], list[Tokens]]:
    """Return rows to learn from and to judge on; the tokens of one row stay together."""
    import numpy as np

    if len(sets) == 2:
        return sets[0], sets[1]
    (rows,) = sets
    if len(rows) < 2:
        raise ValueError(f"there are {len(rows)} rows; two at least are needed, to learn from and to judge on")
    order = np.random.default_rng(seed).permutation(len(rows))
    count = max(1, round(share * len(rows)))
    return [rows[number] for number in order[count:]], [rows[number] for number in order[:count]]


def _measure(learnt: list[Tokens], judged: list[Tokens], seed: int, options: dict[str, Any]) -> dict[str, float]:
    import numpy as np
    from sklearn.metrics import accuracy_score, jaccard_score

    source, options = np.random.default_rng(seed), dict(options)
    most = options.pop("tokens")
    picked = [source.permutation(len(classes))[:most] for _, classes in learnt]
    train = np.concatenate([values[chosen] for (values, _), chosen in zip(learnt, picked, strict=True)])
    labels = np.concatenate([classes[chosen] for (_, classes), chosen in zip(learnt, picked, strict=True)])
    test, truth = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or not len(truth):
        raise ValueError(f"{len(classes)} classes in the tokens to learn from; two at least are needed")
    predicted = probes.batched_linear(train, labels, test, seed=seed, **options)
    found = {}
    for ending, guess in (("", predicted), (FREQUENT, np.full_like(truth, classes[counts.argmax()]))):
        found[f"accuracy{ending}"] = float(accuracy_score(truth, guess))
        found[f"miou{ending}"] = float(
            jaccard_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0)
        )
    return found
