"""Words and regions as tensors: any tokenizer, or one that is learnt from the texts; regions of any source."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from hub_mim.texts import SPECIAL, TEXTS, text_of, word_pieces
from hub_mim_regions.boxes import FORMS, box7
from hub_mim_regions.readers import as_array, check_confidences
from hub_mim_regions.sources import Crop, Source, given_boxes

UNITS = ("pixel", "share")
# what is known of each region: name -> whether it is a share, and so padded with 0; classes are padded with -100
KNOWN = {
    "object_labels": False,
    "object_confidence": True,
    "attribute_labels": False,
    "attribute_confidence": True,
}


class RegionProcessor(ProcessorMixin):
    """Encode rows of text and regions.

    A row has `text` (or `caption`, `sentence`, `question`; `text_pair` beside it) and regions: `features` (N x D) with
    `boxes`, as a file or `hub-mim regions` gives them; or `image` with `boxes` or `objects`, whose crops are the features.
    What is known of regions (`soft_labels`, `object_labels`, ...) comes along; `objects` with a `category` or `shape` are
    labelled by it.

    Args:
        tokenizer: None learns a vocabulary of word pieces from the texts in `fit`.
        boxes: 4 or 7 numbers for each box; default what the method takes.
        box_form: of boxes in rows, see `boxes.FORMS`. box_unit: "pixel" or "share" of the picture.
        max_regions: of a row; the rest, which are less confident or last, are left out.
        text_length: of a row's text, in tokens; default what the method takes.
        crop_side: a side of each crop, in pixels.
        classes: names of objects' classes; learnt by `fit`. attributes: of their colours.
        answers: names of answers; learnt by `fit` from `answer`.
        vocabulary: at most so many word pieces are learnt. lower: of these, lower-case ones only.
        feature_dim, soft_dim: values of a region's features and soft labels; learnt by `fit`.
    """

    told: tuple[str, ...] = tuple(KNOWN)  # which of these a method reads
    untold: tuple[str, ...] = ()
    numbers, longest = (
        4,
        60,
    )  # of a box, of a text; subclasses have their own, and no `__init__`, whose arguments are saved

    fit_once = True  # words are of the vocabulary that the weights know

    def __init__(
        self,
        tokenizer: Any = None,
        boxes: int | None = None,
        box_form: str = "xyxy",
        box_unit: str = "pixel",
        max_regions: int = 36,
        text_length: int | None = None,
        crop_side: int = 16,
        classes: Sequence[str] = (),
        attributes: Sequence[str] = (),
        answers: Sequence[str] = (),
        vocabulary: int = 8192,
        lower: bool = True,
        feature_dim: int = 0,
        soft_dim: int = 0,
        **kwargs: Any,
    ):
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        super().__init__(tokenizer if tokenizer is not None else word_pieces([], lower=lower), **kwargs)
        boxes, text_length = boxes or self.numbers, text_length or self.longest
        if boxes not in (4, 7):
            raise ValueError(f"boxes is {boxes}; it must be 4 or 7 numbers")
        if box_form not in FORMS or box_unit not in UNITS:
            raise ValueError(f"box_form {box_form!r} must be one of {FORMS}, box_unit {box_unit!r} one of {UNITS}")
        self.boxes, self.box_form, self.box_unit = boxes, box_form, box_unit
        self.max_regions, self.text_length, self.crop_side = max_regions, text_length, crop_side
        self.classes, self.attributes, self.answers = list(classes), list(attributes), list(answers)
        self.vocabulary, self.lower = vocabulary, lower
        self.feature_dim, self.soft_dim = feature_dim, soft_dim

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        names = ["input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos", "visual_attention_mask"]
        return [*names, "answer"] if self.told else names

    def fit(self, rows: Any) -> "RegionProcessor":
        """Learn from rows what they tell: the vocabulary where there is none, names of classes and answers, widths.

        Raises:
            ValueError: there are no rows.
        """
        texts: list[str] = []
        names: dict[str, set[str]] = {"classes": set(), "attributes": set(), "answers": set()}
        first: Any = None
        for row in rows:
            first = first or row
            texts += [part for part in text_of(row) if part]
            names["answers"] |= {str(row["answer"])} if row.get("answer") is not None else set()
            for each in row.get("objects") or ():
                names["classes"] |= {str(kind) for kind in [_class(each)] if kind is not None}
                names["attributes"] |= {str(kind) for kind in [_colour(each)] if kind is not None}
        if first is None:
            raise ValueError("there are no rows to learn from")
        for key, found in names.items():
            if not getattr(self, key):
                setattr(self, key, sorted(found))
        if len(self.tokenizer) <= len(SPECIAL):
            self.tokenizer = word_pieces(texts, self.vocabulary, self.lower)
        region = self.find_regions([first])[0]
        self.feature_dim = int(region["features"].shape[1])
        soft = region.get("soft_labels")
        self.soft_dim = 0 if soft is None else int(soft.shape[1])
        return self

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the rows decide."""
        told = {"vocab_size": len(self.tokenizer), "visual_feat_dim": self.feature_dim, "visual_pos_dim": self.boxes}
        told |= {"mask_token_id": self.tokenizer.mask_token_id, "pad_token_id": self.tokenizer.pad_token_id}
        told |= {"num_special_tokens": 1 + max(self.tokenizer.all_special_ids)}
        for name, count in (
            ("num_object_labels", len(self.classes)),
            ("num_attr_labels", len(self.attributes)),
            ("num_region_classes", self.soft_dim),
            ("num_answers", len(self.answers)),
        ):
            told |= {name: count} if count else {}
        return told

    def __call__(
        self,
        rows: Any = None,
        text: Any = None,
        images: Any = None,
        regions: Any = None,
        source: Source | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Encode rows, or texts with pictures or with region rows.

        Args:
            rows: dicts, see above. Otherwise: text: one or a list; images: pictures, whose regions `source` finds; or
                regions: what a source or a reader gives.
        Returns:
            input_ids, attention_mask, token_type_ids (B, T); visual_feats (B, N, D), visual_pos (B, N, 4 or 7),
            visual_attention_mask (B, N); where known soft_labels (B, N, C), object_labels and attribute_labels (B, N, -100 =
            unknown) with their confidence, matched_label and answer (B,).
        Raises:
            ValueError: a row lacks text or regions, widths differ, boxes do not fit the picture.
        """
        rows = (
            [rows]
            if isinstance(rows, Mapping)
            else list(rows)
            if rows is not None
            else self._rows(text, images, regions)
        )
        if not rows:
            raise ValueError("there are no rows to encode")
        made = dict(self._texts(rows))
        made |= self._regions(self.find_regions(rows, source))
        if all(row.get("matched_label") is not None for row in rows):
            made["matched_label"] = torch.tensor([int(row["matched_label"]) for row in rows])
        if self.answers and "answer" in self.model_input_names and any(row.get("answer") is not None for row in rows):
            place = {name: number for number, name in enumerate(self.answers)}
            made["answer"] = torch.tensor([place.get(str(row.get("answer")), -100) for row in rows])
        return BatchFeature(made)

    def _rows(self, text: Any, images: Any, regions: Any) -> list[dict[str, Any]]:
        texts = [text] if isinstance(text, str) else list(text or ())
        given = images if images is not None else regions
        given = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
        if len(texts) != len(given):
            raise ValueError(f"{len(texts)} texts and {len(given)} pictures; there must be as many")
        key = "image" if images is not None else "regions"
        return [
            {"text": words} | ({"image": each} if key == "image" else dict(each))
            for words, each in zip(texts, given, strict=True)
        ]

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        pairs = [text_of(row) for row in rows]
        for number, (first, _) in enumerate(pairs):
            if first is None:
                raise ValueError(f"row {number} has no text among {', '.join(TEXTS)}; map its column to 'text'")
        options: dict[str, Any] = {"truncation": True, "max_length": self.text_length}
        options |= {"return_token_type_ids": True, "return_attention_mask": True}
        each = [self.tokenizer(first, *([second] if second else []), **options) for first, second in pairs]
        encoded = self.tokenizer.pad(each, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}

    def find_regions(self, rows: Sequence[Mapping[str, Any]], source: Source | None = None) -> list[dict[str, Any]]:
        """Return the regions of rows, those that have `features` as they are, the others by a source; default crops."""
        made = []
        for number, row in enumerate(rows):
            try:
                made.append(self._region(row, source))
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from error
        return made

    def _region(self, row: Mapping[str, Any], source: Source | None) -> dict[str, Any]:
        if row.get("features") is not None:
            known = [
                name for name in ("boxes", "features", "soft_labels", "confidence", *KNOWN) if row.get(name) is not None
            ]
            found = {name: as_array(name, row[name]) for name in known}
            unit = "share" if row.get("image_size") is None and row.get("image") is None else self.box_unit
            found["boxes"] = given_boxes(row, self.box_form, unit)
            if len(found["boxes"]) != len(found["features"]):
                raise ValueError(f"{len(found['boxes'])} boxes and {len(found['features'])} regions with features")
        elif row.get("image") is None:
            raise ValueError(f"it has neither 'features' nor an 'image'; it has {', '.join(map(str, row))}")
        else:
            source = source or Crop(self.crop_side)
            needs = getattr(source, "needs_boxes", False)
            boxes = [given_boxes(row, self.box_form, self.box_unit)] if needs else []
            found = source([row["image"]], boxes)[0]
        check_confidences(found)
        return _first(found | self._told(row, len(found["boxes"])), self.max_regions)

    def _told(self, row: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return labels of objects that a row tells by name."""
        objects = row.get("objects")
        if not objects or len(objects) != count or not self.classes:
            return {}
        place = {name: number for number, name in enumerate(self.classes)}
        labels = np.array([place.get(str(_class(each)), -100) for each in objects])
        told: dict[str, Any] = {"object_labels": labels, "object_confidence": np.ones(count, np.float32)}
        soft = np.zeros((count, 1 + len(self.classes)), np.float32)
        soft[np.arange(count), np.where(labels < 0, 0, labels + 1)] = 1
        told["soft_labels"] = soft
        if self.attributes:
            place = {name: number for number, name in enumerate(self.attributes)}
            told["attribute_labels"] = np.array([place.get(str(_colour(each)), -100) for each in objects])
            told["attribute_confidence"] = np.ones(count, np.float32)
        return told

    def _regions(self, regions: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        widths = sorted({each["features"].shape[1] for each in regions if len(each["features"])})
        if len(widths) > 1 or (self.feature_dim and widths and widths != [self.feature_dim]):
            raise ValueError(
                f"regions have {widths} features, and the rows learnt from have {self.feature_dim or 'one width'}"
            )
        width = widths[0] if widths else self.feature_dim
        count = [len(each["boxes"]) for each in regions]
        length = max(1, *count)  # of rows without regions, one place of padding is left
        made = {"visual_feats": torch.zeros(len(regions), length, width)}
        made["visual_pos"] = torch.zeros(len(regions), length, self.boxes)
        made["visual_attention_mask"] = torch.arange(length) < torch.tensor(count)[:, None]
        for row, each in enumerate(regions):
            places = box7(each["boxes"]) if self.boxes == 7 else each["boxes"]
            made["visual_feats"][row, : count[row]] = torch.from_numpy(
                np.ascontiguousarray(each["features"], np.float32)
            )
            made["visual_pos"][row, : count[row]] = torch.from_numpy(np.ascontiguousarray(places, np.float32))
        for name, share in KNOWN.items():
            if name in self.told and any(each.get(name) is not None for each in regions):
                fill = torch.zeros(len(regions), length) if share else torch.full((len(regions), length), -100)
                for row, each in enumerate(regions):
                    if each.get(name) is not None:
                        fill[row, : count[row]] = torch.from_numpy(np.asarray(each[name])).to(fill.dtype)
                made[name] = fill
        soft = (
            []
            if "soft_labels" in self.untold
            else [each["soft_labels"].shape[1] for each in regions if each.get("soft_labels") is not None]
        )
        if soft:
            made["soft_labels"] = torch.zeros(len(regions), length, soft[0])
            for row, each in enumerate(regions):
                if each.get("soft_labels") is not None:
                    made["soft_labels"][row, : count[row]] = torch.from_numpy(
                        np.asarray(each["soft_labels"], np.float32)
                    )
        return made


def _first(region: dict[str, Any], most: int) -> dict[str, Any]:
    """Keep the most confident regions, in their order."""
    count = len(region["boxes"])
    if count <= most:
        return region
    scores = region.get("confidence", region.get("object_confidence"))
    chosen = np.arange(most) if scores is None else np.sort(np.argsort(-np.asarray(scores), kind="stable")[:most])
    return {
        name: value[chosen] if isinstance(value, np.ndarray) and len(value) == count else value
        for name, value in region.items()
    }


def _class(told: Mapping[str, Any]) -> Any:
    return told.get("category", told.get("shape", told.get("label")))


def _colour(told: Mapping[str, Any]) -> Any:
    return told.get("colour", told.get("color"))
