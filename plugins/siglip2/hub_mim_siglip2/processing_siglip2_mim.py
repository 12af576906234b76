"""SigLIP 2's processor: pictures by transformers' own image processors, texts by any tokenizer or one learnt from the rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from hub_mim.files import read_json
from hub_mim.texts import SPECIAL, TEXTS, text_of
from hub_mim_siglip2.configuration_siglip2_mim import KINDS, TEMPLATES
from hub_mim_siglip2.region_texts import Region, parts, read_box, region_text, regions_of, write_box
from hub_mim_siglip2.vocabularies import learnt

ASKED = {"caption": "text", "refer": "box", "ground": "text"}  # what the decoder tells, by the kind of text

# what a processor keeps for pictures of another size
KEPT = (
    *("naflex", "max_num_patches", "text_length", "decoder_length", "max_regions", "templates"),
    *("box_bins", "box_unit", "names", "lower", "vocabulary"),
)


def image_processor_for(naflex: bool, image_size: int, patch_size: int, max_num_patches: int) -> Any:
    """Return transformers' image processor as SigLIP 2 uses it: bilinear, values from -1 to 1."""
    bilinear, half = Image.Resampling.BILINEAR, [0.5, 0.5, 0.5]
    if naflex:
        from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

        return Siglip2ImageProcessorPil(patch_size=patch_size, max_num_patches=max_num_patches)
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    size = {"height": image_size, "width": image_size}
    return SiglipImageProcessorPil(size=size, resample=bilinear, image_mean=half, image_std=half)


