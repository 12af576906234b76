"""Pictures and texts in one space: their vectors, retrieval of one by the other, maps of a text over a picture.

Works with every model that has `get_image_features` and `get_text_features`, a plugin's or transformers' own (CLIP, SigLIP).
Shapes: B rows, E values of the joint space, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes
from hub_mim.features import untrained
from hub_mim.texts import text_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SIDES = ("image", "text")
DEPTHS = (1, 5, 10)  # the k of recall@k
LONGEST = 10_000  # tokenizers without a limit claim an enormous one


def is_dual(model: Any) -> bool:
    """Tell whether a model has one encoder for pictures and one for text, with a space of both."""
    return all(hasattr(model, f"get_{side}_features") for side in SIDES)


def check_dual(model: Any) -> None:
    """Raise a ValueError where a model is not dual, see `is_dual`."""
    if not is_dual(model):
        raise ValueError(
            f"{type(model).__name__} has no get_image_features and get_text_features; this needs a model of pictures "
            "and text, such as CLIP or SigLIP"
        )


def image_of(row: Mapping[str, Any]) -> Any:
    """Return a row's picture, in RGB.

    Raises:
        ValueError: it has none.
    """
    key = "images" if "images" in row else "image"
    if row.get(key) is None:
        raise ValueError(f"no column of images among {', '.join(map(str, row))}; map one with --map COLUMN=images")
    return row[key].convert("RGB")


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """Return all of a row's texts.

    Raises:
        ValueError: it has none.
    """
    texts = list(row.get("captions") or [])
    first = text_of(row)[0]
    found = texts or ([first] if first is not None else [])
    if not found:
        raise ValueError(f"no column of texts among {', '.join(map(str, row))}; map one with --map COLUMN=text")
    return found


def image_vectors(model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], dtype: Any = None) -> Tensor:
    """Return the unit vectors (B, E) of rows' pictures. dtype: of torch, for autocast."""
    from hub_mim.data import made_of

    encoded = made_of(lambda part: processor(images=[image_of(row) for row in part], return_tensors="pt"), rows)
    return _vectors(model, "image", encoded, dtype)


def text_vectors(model: Any, processor: Any, sentences: Sequence[str], dtype: Any = None) -> Tensor:
    """Return the unit vectors (B, E) of sentences. dtype: of torch, for autocast."""
    return _vectors(model, "text", tokens(processor, sentences), dtype)


def side_vectors(
    model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], side: str, dtype: Any = None
) -> np.ndarray:
    """Return the unit vectors, float32 (rows, E), of rows' pictures ("image") or first texts ("text")."""
    from hub_mim.data import made_of

    if side == "image":
        found = image_vectors(model, processor, rows, dtype)
    else:
        encoded = made_of(lambda part: tokens(processor, [captions_of(row)[0] for row in part]), rows)
        found = _vectors(model, "text", encoded, dtype)
    return found.cpu().numpy()


def tokens(processor: Any, sentences: Sequence[str]) -> Any:
    """Return sentences as a model of pictures and text reads them."""
    tokenizer = getattr(processor, "tokenizer", processor)
    # SigLIP reads the last place of a full-length text, CLIP the end mark wherever it is
    padding = "max_length" if tokenizer.model_max_length < LONGEST else "longest"
    return tokenizer(list(sentences), padding=padding, truncation=padding == "max_length", return_tensors="pt")


def _vectors(model: Any, side: str, encoded: Any, dtype: Any) -> Tensor:
    import torch
    from torch.nn.functional import normalize

    encoded = {name: value.to(model.device) for name, value in encoded.items()}
    with torch.no_grad(), torch.autocast(model.device.type, dtype) if dtype else nullcontext():
        output = getattr(model, f"get_{side}_features")(**encoded)
    return normalize((output if not hasattr(output, "pooler_output") else output.pooler_output).float(), dim=-1)


