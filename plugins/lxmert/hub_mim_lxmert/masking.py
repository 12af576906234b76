"""What LXMERT draws before a step: hidden words and regions in the same row, sentences of other rows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hub_mim.masking import noise, replace_tokens
from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
from hub_mim_regions.words import mismatch, real_tokens


@dataclass
class Draws:
    """What was drawn.

    mask: {"text": bool (B, T), "regions": bool (B, N)}. input_ids: with masked words. features: with masked regions.
    text: the sentences that were taken: input_ids (clean), attention_mask, token_type_ids. matched, answer: int64 (B,).
    """

    mask: dict[str, Tensor]
    input_ids: Tensor
    features: Tensor
    text: dict[str, Any]
    matched: Tensor
    answer: Tensor | None


def draw(
    config: LxmertMimConfig,
    text: dict[str, Any],
    features: Tensor,
    regions: Tensor | None,
    matched: Tensor | None,
    answer: Tensor | None,
    mask: dict[str, Tensor] | None,
    given: tuple[Tensor | None, Tensor | None],
    source: dict[str, Any],
) -> Draws:
    """Draw the masks of a batch; for the arguments see `LxmertMimForPreTraining.forward`.

    Args:
        text: its input_ids, attention_mask and token_type_ids. given: masked ids and features, where a mask is given.
        source: of randomness.
    """
    rows = len(features)
    partner, matched = _partners(config, rows, matched, mask is not None, source)
    if partner is not None:
        text = {name: None if part is None else part[partner] for name, part in text.items()}
    answer = None if answer is None else answer.masked_fill(matched != 1, -100)
    ids = text["input_ids"]
    words, real = real_tokens(text["attention_mask"], ids), real_tokens(regions, features)
    if mask is not None:
        hidden = {"text": mask["text"] & words, "regions": mask["regions"] & real}
        masked = ids.masked_fill(hidden["text"], config.mask_token_id) if given[0] is None else given[0]
        shown = features.masked_fill(hidden["regions"][..., None], 0) if given[1] is None else given[1]
        return Draws(hidden, masked, shown, text, matched, answer)
    chosen = (
        words & (ids >= config.num_special_tokens) & (noise(tuple(ids.shape), stream=12, **source) < config.mask_ratio)
    )
    masked, _ = replace_tokens(
        ids,
        chosen,
        mask_id=config.mask_token_id,
        vocab_size=config.vocab_size,
        row_seed=source["row_seed"],
        generator=source["generator"],
    )
    places = real & (noise(tuple(real.shape), stream=13, **source) < config.mask_ratio)
    shown = _shown(features, places, real, source)
    return Draws({"text": chosen, "regions": places}, masked, shown, text, matched, answer)


def _partners(
    config: LxmertMimConfig, rows: int, matched: Tensor | None, fixed: bool, source: dict[str, Any]
) -> tuple[Tensor | None, Tensor]:
    """Return the row that each row's words are taken from, and which pairs match."""
    device = source["device"]
    if matched is not None or fixed:
        return None, torch.ones(rows, dtype=torch.int64, device=device) if matched is None else matched
    every = torch.ones(rows, dtype=torch.bool, device=device)
    apart, partner = mismatch(every, config.negative_ratio, source)
    return partner, (~apart).long()


def _shown(features: Tensor, hidden: Tensor, real: Tensor, source: dict[str, Any]) -> Tensor:
    """Return features as masked: 8 of 10 are zero, one is another region's of the row, one stays.

    The authors take another picture's region; of one's own row it does not depend on the batch.
    """
    kind = noise(tuple(hidden.shape), stream=16, **source)
    pick = (noise(tuple(hidden.shape), stream=17, **source) * real.sum(1, keepdim=True)).long()
    other = features.gather(1, pick.clamp(max=features.shape[1] - 1)[..., None].expand_as(features))
    zero, swapped = hidden & (kind < 0.8), hidden & (kind >= 0.8) & (kind < 0.9)
    return torch.where(swapped[..., None], other, features).masked_fill(zero[..., None], 0)
