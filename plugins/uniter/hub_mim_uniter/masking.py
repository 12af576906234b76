"""What UNITER draws before a step: tasks, hidden words and regions, pairs that do not belong together."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hub_mim.masking import noise, replace_tokens
from hub_mim_regions.words import mismatch
from hub_mim_uniter.configuration_uniter import TASKS, UniterConfig

MRM = ("mrfr", "mrc", "mrckl")


@dataclass
class Draws:
    """What was drawn.

    mask: {"text": bool (B, T), "regions": bool (B, N)}, hidden. words: scored words. features, classes, shares: regions whose
    features, class and soft label are predicted. input_ids: with masked words. matched: int64 (B,), -100 = not asked.
    partner: int64 (B,), the row that a row's regions are taken from; None where each keeps its own.
    """

    mask: dict[str, Tensor]
    words: Tensor
    features: Tensor
    classes: Tensor
    shares: Tensor
    input_ids: Tensor
    matched: Tensor
    partner: Tensor | None

    def exchange(self, *parts: Tensor | None) -> tuple[Any, ...]:
        """Return what belongs to regions, taken from each row's partner."""
        if self.partner is None:
            return parts
        return tuple(None if part is None else part[self.partner] for part in parts)


def draw(
    config: UniterConfig,
    input_ids: Tensor,
    text: Tensor,
    regions: Tensor,
    matched: Tensor | None,
    mask: dict[str, Tensor] | None,
    masked_ids: Tensor | None,
    task: str | None,
    source: dict[str, Any],
) -> Draws:
    """Draw tasks and masks of a batch.

    Args:
        text, regions: bool (B, T) and (B, N), what is no padding. source: of randomness.
        For the others see `UniterForPreTraining.forward`.
    Raises:
        ValueError: an unknown task.
    """
    unasked = torch.full((len(input_ids),), -100, device=input_ids.device)
    if mask is not None:
        words, places = mask["text"] & text, mask["regions"] & regions
        ids = input_ids.masked_fill(words, config.mask_token_id) if masked_ids is None else masked_ids
        asked = unasked if matched is None else matched
        return Draws({"text": words, "regions": places}, words, places, places, places, ids, asked, None)
    drawn = _tasks(config, len(input_ids), task, source)
    joint = config.masking == "joint"
    of = {name: (drawn == number)[:, None] for number, name in enumerate(TASKS)}
    masks_regions = of["mrfr"] | of["mrc"] | of["mrckl"]
    pictures = of["mlm"] & joint
    words = hide_words(config, input_ids, text, source) & (of["mlm"] | (masks_regions & joint))
    places = hide_regions(config, regions, source) & (masks_regions | pictures)
    ids, replaced = replace_tokens(
        input_ids,
        words,
        mask_id=config.mask_token_id,
        vocab_size=config.vocab_size - config.num_special_tokens,
        row_seed=source["row_seed"],
        generator=source["generator"],
    )
    random = replaced.hidden & (ids != config.mask_token_id)
    ids = torch.where(random, ids + config.num_special_tokens, ids)
    asked, partner = _pairs(config, drawn, matched, unasked, source)
    scored = words & of["mlm"]
    hidden = {"text": words, "regions": places}
    features, classes, shares = (places & of[name] for name in MRM)
    return Draws(hidden, scored, features, classes, shares, ids, asked, partner)


def _tasks(config: UniterConfig, rows: int, task: str | None, source: dict[str, Any]) -> Tensor:
    """Return the number of each row's task (B,)."""
    if task is not None:
        if task not in config.active_tasks:
            raise ValueError(f"no task {task!r}; the model has {', '.join(config.active_tasks)}")
        return torch.full((rows,), TASKS.index(task), device=source["device"])
    weights = torch.tensor([config.tasks.get(name, 0.0) for name in TASKS], device=source["device"])
    edges = (weights / weights.sum()).cumsum(0)
    point = noise((rows, 1), stream=11, **source)[:, 0]
    return torch.searchsorted(edges, point.contiguous(), right=True).clamp(max=len(TASKS) - 1)


def hide_words(config: UniterConfig, input_ids: Tensor, text: Tensor, source: dict[str, Any]) -> Tensor:
    """Hide each word with the chance of `mask_ratio`, one at least: the first where none was drawn; bool (B, T)."""
    words = text & (input_ids >= config.num_special_tokens) & (input_ids != config.mask_token_id)
    return _some(words, noise(tuple(words.shape), stream=12, **source) < config.mask_ratio)


def hide_regions(config: UniterConfig, regions: Tensor, source: dict[str, Any]) -> Tensor:
    """Hide each region with the chance of `mask_ratio`, one at least; bool (B, N)."""
    return _some(regions, noise(tuple(regions.shape), stream=13, **source) < config.mask_ratio)


def _some(valid: Tensor, drawn: Tensor) -> Tensor:
    chosen = drawn & valid
    first = valid & (valid.cumsum(1) == 1)
    return torch.where(chosen.any(1, keepdim=True), chosen, first)


def _pairs(
    config: UniterConfig, drawn: Tensor, matched: Tensor | None, unasked: Tensor, source: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Return whether rows that are asked match, and the partners of those that shall not."""
    asks = drawn == TASKS.index("itm")
    if matched is not None:
        return torch.where(asks, matched, unasked), None
    apart, partner = mismatch(asks, config.negative_ratio, source)
    return torch.where(asks, (~apart).long(), unasked), partner
