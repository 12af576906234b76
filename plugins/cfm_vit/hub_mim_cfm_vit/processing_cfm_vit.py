"""From pictures and texts to CFM-ViT's tensors: pictures squashed to one size, texts by any tokenizer or one learnt from them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from hub_mim.on_device import LEVELS, Bytes, levels
from hub_mim.pixels import normalised, squashed
from hub_mim.texts import SPECIAL, TEXTS, text_of, word_pieces

COLUMNS = (*TEXTS, "captions")
PICTURES = ("image", "images")


class CfmVitProcessor(ProcessorMixin):
    """Make pictures of one size and texts of word numbers.

    Args:
        tokenizer: of the texts, or the name of one; default: word pieces learnt by `fit`.
        image_size: of the pictures, a side or (height, width); others are squashed to it.
        pixel_mean, pixel_std: of red, green and blue between 0 and 1, which become 0 and 1.
        text_length: tokens of a text; longer ones are cut off.
        vocabulary: word pieces to learn at most. lower: whether to learn them in lower case.
    Raises:
        ValueError: a size below 1, or a tokenizer without a padding token.
    """

    fit_once = True  # words are of the vocabulary that the weights know
    leaves_bytes = False  # set in the copy that `in_bytes` makes

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int | Sequence[int] = 224,
        pixel_mean: Sequence[float] = (0.5, 0.5, 0.5),
        pixel_std: Sequence[float] = (0.5, 0.5, 0.5),
        text_length: int = 64,
        vocabulary: int = 8192,
        lower: bool = True,
        **kwargs: Any,
    ):
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        super().__init__(tokenizer if tokenizer is not None else word_pieces([], lower=lower), **kwargs)
        image_size = image_size if isinstance(image_size, int) else list(image_size)
        if min(_sides(image_size)) < 1 or text_length < 1:
            raise ValueError(f"image_size {image_size} and text_length {text_length} must be at least 1")
        if self.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token; set its pad_token")
        self.image_size, self.text_length = image_size, text_length
        self.pixel_mean, self.pixel_std = list(pixel_mean), list(pixel_std)
        self.vocabulary, self.lower = vocabulary, lower
        self._limit()

    @classmethod
    def for_config(cls, fields: Mapping[str, Any]) -> "CfmVitProcessor":
        """Return the processor that a configuration with these fields needs."""
        return cls(image_size=fields.get("image_size", 224), text_length=fields.get("max_position_embeddings", 64))

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def _limit(self) -> None:
        """Tell the tokenizer the longest text, for those who call it alone."""
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, self.text_length)

    def fit(self, rows: Any) -> "CfmVitProcessor":
        """Learn word pieces from the texts of rows, all their captions, where there is no tokenizer yet.

        Raises:
            ValueError: no row has a text.
        """
        if len(self.tokenizer) > len(SPECIAL):
            return self
        if getattr(rows, "column_names", None):  # pictures need not be read for this
            rows = rows.select_columns([name for name in rows.column_names if name in COLUMNS])
        texts: list[str] = []
        for row in rows:
            found = text_of(row)[0]
            texts += [found] if found else []
            texts += [str(each) for each in (row.get("captions") or ())[1:]]
        if not texts:
            raise ValueError(f"no row has a text among {', '.join(COLUMNS)}; map its column to 'text'")
        self.tokenizer = word_pieces(texts, self.vocabulary, self.lower)
        self._limit()
        return self

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the processor decides."""
        return {
            "vocab_size": len(self.tokenizer),
            "pad_token_id": self.tokenizer.pad_token_id,
            "max_position_embeddings": self.text_length,
            "image_size": self.image_size,
        }

    def __call__(self, rows: Any = None, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows, or pictures, or texts, or pairs of them.

        Args:
            rows: list of dicts with a column `image` (a PIL picture, an array (H, W, 3) of 8 bits, or a path) and a text, see
                `hub_mim.texts.text_of`; either may be missing, in all rows alike.
            images, text: instead of rows; one or a list.
            kwargs: size: of the pictures, a side or (height, width); default `image_size`. Others are not used; tensors are
                torch's.
        Returns:
            pixel_values float32 (B, 3, H, W); input_ids and attention_mask int64 (B, T), as long as the longest text.
        Raises:
            ValueError: a row without picture or text where others have one, an empty text, a picture that cannot be read; it
                names the row.
        """
        if rows is None:
            pictures, texts = _listed(images), _listed(text)
        else:
            rows = [rows] if isinstance(rows, Mapping) else list(rows)
            pictures, texts = _columns(rows)
        if not pictures and not texts:
            raise ValueError("there is nothing to encode: neither pictures nor texts")
        if pictures and texts and len(pictures) != len(texts):
            raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts; there must be as many")
        made: dict[str, Tensor] = {}
        if pictures:
            sides = _sides(kwargs.get("size") or self.image_size)
            read = [as_picture(each, row) for row, each in enumerate(pictures)]
            pixels = squashed(read, sides)
            made["pixel_values"] = pixels if self.leaves_bytes else self._normalised(pixels)
        if texts:
            options: dict[str, Any] = {"truncation": True, "max_length": self.text_length, "padding": True}
            encoded = self.tokenizer(texts, return_tensors="pt", return_attention_mask=True, **options)
            made |= {name: encoded[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature(made)

    def in_bytes(self) -> Bytes:
        """Return this processor leaving pictures as bytes, and what each level becomes; see `hub_mim.on_device`."""
        plain = copy.copy(self)
        plain.leaves_bytes = True
        known = torch.from_numpy(levels()).permute(2, 0, 1)
        return Bytes(plain, self._normalised(known).reshape(-1, LEVELS))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalised(pixels, self.pixel_mean, self.pixel_std)

    def as_pictures(self, pixel_values: Tensor) -> Tensor:
        """Return colours in [0, 1] (B, H, W, 3) of `pixel_values` (B, 3, H, W)."""
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.pixel_mean, self.pixel_std))
        return (pixel_values.float().cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)


def as_picture(value: Any, row: int = 0) -> Image.Image:
    """Return a picture in colour from a PIL picture, an array or a path; `row` is named in errors.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        if isinstance(value, str | Path):
            value = Image.open(value)
        elif not isinstance(value, Image.Image):
            table = np.asarray(value)
            if table.dtype != np.uint8 or table.ndim not in (2, 3) or 0 in table.shape:
                raise ValueError(f"it is {table.dtype} of shape {table.shape}, not (height, width, 3) of 8 bits")
            value = Image.fromarray(table)
        colours: Image.Image = value.convert("RGB")
    except (OSError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"the picture of row {row} cannot be read: {error}") from error
    return colours


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _listed(values: Any) -> list[Any]:
    if values is None:
        return []
    alone = isinstance(values, str | Path | Image.Image) or (isinstance(values, np.ndarray) and values.ndim < 4)
    return [values] if alone else list(values)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[str]]:
    """Return the pictures and the texts of rows, each in all rows or in none."""
    pictures = [next((row[name] for name in PICTURES if row.get(name) is not None), None) for row in rows]
    texts = [text_of(row)[0] for row in rows]
    for what, found, names in (("picture", pictures, PICTURES[:1]), ("text", texts, COLUMNS)):
        lacking = [number for number, each in enumerate(found) if each is None]
        if 0 < len(lacking) < len(rows):
            raise ValueError(f"row {lacking[0]} has no {what} ({', '.join(names)}), and others have one")
    empty = [number for number, each in enumerate(texts) if each is not None and not each.strip()]
    if empty:
        raise ValueError(f"row {empty[0]} has an empty text; leave it out (--skip-unreadable)")
    return [each for each in pictures if each is not None], [each for each in texts if each is not None]
