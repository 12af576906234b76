"""NaFlex pictures of different numbers of patches in one sequence: no layer computes on padding.

Everything but attention is done for each patch by itself, so the patches of all pictures stand in one row; attention is done
picture by picture, those of equal length together. Equal to the padded tower up to rounding. Shapes: B pictures, N places,
M patches of all pictures, W channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_outputs import BaseModelOutputWithPooling

WORTH = 0.95  # share of places that hold patches, above which packing gains nothing


def worth_packing(vision: Any, valid: Tensor) -> bool:
    """Tell whether enough is padding, and nothing is asked for that only the padded tower gives."""
    checkpointing = bool(getattr(vision.encoder, "gradient_checkpointing", False)) and vision.training
    dropout = float(vision.config.attention_dropout) > 0 and vision.training
    return not checkpointing and not dropout and float(valid.float().mean()) < WORTH


def see_packed(vision: Any, pixel_values: Tensor, valid: Tensor, spatial_shapes: Tensor) -> BaseModelOutputWithPooling:
    """Return what transformers' `Siglip2VisionModel` returns of the same batch; padding has features 0.

    Args:
        vision: the tower. pixel_values: (B, N, P * P * C). valid: (B, N). spatial_shapes: int64 (B, 2).
    """
    valid = valid.bool()
    embedded = vision.embeddings(pixel_values, spatial_shapes)
    x, groups = embedded[valid], _groups(valid.sum(1).tolist(), embedded.device)
    for layer in vision.encoder.layers:
        x = x + _attend(layer.self_attn, layer.layer_norm1(x), groups)
        x = x + layer.mlp(layer.layer_norm2(x))
    features = torch.zeros_like(embedded).masked_scatter(valid[..., None], vision.post_layernorm(x).to(embedded.dtype))
    return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=vision.head(features, valid))


def _groups(lengths: list[int], device: Any) -> list[Tensor]:
    """Return where the patches of pictures of equal length are in the row, int64 (pictures, length) for each length."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    found = []
    for length in sorted(set(lengths)):
        own = torch.tensor(
            [start for start, each in zip(starts, lengths, strict=False) if each == length], device=device
        )
        found.append(own[:, None] + torch.arange(length, device=device))
    return found


def _attend(attention: Any, x: Tensor, groups: list[Tensor]) -> Tensor:
    """Attend within each picture: (M, W) -> (M, W)."""
    shape = (len(x), attention.num_heads, attention.head_dim)
    query, key, value = (part(x).view(shape) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    parts = []
    for places in groups:
        q, k, v = (each[places].transpose(1, 2) for each in (query, key, value))
        parts.append(
            scaled_dot_product_attention(q, k, v, scale=attention.scale).transpose(1, 2).flatten(0, 1).flatten(1)
        )
    order = torch.cat([places.flatten() for places in groups])
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    mixed: Tensor = attention.out_proj(torch.cat(parts)[back])
    return mixed
