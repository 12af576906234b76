"""The contrast of pictures and texts over the batches of all processes; the error of reconstructions.

Shapes: b rows of this process, B of all, N patches, E channels of the joint space.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hub_mim.gathering import first_row, gather_rows, processes, row_counts


def unit(x: Tensor) -> Tensor:
    """Return vectors of length 1, in float32 or better."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def contrast(
    images: Tensor, texts: Tensor, scale: Tensor, *, kind: str = "softmax", alpha: float = 0.5, gamma: float = 1.0
) -> Tensor:
    """Return this process's share of the contrastive loss over the joined batch, see `hub_mim.gathering`.

    Args:
        images, texts: unit vectors (b, E); row i of one belongs to row i of the other. Equal texts of two rows are not
            treated apart: they count as not belonging together.
        scale: of the cosines, the inverse temperature.
        kind: "softmax", the cross-entropy averaged over both directions, as in CLIP (arXiv:2103.00020); "focal", see `focal`,
            with alpha and gamma.
    Returns:
        A scalar; of all processes the mean is the loss.
    """
    counts = row_counts(len(images), images.device)
    place = first_row(counts) + torch.arange(len(images), device=images.device)
    with torch.autocast(images.device.type, enabled=False):
        rows = scale * images @ gather_rows(texts, counts).T
        if kind == "focal":
            own = focal(rows, place, alpha, gamma)
        else:
            columns = scale * texts @ gather_rows(images, counts).T
            own = (entropy(rows, place) + entropy(columns, place)) / 2
    return own * (processes() / sum(counts))


def entropy(logits: Tensor, place: Tensor) -> Tensor:
    """Return the summed cross-entropy of rows (b, B) whose own column is `place`, int64 (b,)."""
    return F.cross_entropy(logits, place, reduction="sum")


def focal(logits: Tensor, place: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the summed focal loss of every pair, own ones weighed 2 alpha, others 2 (1 - alpha).

    Args:
        logits: (b, B). place: int64 (b,), own columns. gamma: exponent of what is still wrong.
    Source: Kim et al. 2023 (RO-ViT, arXiv:2305.07011), section 3.3; Lin et al. 2017 (arXiv:1708.02002), eq. 5.
    """
    own = F.one_hot(place, logits.shape[1]).to(logits.dtype)
    error = F.binary_cross_entropy_with_logits(logits, own, reduction="none")
    wrong = (-gamma * own * logits - gamma * F.softplus(-logits)).exp()
    return (error * wrong * (2 * alpha * own + 2 * (1 - alpha) * (1 - own))).sum()


def token_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cosine per token: (B, N, E) -> (B, N)."""
    kind = torch.promote_types(prediction.dtype, torch.float32)
    return 1 - F.cosine_similarity(prediction.to(kind), target.to(kind), dim=-1)
