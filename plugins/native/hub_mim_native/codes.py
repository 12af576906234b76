"""BEiT's targets: a code for each patch, from the tokenizer of DALL-E or from a random projection."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

CODEBOOK = (
    "facebook/flava-image-codebook"  # DALL-E's tokenizer, with which BEiT was trained, as transformers carries it
)
RANDOM = "random-projection"
STRIDE = 8  # pixels of the tokenizer's input to a code
RATIO = 0.4  # BEiT, section 2.3
LEAST, ASPECT = 16, 0.3  # Algorithm 1
WIDTH = 16  # of the random projection; Chiu et al. 2022 (arXiv:2202.01855), section 4.1.1


def codes(model: Any, batch: dict[str, Any], row_seed: Tensor) -> dict[str, Tensor]:
    """Return BEiT's `bool_masked_pos` (B, patches), True = hidden, and `labels` (hidden patches,) of all rows.

    `config.codebook` names a `FlavaImageCodebook` (folder or Hub id), by default DALL-E's; "random-projection" takes
    the place of a trained tokenizer where none can be had: the nearest of random vectors to the patch, randomly projected.

    Args:
        model: a `BeitForMaskedImageModeling`. batch: with `pixel_values` in [-1, 1]. row_seed: int64 (B,).
    Raises:
        ValueError: the codebook has more codes than the model predicts.
    """
    config, pixels = model.config, batch["pixel_values"]
    side = config.image_size // config.patch_size
    hidden = torch.stack([blockwise(int(seed), side) for seed in row_seed]).to(pixels.device)
    source = getattr(config, "codebook", CODEBOOK)
    with torch.no_grad():
        if source == RANDOM:
            found = _random_codes(pixels, config.patch_size, config.vocab_size)
        else:
            found = _trained_codes(pixels, side, source, config.vocab_size)
    return {"bool_masked_pos": hidden, "labels": found[hidden]}


def blockwise(seed: int, side: int) -> Tensor:
    """Return one row's mask bool (side * side,): rectangles until 40 % of the patches are hidden.

    Source: Bao et al. 2022 (arXiv:2106.08254), Algorithm 1; a rectangle is never larger than what is still to be hidden.
    """
    source = np.random.default_rng(seed % 2**63)
    mask, wanted = np.zeros((side, side), bool), round(RATIO * side * side)
    while mask.sum() < wanted:
        left = wanted - int(mask.sum())
        area = source.uniform(min(LEAST, left), left)
        ratio = np.exp(source.uniform(np.log(ASPECT), -np.log(ASPECT)))
        high, wide = (int(np.clip(round((area * r) ** 0.5), 1, min(side, left))) for r in (ratio, 1 / ratio))
        wide = min(wide, max(1, left // high))
        top, start = source.integers(side - high + 1), source.integers(side - wide + 1)
        mask[top : top + high, start : start + wide] = True
    return torch.from_numpy(mask.flatten())


def _trained_codes(pixels: Tensor, side: int, source: str, most: int) -> Tensor:
    tokenizer = _tokenizer(source).to(pixels.device)
    if tokenizer.config.vocab_size > most:
        raise ValueError(
            f"{source} has {tokenizer.config.vocab_size} codes, the model predicts {most}; set vocab_size to the former"
        )
    small = interpolate(pixels, size=(side * STRIDE, side * STRIDE), mode="bicubic", antialias=True)
    colours = (small / 2 + 0.5).clamp(0, 1)
    return tokenizer.get_codebook_indices(0.8 * colours + 0.1).flatten(1)  # DALL-E keeps values off 0 and 1


@lru_cache(maxsize=2)
def _tokenizer(source: str) -> Any:
    from transformers import FlavaImageCodebook

    return FlavaImageCodebook.from_pretrained(source, use_safetensors=True).eval()


def _random_codes(pixels: Tensor, patch: int, count: int) -> Tensor:
    from hub_mim.patches import patchify

    patches = patchify(pixels, (patch, patch))
    patches = patches - patches.mean(1, keepdim=True)  # of the row's own picture, so that no code depends on the batch
    projection, vectors = (part.to(pixels.device) for part in _random(patches.shape[-1], count))
    return (normalize(patches.float() @ projection, dim=-1) @ vectors.T).argmax(-1)


@lru_cache(maxsize=2)
def _random(width: int, count: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    projection = torch.randn(width, WIDTH, generator=source)
    return projection, normalize(torch.randn(count, WIDTH, generator=source), dim=-1)
