"""Cross-entropy over a large vocabulary, in blocks of words: the logits of all words are never held at once.

Source: SigLIP 2 (arXiv:2502.14786), section 2.2: the loss is chunked along the vocabulary. Shapes: M places, D channels, V words.
"""

from typing import Any

import torch
from torch import Tensor

from hub_mim.losses import joint_mean


def chunked_cross_entropy(states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int = 8192) -> Tensor:
    """Return the cross-entropy of each place (M,), of the logits states @ weight.T + bias.

    Args:
        states: (M, D). weight: (V, D). bias: (V,). labels: int64 (M,), in [0, V). chunk: words at once.
    """
    kind = states.device.type
    if torch.is_autocast_enabled(kind):
        states, weight = (each.to(torch.get_autocast_dtype(kind)) for each in (states, weight))
    out: Tensor = _Blocks.apply(states, weight.to(states.dtype), bias, labels, chunk)
    return out


def _logits(states: Tensor, weight: Tensor, bias: Tensor, start: int, chunk: int) -> Tensor:
    part = states @ weight[start : start + chunk].T
    return part.to(torch.promote_types(part.dtype, torch.float32)) + bias[start : start + chunk]


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int) -> Tensor:
        kind = torch.promote_types(states.dtype, torch.float32)
        whole = torch.full(labels.shape, -torch.inf, dtype=kind, device=states.device)
        own = torch.zeros(labels.shape, dtype=kind, device=states.device)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(weight), chunk):
                logits = _logits(states, weight, bias, start, chunk)
                whole = torch.logaddexp(whole, logits.logsumexp(1))
                inside = (labels >= start) & (labels < start + logits.shape[1])
                place = (labels - start).clamp(0, logits.shape[1] - 1)
                own = torch.where(inside, logits.gather(1, place[:, None])[:, 0], own)
        ctx.save_for_backward(states, weight, bias, labels, whole)
        ctx.chunk = chunk
        return whole - own

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        states, weight, bias, labels, whole = ctx.saved_tensors
        grad, chunk = grads[0], ctx.chunk
        to_states = torch.zeros_like(states, dtype=whole.dtype)
        to_weight, to_bias = torch.empty_like(weight), torch.empty_like(bias)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(weight), chunk):
                shares = (_logits(states, weight, bias, start, chunk) - whole[:, None]).exp()
                inside = ((labels >= start) & (labels < start + shares.shape[1])).nonzero()[:, 0]
                shares[inside, labels[inside] - start] -= 1
                shares = (shares * grad[:, None]).to(states.dtype)
                to_states += shares @ weight[start : start + chunk]
                to_weight[start : start + chunk] = shares.T @ states
                to_bias[start : start + chunk] = shares.sum(0)
        return to_states.to(states.dtype), to_weight, to_bias, None, None


def caption_loss(errors: Tensor, scored: Tensor) -> Tensor:
    """Average over the scored tokens of each text, then over the texts; CapPa's normalisation.

    Args:
        errors: (M,), of the scored tokens, row by row. scored: bool (B, L).
    """
    each = torch.zeros(scored.shape, dtype=errors.dtype, device=errors.device).masked_scatter(scored, errors)
    return joint_mean(each.sum(1) / scored.sum(1).clamp(min=1))
