"""Name what boxes of pictures show, by any names: of a detector of transformers', or of given boxes.

    detector = ZeroShotDetector(model, processor, "PekingU/rtdetr_r50vd")
    detector(picture, ["a zebra", "a bicycle"])  # [{"score": ..., "label": ..., "box": {"xmin": ..., ...}}, ...]

The paper trains a Mask R-CNN on the ViT; here a detector finds boxes, and CFM-ViT names them. Shapes: R boxes, C = 1 + names.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hub_mim_cfm_vit.processing_cfm_vit import as_picture
from hub_mim_cfm_vit.regions import TEMPLATES, category_embeddings, ensemble_scores, vlm_scores
from hub_mim_regions.boxes import normalised
from hub_mim_regions.sources import Detector

SIDES = ("xmin", "ymin", "xmax", "ymax")


class ZeroShotDetector:
    """Called as transformers' pipeline "zero-shot-object-detection" is, and answers as it does.

    Args:
        model: a `CfmVitModel`, or a `CfmVitForPreTraining`, whose encoder is taken. processor: its processor.
        detector: where boxes come from: a checkpoint of any object detector of transformers', or (model, processor), or a
            `hub_mim_regions.sources.Detector`. None: boxes are given at each call.
        classifier: a trained `CfmVitForRegionClassification`, whose scores are used instead of the detector's; its
            `config.id2label` tells the names that it was trained on.
        templates: sentences with `{}` for a name.
        longest: longer side of a picture, in pixels, when its regions are named; default four times that of pre-training.
        regions: boxes that are kept of a detector, the surest.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        detector: Any = None,
        *,
        classifier: Any = None,
        templates: Sequence[str] = TEMPLATES,
        longest: int | None = None,
        regions: int = 100,
    ):
        self.model = getattr(model, model.base_model_prefix, model).eval()
        self.processor, self.classifier, self.templates = processor, classifier, tuple(templates)
        if isinstance(detector, str):
            detector = Detector(detector, regions=regions)
        elif isinstance(detector, tuple):
            detector = Detector(detector[0], detector[1], regions)
        self.detector, self.longest = detector, longest or 4 * max(self.model.config.sides)
        self._known: dict[tuple[str, ...], Tensor] = {}

    def __call__(
        self,
        images: Any,
        candidate_labels: str | Sequence[str],
        boxes: Any = None,
        threshold: float = 0.1,
        top_k: int | None = None,
    ) -> list[Any]:
        """Find and name.

        Args:
            images: a picture (PIL, array or path), or a list of them.
            candidate_labels: names, a list or parted by commas.
            boxes: (R, 4) corners in pixels of the picture, or a list of such, one for each; default the detector's.
            threshold: least score. top_k: at most so many of a picture.
        Returns:
            For each picture (for one alone not in a list), the surest first: {"score", "label", "box": {"xmin", "ymin", "xmax",
            "ymax"}}, each box with its best name.
        Raises:
            ValueError: no names, neither boxes nor a detector, boxes beyond their picture.
        """
        if isinstance(candidate_labels, str):
            candidate_labels = [name.strip() for name in candidate_labels.split(",")]
        alone = not isinstance(images, list | tuple)
        listed = [images] if alone else list(images)
        if boxes is not None:
            boxes = [boxes] if alone else list(boxes)
            if len(boxes) != len(listed):
                raise ValueError(f"{len(listed)} pictures and boxes for {len(boxes)}; there must be as many")
        found = [
            self._one(as_picture(each, row), list(candidate_labels), None if boxes is None else boxes[row])
            for row, each in enumerate(listed)
        ]
        sure = [[each for each in one if each["score"] >= threshold][:top_k] for one in found]
        return sure[0] if alone else sure

    def _one(self, picture: Any, names: list[str], boxes: Any) -> list[dict[str, Any]]:
        """Return every box of a picture with its best name."""
        corners, detected = self._boxes(picture, names, boxes)
        if not len(corners):
            return []
        scores = self.scores(picture, corners, names, detected)[:, 1:]
        best, place = scores.max(1)
        size = torch.tensor([picture.width, picture.height] * 2)
        pixels = (corners * size).round().int().tolist()
        made = [
            {"score": float(score), "label": names[which], "box": dict(zip(SIDES, box, strict=True))}
            for score, which, box in zip(best, place.tolist(), pixels, strict=True)
        ]
        return sorted(made, key=lambda each: -each["score"])

    def _boxes(self, picture: Any, names: list[str], boxes: Any) -> tuple[Tensor, "Judged | None"]:
        """Return corners in [0, 1] (R, 4), and what a detector says of them, None for given boxes."""
        if boxes is not None:
            return torch.from_numpy(normalised(boxes, picture.size)), None
        if self.detector is None:
            raise ValueError("there are no boxes; give them, or a detector")
        (found,) = self.detector([picture])
        known = names_of(self.detector.model.config)
        return torch.from_numpy(found["boxes"]), open_scores(torch.from_numpy(found["soft_labels"]), known, names)

    @torch.no_grad()
    def scores(self, picture: Any, corners: Tensor, names: list[str], detected: "Judged | None" = None) -> Tensor:
        """Return the scores of boxes (R, C), background first.

        Args:
            picture: PIL. corners: in [0, 1] (R, 4). names: of the categories. detected: what a detector says of the boxes.
        """
        config, device = self.model.config, self.model.device
        high, wide = self._size(picture)
        pixels = self.processor(images=[picture], size=(high, wide))["pixel_values"].to(device, self.model.dtype)
        boxes = (corners * torch.tensor([wide, high] * 2)).to(device)[None]
        categories = self._categories(names)
        regions = self.model.region_features(pixels, boxes)[0]
        vlm = vlm_scores(regions, categories, config.vlm_temperature).float().cpu()
        if self.classifier is not None:
            logits = self.classifier.eval()(pixels, boxes, class_embeds=categories).logits[0]
            trained = [name.lower() for name in names_of(self.classifier.config)]
            base = torch.tensor([False, *(name.lower() in trained for name in names)])
            detected = Judged(logits.float().softmax(-1).cpu(), base)
        if detected is None:
            return vlm
        return ensemble_scores(vlm, detected.scores, detected.is_base, config.ensemble_alpha, config.ensemble_beta)

    def _size(self, picture: Any) -> tuple[int, int]:
        """Return height and width that a picture is resized to, of multiples of a patch."""
        side = self.model.config.patch_size
        scale = self.longest / max(picture.size)
        high, wide = (max(1, round(length * scale / side)) * side for length in (picture.height, picture.width))
        return high, wide

    def _categories(self, names: list[str]) -> Tensor:
        """Return the vectors of names (C, E), computed once."""
        key = tuple(names)
        if key not in self._known:
            self._known = {key: category_embeddings(self.model, self.processor, names, self.templates)}
        return self._known[key]


class Judged(NamedTuple):
    """What a detector says of boxes: scores (R, C), background first; is_base: bool (C,), names that it was trained on."""

    scores: Tensor
    is_base: Tensor


def names_of(config: Any) -> list[str]:
    """Return the names of a model's classes, in order."""
    table = getattr(config, "id2label", None) or {}
    return [str(table[place]) for place in sorted(table)]


def open_scores(shares: Tensor, known: Sequence[str], names: Sequence[str]) -> Judged:
    """Return a detector's scores for any names; for those that it does not know, how sure it is of an object at all (ours).

    Args:
        shares: (R, 1 + known), background first, rows sum to 1. known: the detector's own names. names: those asked for.
    """
    place = {name.lower(): number for number, name in enumerate(known, 1)}
    numbers = [place.get(name.lower()) for name in names]
    anything = 1 - shares[:, 0]
    columns = [shares[:, 0], *(anything if number is None else shares[:, number] for number in numbers)]
    return Judged(torch.stack(columns, 1), torch.tensor([False, *(number is not None for number in numbers)]))
