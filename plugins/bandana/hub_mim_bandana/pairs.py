"""The decoder's first layer on products of pairs of nodes, a block of pairs at a time: what one block needs stays in the cache.

Written out, forward and backward pass a dozen times over (pairs, D) values in memory; most of an epoch on Cora was that.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_mim_bandana.graphs import random_bits, threshold

BLOCK = 1024  # pairs; a megabyte of intermediate values at 256 channels


def pair_linear(
    nodes: Tensor, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, dropout: nn.Dropout
) -> Tensor:
    """Return dropout(nodes[first] * nodes[second]) @ weight.T + bias.

    Args:
        nodes: (n, D). first, second: int64 (P,), numbers of nodes. weight: (out, D). bias: (out,).
        dropout: of the products, where it is training.
    Returns:
        (P, out).
    """
    share = dropout.p if dropout.training else 0.0
    plain = (
        nodes.device.type != "cpu" or nodes.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling()
    )
    if plain or torch.is_autocast_enabled("cpu") or len(first) <= BLOCK:
        return F.linear(dropout(nodes.index_select(0, first) * nodes.index_select(0, second)), weight, bias)
    bits = random_bits((len(first), nodes.shape[1])) if share else None
    result: Tensor = _PairLinear.apply(nodes, first, second, weight, bias, bits, share)
    return result


class _PairLinear(torch.autograd.Function):
    """See `pair_linear`; bits: int16 (P, D), random, which decide what is dropped, or None. share: that is dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        nodes: Tensor,
        first: Tensor,
        second: Tensor,
        weight: Tensor,
        bias: Tensor,
        bits: Tensor | None,
        share: float,
    ) -> Tensor:
        """Go through the blocks."""
        ctx.save_for_backward(nodes, first, second, weight, bits)
        ctx.share = share
        out = nodes.new_empty(len(first), len(weight))
        turned = (weight / (1 - share)).t()
        for part, kept in _blocks(nodes, len(first), bits, share):
            product = nodes.index_select(0, first[part]).mul_(nodes.index_select(0, second[part]))
            torch.addmm(bias, product if kept is None else product.mul_(kept), turned, out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Compute the products anew, block by block."""
        nodes, first, second, weight, bits = ctx.saved_tensors
        to_nodes, to_weight, scale = torch.zeros_like(nodes), torch.zeros_like(weight), 1 / (1 - ctx.share)
        scaled = weight * scale
        for part, kept in _blocks(nodes, len(first), bits, ctx.share):
            ends = first[part], second[part]
            left, right = (nodes.index_select(0, each) for each in ends)
            back, product = grad[part] @ scaled, left * right
            if kept is not None:
                back.mul_(kept)
                product.mul_(kept)
            to_weight.addmm_(grad[part].t(), product, alpha=scale)
            to_nodes.index_add_(0, ends[0], right.mul_(back))
            to_nodes.index_add_(0, ends[1], left.mul_(back))
        return to_nodes, None, None, to_weight, grad.sum(0), None, None


def _blocks(nodes: Tensor, count: int, bits: Tensor | None, share: float) -> Iterator[tuple[slice, Tensor | None]]:
    """Yield blocks of pairs, with 1 where a product is kept and 0 where it is dropped."""
    room = nodes.new_empty(BLOCK, nodes.shape[1])
    for place in range(0, count, BLOCK):
        part = slice(place, min(place + BLOCK, count))
        kept = None
        if bits is not None:
            kept = torch.ge(bits[part], threshold(share), out=room[: part.stop - part.start])
        yield part, kept
