"""Everything that is drawn for a batch, each from its own stream of the rows' seeds: hidden patches, views, texts.

Shapes: B rows, N patches, V small views, R regions of a row, L tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hub_mim.masking import noise, random_mask
from hub_mim_siglip2.configuration_siglip2_mim import KINDS, Siglip2MimConfig
from hub_mim_siglip2.views import crop_boxes

PARALLEL, KIND, REGION, LOCAL, GLOBAL = range(1, 6)  # streams; hidden patches have stream 0


class Texts(NamedTuple):
    """What the decoder shall tell: int64 (B, L), bool (B, L) where the loss is taken, bool (B,) all words at once."""

    labels: Tensor
    scored: Tensor
    parallel: Tensor


def draw_mask(config: Siglip2MimConfig, rows: int, patches: int, source: Mapping[str, Any]) -> Tensor:
    """Return which patches are hidden from the student, bool (B, N); none where the loss is not in use."""
    ratio = config.mask_ratio if "masked" in config.active_losses else 0.0
    return random_mask((rows, patches), ratio, **source)


def draw_boxes(config: Siglip2MimConfig, rows: int, source: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the small views (B, V, 4) and the large one (B, 1, 4) of each picture, as boxes; see `views.crop_boxes`."""
    small = noise((rows, config.num_local_views, 4), stream=LOCAL, **source)
    large = noise((rows, 1, 4), stream=GLOBAL, **source)
    return crop_boxes(small, config.local_crop_scale), crop_boxes(large, config.global_crop_scale)


def draw_texts(
    config: Siglip2MimConfig,
    caption_ids: Tensor,
    caption_starts: Tensor | None,
    regions: Mapping[str, Tensor | None],
    given: Mapping[str, Tensor | None],
    source: Mapping[str, Any],
) -> Texts:
    """Choose what the decoder tells of each picture: its caption, the box of a named region, or a boxed region's name.

    Args:
        caption_ids: int64 (B, L). caption_starts: int64 (B,), where what is asked for begins; default 0.
        regions: `ids` int64 (B, R, 2, L), `starts` int64 (B, R, 2), `valid` bool (B, R); all or none.
        given: `kind` int64 (B,) in `KINDS`' order, `region` int64 (B,), `parallel` bool (B,); what is None is drawn.
        source: of randomness.
    """
    rows = len(caption_ids)
    # drawn whether read or not: a later draw must not depend on what is given
    chance = noise((rows, 3), stream=PARALLEL, **source)
    starts = (
        torch.zeros(rows, dtype=torch.int64, device=caption_ids.device) if caption_starts is None else caption_starts
    )
    labels, kind = caption_ids, torch.zeros_like(starts)
    ids, valid, first = (regions.get(name) for name in ("ids", "valid", "starts"))
    if ids is not None and valid is not None and first is not None and ids.shape[1]:
        if ids.shape[3] != caption_ids.shape[1]:
            raise ValueError(
                f"region_ids has texts of {ids.shape[3]} tokens, caption_ids of {caption_ids.shape[1]}; pad them to one length"
            )
        told = given.get("kind")
        kind = _kind(config, chance[:, 1]) if told is None else told
        kind = torch.where(valid.any(1), kind, 0)
        place = given.get("region")
        place = _one_of(valid, chance[:, 2]) if place is None else place
        every, column = torch.arange(rows, device=ids.device), (kind - 1).clamp(min=0)
        of_region = kind > 0
        labels = torch.where(of_region[:, None], ids[every, place, column], labels)
        starts = torch.where(of_region, first[every, place, column], starts)
    chosen = given.get("parallel")
    parallel = (chance[:, 0] < config.parallel_ratio) if chosen is None else chosen.bool()
    pad = config.pad_token_id
    scored = labels != pad if pad is not None else torch.ones_like(labels, dtype=torch.bool)
    if not config.score_prompt:
        scored = scored & (torch.arange(labels.shape[1], device=labels.device) >= starts[:, None])
    return Texts(labels, scored, parallel & (kind == 0))


def _kind(config: Siglip2MimConfig, chance: Tensor) -> Tensor:
    parts = torch.tensor([config.kind_weights.get(name, 0.0) for name in KINDS], dtype=torch.float64)
    bounds = (parts.cumsum(0) / parts.sum())[:-1].to(chance.device)
    return (chance[:, None].double() >= bounds).sum(1)


def _one_of(valid: Tensor, chance: Tensor) -> Tensor:
    """Return one of the places (B, R) that are valid, uniformly; 0 where none is."""
    count = valid.sum(1)
    wanted = (chance.double() * count).long().clamp(max=(count - 1).clamp(min=0))
    return ((valid.cumsum(1) - 1 == wanted[:, None]) & valid).int().argmax(1)
