"""The sigmoid loss over a batch of all processes, in blocks of pictures: memory for one block of logits, not for all.

Source: Zhai et al. 2023 (arXiv:2303.15343), equation in section 3.2 and the chunked form of section 3.3. Shapes: B pictures
and texts of all processes, b pictures of this one, E channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hub_mim.gathering import first_row, gather_rows, processes, row_counts

EPS = 1e-8  # of big_vision's norm; transformers has none


def unit(x: Tensor) -> Tensor:
    """Return vectors of length 1, at least in float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / (x.norm(dim=-1, keepdim=True) + EPS)


def sigmoid_loss(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor, *, chunk: int = 512) -> Tensor:
    """Tell each pair from all others: -1/B sum_ij log sigmoid(m_ij (exp(t) x_i y_j + b)), m = 1 on the diagonal, else -1.

    Args:
        images, texts: unit vectors (b, E) of this process; row i of both belong together.
        log_scale, bias: t and b, of one element each. chunk: pictures whose logits are held at once.
    Returns:
        This process's share of the loss over all processes, times their number (see `hub_mim.gathering`).
    """
    counts = row_counts(len(images), images.device)
    everyone = gather_rows(texts, counts)
    scale, offset = log_scale.to(images.dtype).exp().reshape(()), bias.to(images.dtype).reshape(())
    total: Tensor = _Blocks.apply(
        images, everyone.to(images.dtype), scale, offset, first_row(counts), chunk, torch.is_grad_enabled()
    )
    return total / sum(counts) * processes()


def pair_logits(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Return the logits (B, T) of every picture with every text, of unit vectors."""
    return images @ texts.T * log_scale.to(images.dtype).exp() + bias.to(images.dtype)


def row_losses(logits: Tensor) -> Tensor:
    """Return each picture's loss (B,) of logits (B, B) whose diagonal are the pairs: what `sigmoid_loss` averages."""
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return softplus(-signs * logits).sum(1)


class _Blocks(torch.autograd.Function):
    """The sum over all pairs; gradients are taken block by block on the way, so that no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, first: int, chunk: int, needed: bool
    ) -> Tensor:
        total = x.new_zeros(())
        to_x, to_y = (torch.empty_like(x), torch.zeros_like(y)) if needed else (None, None)
        to_scale, to_bias = x.new_zeros(()), x.new_zeros(())
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, len(x), chunk):
                part = x[start : start + chunk]
                cosines = part @ y.T
                own = torch.arange(len(part), device=x.device), torch.arange(len(part), device=x.device) + first + start
                logits = (cosines * scale).add_(bias)
                pairs = logits[own]
                total += softplus(logits).sum() - pairs.sum()  # log(1 + e^-l) = log(1 + e^l) - l
                if to_x is not None and to_y is not None:
                    slope = logits.sigmoid_()
                    slope[own] -= 1
                    torch.matmul(slope, y, out=to_x[start : start + chunk])
                    to_y.addmm_(slope.T, part)
                    to_scale += (slope * cosines).sum()
                    to_bias += slope.sum()
            if to_x is not None and to_y is not None:
                ctx.save_for_backward(to_x.mul_(scale), to_y.mul_(scale), to_scale, to_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *(grads[0] * each for each in ctx.saved_tensors), None, None, None
