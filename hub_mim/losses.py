"""Losses of masked modelling: per token first, averaged over the scored tokens last, those of all processes in training.

Shapes: B rows, T tokens, D values per token. A per-token loss stays (B, T) until every term is known; the mean over
what is scored is safe where nothing is scored (it is 0 and its gradient is 0, never NaN).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hub_mim.checking import takes
from hub_mim.gathering import joint_count


@takes(prediction="float B T D", target="number B T D")
def token_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error per token: (B, T, D) -> (B, T), mean over D; He et al. 2022, section 3."""
    return (prediction - target).square().mean(-1)


@takes(prediction="float B T D", target="number B T D")
def token_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the absolute error per token: (B, T, D) -> (B, T), mean over D."""
    return (prediction - target).abs().mean(-1)


@takes(logits="float B T K", labels="int >=0 <K |-100 B T", label_smoothing=">=0 <=1")
def token_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy per token: logits (B, T, K), labels int64 (B, T) in [0, K) or -100 (0 there) -> (B, T)."""
    flat = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=label_smoothing)
    return flat.view(labels.shape)


@takes(values="any ...", count="int ...")
def joint_mean(values: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Return the sum of values over their number, default `values.numel()`; 0, with zero gradient, where that is 0.

    In training on several processes the number is that of all of them, see `gathering.joint_count`.
    """
    return values.sum() / joint_count(values.numel() if count is None else count, values.device)


@takes(loss="float B T", scored="bool B T")
def masked_mean(loss: Tensor, scored: Tensor) -> Tensor:
    """Average a per-token loss over the scored tokens of the whole batch, see `joint_mean`.

    Args:
        loss: float (B, T).
        scored: bool (B, T).
    Returns:
        A scalar; 0, with zero gradient, where nothing is scored. What is not scored has no part in it, even if NaN.
    """
    return joint_mean(loss.masked_fill(~scored, 0), scored.sum())


@takes(loss="float B T", scored="bool B T")
def row_masked_mean(loss: Tensor, scored: Tensor) -> Tensor:
    """Average over the scored tokens of each row, then over the rows that have any; as MultiMAE weighs rows."""
    per_row = loss.masked_fill(~scored, 0).sum(1) / scored.sum(1).clamp(min=1)
    return joint_mean(per_row, scored.any(1).sum())


@takes(patches="float ... D", eps=">=0")
def normalize_patches(patches: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Standardise each token (..., D) by its own mean and unbiased variance: He et al. 2022, section 4.2, "norm pix".

    Raises:
        ValueError: D is 1, which has no variance.
    """
    if patches.shape[-1] < 2:
        raise ValueError(
            f"a patch of one value cannot be standardised; predict the value itself (patches has the shape "
            f"{tuple(patches.shape)})"
        )
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


@takes(losses="float", weights="...")
def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add named losses with their weights; a missing weight is 1.

    Raises:
        ValueError: a weight has no loss of that name.
    """
    strange = sorted(set(weights) - set(losses))
    if strange:
        raise ValueError(f"loss_weights names {strange}, but the losses are {sorted(losses)}")
    return torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()
