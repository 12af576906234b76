"""Labels for every pixel: rows with class maps for fine-tuning a segmentation head, and how well it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_mim.data import Collator, column_names
from hub_mim.method import suggest

if TYPE_CHECKING:
    from hub_mim.run import Run

IGNORED = 255  # no class; ADE20K, VOC and Cityscapes mark it so
COLUMNS = ("labels", "semseg", "segmentation", "annotation", "mask", "label")


def labelled(rows: Any, label: str | None, validation: float, seed: int) -> tuple[str, list[str], Any, Any]:
    """Return the maps' column, the names of the classes, rows to learn from and held-out ones, maps as `labels`.

    Args:
        rows: a Dataset. label: column of the maps; default the first of `COLUMNS` that is there.
        validation: share of rows to hold out. seed: decides which.
    Raises:
        ValueError: no such column, a map that is none, one class only, a share out of range.
    """
    import numpy as np

    if not 0 < validation < 1:
        raise ValueError(
            f"the validation share is {validation}; it must lie between 0 and 1, for the best step is chosen on it"
        )
    names = column_names(rows)
    chosen = label or next((name for name in COLUMNS if name in names), None)
    if chosen is None or chosen not in names:
        near = "" if chosen is None else suggest(chosen, names)
        raise ValueError(
            f"no column of class maps{f' {chosen!r}' if chosen else ''} among {', '.join(names)}{near}; name it (--label)"
        )
    found = set().union(
        *(set(np.unique(as_map(row[chosen], chosen)).tolist()) for row in rows.select_columns([chosen]))
    )
    found.discard(IGNORED)
    if len(found) < 2:
        raise ValueError(f"the maps in {chosen!r} hold {len(found)} classes; two at least are needed")
    told = rows.rename_column(chosen, "labels") if chosen != "labels" else rows
    order = np.random.default_rng(seed).permutation(len(rows))
    count = min(max(1, round(validation * len(rows))), len(rows) - 1)
    classes = [str(number) for number in range(max(found) + 1)]
    return chosen, classes, told.select(np.sort(order[count:])), told.select(np.sort(order[:count]))


def as_map(value: Any, column: str) -> Any:
    """Return a class map (H, W) of whole numbers.

    Raises:
        ValueError: it is none.
    """
    import numpy as np

    table = np.asarray(value)
    if table.ndim != 2 or table.dtype.kind not in "iub" or 0 in table.shape or table.min() < 0 or table.max() > IGNORED:
        raise ValueError(
            f"a map in {column!r} is {table.dtype} of shape {table.shape}; it must be (height, width) of classes 0 to 254, "
            "255 for none"
        )
    return table


class MapCollator:
    """Encode rows without their maps, and put these beside, int64 (B, H, W), as large as the model's pictures."""

    def __init__(self, processor: Any, in_bytes: Any = None):
        self.collate = Collator(processor, in_bytes=in_bytes)

    def __call__(self, rows: Any) -> dict[str, Any]:
        """Return the batch."""
        import torch
        from torch.nn.functional import interpolate

        batch = self.collate([{name: value for name, value in row.items() if name != "labels"} for row in rows])
        size = next(tuple(v.shape[-2:]) for v in batch.values() if v.dim() == 4)
        maps = [torch.from_numpy(as_map(row["labels"], "labels").astype("int64")) for row in rows]
        sized = [interpolate(each[None, None].float(), size=size, mode="nearest-exact")[0, 0].long() for each in maps]
        return batch | {"labels": torch.stack(sized)}


def results(model: Any, processor: Any, held_out: Any, run: Run) -> list[Any]:
    """Return mean intersection over union and accuracy on held-out rows, and the accuracy of the most frequent class."""
    import torch

    from hub_mim.data import batches
    from hub_mim.results import Result, finetuning_facts

    model.eval()
    collate, count = MapCollator(processor), model.config.num_labels
    pairs = torch.zeros(count, count)
    for part in batches(held_out, 32):
        batch = {name: value.to(model.device) for name, value in collate(part).items()}
        labels = batch["labels"]
        with torch.no_grad():
            logits = model(**batch).logits.float()
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = torch.nn.functional.interpolate(
                logits, size=labels.shape[-2:], mode="bilinear", align_corners=False
            )
        known = labels != IGNORED
        flat = labels[known] * count + logits.argmax(1)[known]
        pairs += torch.bincount(flat, minlength=count**2).view(count, count).cpu()
    right, there = pairs.diagonal(), pairs.sum(1) > 0
    union = (pairs.sum(0) + pairs.sum(1) - right).clamp(min=1)
    facts = finetuning_facts(run, len(held_out)) | {"task_type": "image-segmentation"}
    frequent = float(pairs.sum(1).max() / pairs.sum())
    return [
        Result(metric_type="miou", metric_value=float((right / union)[there].mean()), **facts),
        Result(metric_type="accuracy", metric_value=float(right.sum() / pairs.sum()), **facts),
        Result(metric_type="accuracy (most frequent class)", metric_value=frequent, **facts),
    ]