@takes(similarity="float filled I T", owner="int >=0 <I T")
def recalls(similarity: Tensor, owner: Tensor) -> dict[str, float]:
    """Return how often a picture's text, and a text's picture, is among the k nearest.

    Args:
        similarity: (I, T), of pictures and texts. owner: int64 (T,), the picture that each text belongs to.
    Returns:
        `recall@k (image to text)`, `recall@k (text to image)` for k = 1, 5, 10, and the mean of both at 1. A picture with
        several texts needs one of them. What is exactly as near as the right one counts as half before it.
    """
    import torch

    right = owner[None] == torch.arange(len(similarity), device=owner.device)[:, None]
    best = similarity.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    others = similarity.masked_fill(right, float("-inf"))
    by_image = (others > best).sum(1) + (others == best).sum(1) / 2
    own = similarity.gather(0, owner[None])
    equal = (similarity == own).sum(0) - 1
    by_text = (similarity > own).sum(0) + equal / 2
    found: dict[str, float] = {}
    for name, before in (("image to text", by_image), ("text to image", by_text)):
        found |= {f"recall@{k} ({name})": float((before < k).float().mean()) for k in DEPTHS}
    found["recall@1 (mean of both)"] = (found["recall@1 (image to text)"] + found["recall@1 (text to image)"]) / 2
    return found


@takes(batch_size=">=1")
def retrieval(
    model: Any, processor: Any, rows: Any, *, batch_size: int = 64, captions: str = "first"
) -> dict[str, float]:
    """Return the recalls of rows' pictures and texts among each other; see `recalls`.

    Args:
        model: put into evaluation mode. rows: with pictures and texts.
        captions: "first" or "all" of a row's texts.
    """
    import torch

    from hub_mim.data import batches

    model.eval()
    images: list[Tensor] = []
    texts: list[Tensor] = []
    owner: list[int] = []
    for part in batches(rows, batch_size):
        start = len(owner) and owner[-1] + 1
        images.append(image_vectors(model, processor, part))
        chosen = [captions_of(row)[: None if captions == "all" else 1] for row in part]
        sentences = [text for each in chosen for text in each]
        texts.append(text_vectors(model, processor, sentences))
        owner += [start + number for number, each in enumerate(chosen) for _ in each]
    return recalls(torch.cat(images) @ torch.cat(texts).T, torch.tensor(owner, device=images[0].device))


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
    batch_size: int = 64,
    **extraction: Any,
) -> list[dict[str, Any]]:
    """Return recalls of the checkpoint and of random models, both ways; see `retrieval`.

    Args:
        options: `captions`: "first" or "all".
        name, model, processor, rows, seeds: see `protocols.judge`. source, train, label, extraction: not used.
    Raises:
        ValueError: the model has no text or image side; rows lack one; `captions` is neither.
    """
    from hub_mim.protocols import PROTOCOLS, chosen_options, figure

    protocol = PROTOCOLS[name]
    captions = chosen_options(name, protocol, options or {})["captions"]
    if captions not in ("first", "all"):
        raise ValueError(f'captions is {captions!r}; it must be "first" or "all"')
    check_dual(model)
    given: dict[str, Any] = {"batch_size": batch_size, "captions": captions}
    ours = retrieval(model, processor, rows, **given)
    random = [retrieval(untrained(model, seed), processor, rows, **given) for seed in seeds]
    return [
        figure(name, protocol, metric, source, values, seeds)
        for metric in ours
        for source, values in (("", [ours[metric]]), ("untrained", [each[metric] for each in random]))
    ]


def similarity_maps(
    model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], sentences: Sequence[str]
) -> list[Tensor]:
    """Return for each row how near each of its patches is to each sentence: cosines (sentences, rows, columns).

    Raises:
        ValueError: the model has no vectors of patches in the joint space (`patch_features`).
    """
    import torch
    from torch.nn.functional import normalize

    if not hasattr(model, "patch_features"):
        raise ValueError(f"{type(model).__name__} has no patch_features, vectors of patches in the space of its texts")
    texts = text_vectors(model, processor, sentences)
    encoded = processor(images=[image_of(row) for row in rows], return_tensors="pt")
    with torch.no_grad():
        patches, valid, grids = model.patch_features(
            **{name: value.to(model.device) for name, value in encoded.items()}
        )
    near = normalize(patches.float(), dim=-1) @ texts.T
    return [
        near[number][valid[number]].T.reshape(len(sentences), *grid.tolist()).cpu() for number, grid in enumerate(grids)
    ]
