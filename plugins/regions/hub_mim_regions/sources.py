"""Where regions come from: given boxes, a detector of transformers', a grid over a backbone, stored files.

A source is a callable: pictures (PIL, RGB) and perhaps boxes -> a region row for each, see `readers`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hub_mim.method import suggest
from hub_mim_regions.boxes import grid_boxes, normalised

Source = Callable[..., list[dict[str, Any]]]
DETECTOR = "PekingU/rtdetr_r50vd"
KINDS = ("crop", "detector", "grid", "backbone")


def make_source(kind: str, model: str | None = None, **options: Any) -> Source:
    """Return a source by its name.

    Args:
        kind: "crop", "detector", "grid" or "backbone".
        model: checkpoint of the detector or backbone, folder or Hub id.
        options: of the source.
    Raises:
        ValueError: no such source, or one that needs a model has none.
    """
    if kind not in KINDS:
        raise ValueError(f"no backend {kind!r}{suggest(kind, KINDS)}; there are {', '.join(KINDS)}")
    if kind == "crop":
        return Crop(**options)
    if kind == "detector":
        return Detector(model or DETECTOR, **options)
    if model is None:
        raise ValueError(f"the backend {kind!r} needs a model (--model FOLDER_OR_ID)")
    return (Grid if kind == "grid" else Backbone)(model, **options)


class Crop:
    """The picture within each given box, resized and flattened: no network at all.

    Args:
        size: of the resized crop, a side in pixels. The features have 3 * size * size values in [-1, 1].
    """

    needs_boxes = True

    def __init__(self, size: int = 16):
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        self.size = size

    @property
    def width(self) -> int:
        """Values a region."""
        return 3 * self.size**2

    def __call__(self, images: Sequence[Any], boxes: Sequence[np.ndarray], **kwargs: Any) -> list[dict[str, Any]]:
        """Crop.

        Args:
            images: PIL pictures. boxes: corners in [0, 1] for each picture (N, 4).
        """
        return [
            {"boxes": each, "features": self._features(image.convert("RGB"), each)}
            for image, each in zip(images, boxes, strict=True)
        ]

    def _features(self, image: Any, boxes: np.ndarray) -> np.ndarray:
        from PIL import Image

        wide, high = image.size
        made = np.empty((len(boxes), self.width), np.float32)
        for place, box in enumerate(boxes):
            x1, y1, x2, y2 = box * [wide, high, wide, high]
            area = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))  # a pixel at least
            patch = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=_within(area, wide, high))
            made[place] = np.asarray(patch, np.float32).ravel() / 127.5 - 1
        return made


def _within(area: Sequence[float], wide: int, high: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = area
    left, top = min(x1, wide - 1), min(y1, high - 1)
    return left, top, min(max(x2, left + 1), wide), min(max(y2, top + 1), high)


class _Network:
    """A model of transformers' with its image processor, on the best device."""

    needs_boxes = False

    def __init__(self, model: Any, processor: Any = None, auto: str = "AutoModel"):
        import torch
        import transformers

        from hub_mim.run_arguments import has_accelerator

        if isinstance(model, str):
            processor = transformers.AutoImageProcessor.from_pretrained(model)
            model = getattr(transformers, auto).from_pretrained(model, use_safetensors=True, trust_remote_code=False)
        self.model, self.processor = model.eval(), processor
        if has_accelerator():
            self.model.to("cuda" if torch.cuda.is_available() else "mps")

    def run(self, images: Sequence[Any], **options: Any) -> tuple[Any, Any]:
        """Return the model's output for pictures, and what it was given."""
        import torch

        batch = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        batch = {name: value.to(self.model.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        with torch.no_grad():
            return self.model(**batch, **options), batch


class Detector(_Network):
    """Any object detector of transformers': its best regions, their hidden states as features, scores as soft labels.

    Args:
        model: checkpoint (RT-DETR, D-FINE, DETR and others), or a model with `processor`.
        regions: how many to keep of each picture.
    """

    def __init__(self, model: Any = DETECTOR, processor: Any = None, regions: int = 36):
        super().__init__(model, processor, "AutoModelForObjectDetection")
        self.regions = regions

    def __call__(self, images: Sequence[Any], boxes: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Detect; boxes are not needed."""
        output, _ = self.run(images)
        scores = class_scores(output.logits.float(), int(getattr(self.model.config, "num_labels", 0)))
        best = scores[..., 1:].amax(-1)
        places = best.argsort(1, descending=True)[:, : self.regions]
        rows = []
        for row, chosen in enumerate(places):
            told = {
                "boxes": _corners(output.pred_boxes[row, chosen].float().cpu().numpy()),
                "features": output.last_hidden_state[row, chosen].float().cpu().numpy(),
                "confidence": best[row, chosen].cpu().numpy(),
                "soft_labels": scores[row, chosen].cpu().numpy(),
            }
            told["object_labels"] = told["soft_labels"][:, 1:].argmax(1)
            rows.append(told | {"object_confidence": told["confidence"]})
        return rows


def class_scores(logits: Any, classes: int) -> Any:
    """Return shares of classes, background first, that sum to 1: of detectors that end in a softmax or in sigmoids.

    Args:
        logits: (..., C) sigmoids of classes, or (..., C + 1) with "no object" last.
        classes: C.
    """
    import torch

    if logits.shape[-1] == classes + 1:
        shares = logits.softmax(-1)
        return torch.cat([shares[..., -1:], shares[..., :-1]], -1)
    likely = logits.sigmoid()
    background = 1 - likely.amax(-1, keepdim=True)
    return torch.cat([background, likely / likely.sum(-1, keepdim=True).clamp(min=1e-9) * (1 - background)], -1)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Return cxcywh boxes as corners, cut off at the picture's sides."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return np.concatenate([low, high], 1).clip(0, 1).astype(np.float32)


class Grid(_Network):
    """The cells of a grid over any backbone's last feature map: no detector, no labels.

    Args:
        model: checkpoint, or a model with `processor`.
        grid: cells a side.
    """

    def __init__(self, model: Any, processor: Any = None, grid: int = 6):
        super().__init__(model, processor)
        self.grid = grid

    def __call__(self, images: Sequence[Any], boxes: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Pool the feature map into cells."""
        from torch.nn.functional import adaptive_avg_pool2d

        output, batch = self.run(images)
        cells = adaptive_avg_pool2d(feature_map(output, batch), self.grid).flatten(2).transpose(1, 2)
        return [{"boxes": grid_boxes(self.grid, self.grid), "features": each} for each in cells.float().cpu().numpy()]


class Backbone(_Network):
    """Features of given boxes out of any backbone's last feature map, by RoIAlign and a mean.

    Args:
        model: checkpoint, or a model with `processor`.
    """

    needs_boxes = True

    def __call__(self, images: Sequence[Any], boxes: Sequence[np.ndarray], **kwargs: Any) -> list[dict[str, Any]]:
        """Pool the feature map within each box."""
        import torch

        from hub_mim_regions.roialign import roi_align

        output, batch = self.run(images)
        maps = feature_map(output, batch)
        count = [len(each) for each in boxes]
        rows = torch.repeat_interleave(torch.arange(len(count)), torch.tensor(count)).to(maps.device)
        areas = torch.from_numpy(np.concatenate(boxes)).to(maps)
        found = roi_align(maps, areas, rows).mean((2, 3)).float().cpu().numpy()
        parts = np.split(found, np.cumsum(count)[:-1])
        return [{"boxes": each, "features": part} for each, part in zip(boxes, parts, strict=True)]


def feature_map(output: Any, batch: Mapping[str, Any]) -> Any:
    """Return an encoder's last hidden state as a map (B, C, H, W): tokens of patches are put in their places.

    Raises:
        ValueError: the tokens are no grid.
    """
    hidden = output.last_hidden_state
    if hidden.dim() == 4:
        return hidden
    high, wide = batch["pixel_values"].shape[-2:]
    for extra in range(6):  # class and register tokens come first
        count = hidden.shape[1] - extra
        rows = round((count * high / wide) ** 0.5)
        if rows and count % rows == 0 and abs(rows / high - (count // rows) / wide) < 1e-3:
            return hidden[:, extra:].transpose(1, 2).unflatten(2, (rows, count // rows))
    raise ValueError(f"the {hidden.shape[1]} tokens of a picture of {wide} by {high} pixels are no grid of patches")


def given_boxes(row: Mapping[str, Any], form: str, unit: str) -> np.ndarray:
    """Return a row's boxes as corners in [0, 1]: of `boxes`, or of `objects` with a `bbox` or `box` each.

    Args:
        form: see `boxes.normalised`. unit: "pixel" or "share".
    Raises:
        ValueError: there are none, or the picture's size is not known.
    """
    boxes = row.get("boxes")
    if boxes is None and row.get("objects") is not None:
        boxes = [each["bbox"] if "bbox" in each else each["box"] for each in row["objects"]]
    if boxes is None:
        raise ValueError(f"regions need 'boxes' or 'objects'; this row has {', '.join(map(str, row)) or 'nothing'}")
    size = None
    if unit == "pixel":
        size = row.get("image_size") or getattr(row.get("image"), "size", None)
        if size is None:
            raise ValueError("boxes in pixels need the picture, or its 'image_size' (width, height)")
    return normalised(boxes, size, form)