class Siglip2MimProcessor(ProcessorMixin):
    """Encode rows of pictures and texts.

    A row has `image`, a text (`text`, `caption`, `sentence`, `question`, or the first of `captions`) and may have `objects` with
    boxes, of which the decoder learns to find what is named and to name what is boxed.

    Args:
        image_processor: of transformers; default as the next four say. tokenizer: one, or its folder or Hub id; None learns a
            vocabulary of word pieces from the texts in `fit`.
        naflex: pictures keep their shape. image_size, patch_size: pixels a side. max_num_patches: of a NaFlex picture.
        text_length: tokens of a text; all are padded to it. decoder_length: of what the decoder writes.
        max_regions: of a row; the rest is left out. 0: none are read.
        templates: of the kinds of text. box_bins: a coordinate is a number below it. box_unit: "pixel" or "share".
        names: of objects' classes, by field; learnt by `fit` where the rows tell them.
        lower: texts in lower case. vocabulary: at most so many word pieces are learnt.
    """

    fit_once = True  # words are of the vocabulary that the weights know

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        naflex: bool = False,
        image_size: int = 256,
        patch_size: int = 16,
        max_num_patches: int = 256,
        text_length: int = 64,
        decoder_length: int = 64,
        max_regions: int = 8,
        templates: Mapping[str, str] | None = None,
        box_bins: int = 1024,
        box_unit: str = "pixel",
        names: Mapping[str, Sequence[str]] | None = None,
        lower: bool = True,
        vocabulary: int = 8192,
        **kwargs: Any,
    ):
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        if tokenizer is None:
            tokenizer = learnt([], vocabulary, lower)
        if image_processor is None:
            image_processor = image_processor_for(naflex, image_size, patch_size, max_num_patches)
        super().__init__(image_processor, tokenizer, **kwargs)
        if box_unit not in ("pixel", "share"):
            raise ValueError(f"box_unit is {box_unit!r}; it must be 'pixel' or 'share'")
        self.naflex, self.image_size, self.patch_size, self.max_num_patches = (
            naflex,
            image_size,
            patch_size,
            max_num_patches,
        )
        self.text_length, self.decoder_length, self.max_regions = text_length, decoder_length, max_regions
        self.templates = dict(TEMPLATES) | dict(templates or {})
        self.box_bins, self.box_unit, self.lower, self.vocabulary = box_bins, box_unit, lower, vocabulary
        self.names = {name: list(each) for name, each in (names or {}).items()}
        self._set_tokenizer(tokenizer)

    def _set_tokenizer(self, tokenizer: Any) -> None:
        """Let a tokenizer give what the model reads: numbers alone, padded on the right to the full length."""
        tokenizer.model_max_length, tokenizer.padding_side = self.text_length, "right"
        tokenizer.model_input_names = ["input_ids"]
        tokenizer.init_kwargs["model_input_names"] = [
            "input_ids"
        ]  # kept in files: no mask of padding may be made of them
        self.tokenizer = tokenizer

    @classmethod
    def for_config(cls, fields: Mapping[str, Any]) -> "Siglip2MimProcessor":
        """Return the processor for a configuration's fields, preset and overrides.

        With `processor_name`: that checkpoint's own processor, or another's tokenizer, and pictures as large as its
        configuration says, where the fields do not tell.
        """
        from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig

        name = fields.get("processor_name")
        if name is not None and _file(name, "processor_config.json").get("processor_class") == cls.__name__:
            stored: Siglip2MimProcessor = cls.from_pretrained(name)
            size, patch = fields.get("image_size") or stored.image_size, fields.get("patch_size") or stored.patch_size
            return stored if (size, patch) == (stored.image_size, stored.patch_size) else stored.resized(size, patch)
        beside = _file(name, "config.json") if name is not None else {}
        known = {key: value for key, value in fields.items() if key != "model_type"}
        if beside.get("model_type") in ("siglip", "siglip2"):
            told: dict[str, Any] = {key: beside[key] for key in ("text_config", "vision_config") if key in beside}
            known = {"naflex": beside["model_type"] == "siglip2", **told, **known}
        config = Siglip2MimConfig(**known)
        return cls(
            tokenizer=name,
            naflex=config.naflex,
            image_size=config.image_size or 256,
            patch_size=config.patch_size,
            max_num_patches=max(config.sequence_lengths),
            text_length=config.text_length,
            decoder_length=config.decoder_length,
            templates=config.text_templates,
            box_bins=config.box_bins,
            vocabulary=config.vocab_size,
        )

    def resized(self, image_size: int, patch_size: int | None = None) -> "Siglip2MimProcessor":
        """Return this processor for pictures of another size; see `resolution.change_resolution`."""
        patch = self.patch_size if patch_size is None else patch_size
        given = {name: getattr(self, name) for name in KEPT}
        return type(self)(tokenizer=self.tokenizer, image_size=image_size, patch_size=patch, **given)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes of rows."""
        pictures = ["pixel_attention_mask", "spatial_shapes"] if self.naflex else []
        regions = ["region_ids", "region_starts", "region_valid"] if self.max_regions else []
        return ["pixel_values", *pictures, "input_ids", "caption_ids", "caption_starts", *regions]

    def fit(self, rows: Any) -> "Siglip2MimProcessor":
        """Learn the vocabulary where there is none, names of classes, and whether there are objects.

        Raises:
            ValueError: there are no texts to learn from.
        """
        columns = getattr(rows, "column_names", None)
        features = getattr(rows, "features", None) or {}
        self.names = self.names or _class_names(features.get("objects"))
        if columns:  # pictures are not read
            rows = rows.remove_columns([name for name in columns if name not in (*TEXTS, "captions", "objects")])
        texts: list[str] = []
        objects = False
        for row in rows:
            texts += [text for text in [text_of(row)[0]] if text]
            named = [text for each in _objects(row) if (text := region_text(each, self.names))]
            objects, texts = objects or bool(named), texts + named
        if not texts:
            raise ValueError(f"no row has a text among {', '.join(TEXTS)}; map its column to 'text'")
        self.max_regions = self.max_regions if objects else 0
        if len(self.tokenizer) <= len(SPECIAL):
            words = [template.replace("{text}", " ").replace("{box}", " ") for template in self.templates.values()]
            digits = [" ".join("0123456789"), "".join("0123456789")] if objects else []
            self._set_tokenizer(learnt([*texts, *words, *digits], self.vocabulary, self.lower))
        return self

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the processor decides.

        Raises:
            ValueError: the tokenizer has no token for padding.
        """
        if self.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no token for padding; set its pad_token")
        sides = {"patch_size": self.patch_size} | ({} if self.naflex else {"image_size": self.image_size})
        return {
            **sides,
            "naflex": self.naflex,
            "vocab_size": len(self.tokenizer),
            "text_length": self.text_length,
            "decoder_length": self.decoder_length,
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": self.end,
            "decoder_start_token_id": self.tokenizer.pad_token_id,
            "text_templates": self.templates,
            "box_bins": self.box_bins,
        }

    @property
    def end(self) -> int | None:
        """The token that ends a text."""
        tokenizer = self.tokenizer
        return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id

    def __call__(self, rows: Any = None, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows, or pictures and texts, either alone.

        Args:
            rows: dicts, see above; rows without any text give pictures alone. Otherwise: images: PIL, one or a list; text: one
                or a list.
        Returns:
            pixel_values (B, 3, H, W), or of NaFlex patches (B, N, P * P * 3) with pixel_attention_mask (B, N) and spatial_shapes
            (B, 2); input_ids int64 (B, T). Of rows also caption_ids (B, L), caption_starts (B,) and, where there are objects,
            region_ids (B, R, 2, L), region_starts (B, R, 2), region_valid (B, R).
        Raises:
            ValueError: nothing to encode, a row without picture or text, a picture that cannot be read, a box outside of it.
        """
        if rows is None:
            return BatchFeature(self._images(_listed(images)) | self._texts(_listed(text)) or _nothing())
        rows = [rows] if isinstance(rows, Mapping) else list(rows)
        if not rows:
            raise ValueError("there are no rows to encode")
        made = self._images([row.get("image") for row in rows])
        texts = [text_of(row)[0] for row in rows]
        if all(each is None for each in texts):
            return BatchFeature(made)
        for number, each in enumerate(texts):
            if each is None:
                raise ValueError(f"row {number} has no text among {', '.join(TEXTS)}; map its column to 'text'")
        made |= self._texts(texts)
        captions = [self._written("caption", text=str(each)) for each in texts]
        made["caption_ids"], made["caption_starts"] = self._stacked(captions)
        return BatchFeature(made | (self._regions(rows) if self.max_regions else {}))

    def _images(self, images: Sequence[Any]) -> dict[str, Tensor]:
        if not images:
            return {}
        arrays = [_as_array(number, image) for number, image in enumerate(images)]
        made = self.image_processor(arrays, input_data_format="channels_last", return_tensors="pt")
        return {name: value.bool() if name == "pixel_attention_mask" else value for name, value in made.items()}

    def _texts(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        if not texts:
            return {}
        ids = [self._ended(self._tokens(str(each), special=True), self.text_length) for each in texts]
        return {"input_ids": torch.tensor([self._padded(each, self.text_length) for each in ids])}

    def _tokens(self, text: str, special: bool = False) -> list[int]:
        text = text.lower() if self.lower else text
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _ended(self, ids: list[int], length: int) -> list[int]:
        """Cut a text to a length that ends with the end token, if there is one: it is kept when cutting."""
        if self.end is None:
            return ids[:length]
        while ids and ids[-1] == self.end:
            ids = ids[:-1]
        return [*ids[: length - 1], self.end]

    def _padded(self, ids: list[int], length: int) -> list[int]:
        return [*ids, *[self.tokenizer.pad_token_id or 0] * (length - len(ids))]

    # --- what the decoder writes ---

    def prompt(self, kind: str = "caption", text: str = "", box: Sequence[float] | None = None) -> list[int]:
        """Return the tokens that ask the decoder for a caption, the box of a text, or the text of a box.

        Args:
            kind: "caption", "refer" or "ground". text: to find. box: top, left, bottom, right in [0, 1], to name.
        Raises:
            ValueError: an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {KINDS}")
        shown = "" if box is None else write_box(box, self.box_bins)
        return self._tokens(parts(self.templates[kind], ASKED[kind], text, shown)[0])

    def decode_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return what `generate_captions` wrote as text."""
        return [self.tokenizer.decode(each, skip_special_tokens=True) for each in ids]

    def decode_boxes(self, ids: Sequence[Sequence[int]]) -> list[tuple[float, float, float, float] | None]:
        """Return what it wrote as boxes (top, left, bottom, right in [0, 1]); None where it is none."""
        return [read_box(each, self.box_bins) for each in self.decode_texts(ids)]

    def _written(self, kind: str, text: str = "", box: str = "") -> tuple[list[int], int]:
        """Return a text that the decoder shall write, and where what is asked for begins."""
        prompt, answer = parts(self.templates[kind], ASKED[kind], text, box)
        first = self._tokens(prompt)
        return self._ended([*first, *self._tokens(answer)], self.decoder_length), min(
            len(first), self.decoder_length - 1
        )

    def _stacked(self, written: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([self._padded(each, self.decoder_length) for each, _ in written])
        return ids, torch.tensor([start for _, start in written])

    def _regions(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        most, length = self.max_regions, self.decoder_length
        ids = torch.full((len(rows), most, 2, length), self.tokenizer.pad_token_id or 0)
        starts, valid = (
            torch.zeros(len(rows), most, 2, dtype=torch.int64),
            torch.zeros(len(rows), most, dtype=torch.bool),
        )
        for number, row in enumerate(rows):
            for place, region in enumerate(self._regions_of(number, row)[:most]):
                box = write_box(region.box, self.box_bins)
                written = [self._written(kind, region.text, box) for kind in KINDS[1:]]
                ids[number, place], starts[number, place] = self._stacked(written)
                valid[number, place] = True
        return {"region_ids": ids, "region_starts": starts, "region_valid": valid}

    def _regions_of(self, number: int, row: Mapping[str, Any]) -> list[Region]:
        try:
            return regions_of(row, self.names, self.box_unit)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error


def _as_array(number: int, image: Any) -> np.ndarray:
    """Return a picture's colours (H, W, 3).

    Raises:
        ValueError: it is none, or cannot be read.
    """
    if isinstance(image, np.ndarray | Tensor):
        array = np.asarray(image)
        image = Image.fromarray(array) if array.dtype == np.uint8 and array.ndim in (2, 3) else image
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"row {number} has no picture: image is {type(image).__name__}; give a PIL image or an array of bytes"
        )
    try:
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"row {number}: the picture cannot be read ({error}); leave the row out") from error


def _file(name: str, file: str) -> dict[str, Any]:
    """Return what a JSON file of a folder or a Hub repository holds; nothing where there is no such file."""
    from transformers.utils import cached_file

    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else dict(read_json(Path(path)))


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _nothing() -> dict[str, Tensor]:
    raise ValueError("there is nothing to encode; give rows, images or text")


def _objects(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    from hub_mim_siglip2.region_texts import as_list

    return as_list(row.get("objects"))


def _class_names(feature: Any) -> dict[str, list[str]]:
    """Return the names of classes that a column of objects tells, by field."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    fields = inner if isinstance(inner, Mapping) else {}
    return {name: list(each.names) for name, each in fields.items() if getattr(each, "names", None)}
