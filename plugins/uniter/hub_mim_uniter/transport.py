"""Word-region alignment by optimal transport: costs, plan by inexact proximal point iterations (IPOT), distance."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_cost(text: Tensor, regions: Tensor, text_valid: Tensor, region_valid: Tensor) -> Tensor:
    """Return 1 - cosine of every word and region (B, T, N), 0 at padding.

    Args:
        text: (B, T, H). regions: (B, N, H). text_valid, region_valid: bool (B, T) and (B, N).
    """
    a, b = (F.normalize(part, dim=-1, eps=1e-5) for part in (text, regions))
    real = text_valid[:, :, None] & region_valid[:, None]
    return (1 - a @ b.transpose(1, 2)).masked_fill(~real, 0)


@torch.no_grad()
def transport_plan(
    cost: Tensor, text_valid: Tensor, region_valid: Tensor, beta: float = 0.5, steps: int = 50
) -> Tensor:
    """Return how much of each region goes to each word (B, N, T); rows and columns sum to equal shares.

    Args:
        cost: (B, T, N). beta: step of the proximal point. steps: outer iterations, with one inner each.
    Source: Xie et al. 2018 (arXiv:1802.04307), algorithm 1; UNITER, section 3.2, equation 5.
    """
    real = region_valid[:, :, None] & text_valid[:, None]
    count_text, count_regions = (each.sum(1).clamp(min=1).to(cost.dtype) for each in (text_valid, region_valid))
    kernel = (-cost.transpose(1, 2) / beta).exp().masked_fill(~real, 0)
    sigma = (text_valid.to(cost.dtype) / count_text[:, None])[..., None]
    plan = real.to(cost.dtype)
    words, places = text_valid[..., None], region_valid[..., None]
    for _ in range(steps):
        moved = kernel * plan
        delta = (1 / (count_regions[:, None, None] * (moved @ sigma)).clamp(min=1e-30)).masked_fill(~places, 0)
        sigma = (1 / (count_text[:, None, None] * (moved.transpose(1, 2) @ delta)).clamp(min=1e-30)).masked_fill(
            ~words, 0
        )
        plan = delta * moved * sigma.transpose(1, 2)
    return plan


def alignment(
    text: Tensor, regions: Tensor, text_valid: Tensor, region_valid: Tensor, beta: float = 0.5, steps: int = 50
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distance of words and regions (B,), the plan (B, N, T) and the cost (B, T, N), in float32.

    Only the cost has a gradient.
    """
    with torch.autocast(text.device.type, enabled=False):
        cost = cosine_cost(text.float(), regions.float(), text_valid, region_valid)
        plan = transport_plan(cost, text_valid, region_valid, beta, steps)
        return (cost * plan.transpose(1, 2)).sum((1, 2)), plan, cost
