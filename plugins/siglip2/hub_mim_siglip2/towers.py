"""transformers' towers with what training lacks: pictures of any size, hidden patches, positions resized once a shape.

Modules and names of weights are transformers' own. Shapes: B rows, N patches, W channels, P pixels a side of a patch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers.models.siglip.modeling_siglip import (
    SiglipAttention,
    SiglipTextModel,
    SiglipVisionEmbeddings,
    SiglipVisionModel,
)
from transformers.models.siglip2.modeling_siglip2 import (
    Siglip2Attention,
    Siglip2TextModel,
    Siglip2VisionEmbeddings,
    Siglip2VisionModel,
)

from hub_mim.blocks import attention_function

Grid = tuple[int, int]


def resized(table: Tensor, grid: Grid, antialias: bool = True) -> Tensor:
    """Return a table of positions (g, g, W) on another grid (rows * columns, W): bilinear, half-pixel centres.

    Source: big_vision's NaFlex, one table for all shapes; SigLIP 2, section 2.4.
    """
    if tuple(table.shape[:2]) == grid:
        return table.flatten(0, 1)
    whole = table.permute(2, 0, 1)[None]
    if whole.dtype in (torch.bfloat16, torch.float16):
        whole = whole.float()  # the antialiased one is not made for 16 bits on a CPU
    found = interpolate(whole, size=grid, mode="bilinear", align_corners=False, antialias=antialias)
    return found[0].flatten(1).T.to(table.dtype)


def positions(table: Tensor, shapes: Sequence[Grid], length: int) -> Tensor:
    """Return positions of pictures (B, length, W); each shape that occurs is resized once.

    Padding has the first cell's, as in big_vision and transformers; no patch looks at it.

    Args:
        table: (g, g, W). shapes: rows and columns of each picture. length: most patches of a picture.
    """
    known = {shape: resized(table, shape) for shape in dict.fromkeys(shapes)}
    padded = {
        shape: torch.cat([each, each[:1].expand(length - len(each), -1)]) if len(each) < length else each
        for shape, each in known.items()
    }
    if len(padded) == 1:
        return next(iter(padded.values())).expand(len(shapes), -1, -1)
    return torch.stack([padded[shape] for shape in shapes])


def hide(x_BNW: Tensor, mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
    """Put the mask token in the place of hidden patches (mask bool (B, N)), before positions are added."""
    if mask is None or mask_token is None:
        return x_BNW
    return torch.where(mask[..., None], mask_token.to(x_BNW.dtype), x_BNW)


class FlexibleEmbeddings(SiglipVisionEmbeddings):
    """Patches of pictures of any size that is whole patches."""

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Embed pictures (B, C, height, width); returns (B, N, W)."""
        side = int(self.patch_size)
        high, wide = pixel_values.shape[-2:]
        if high % side or wide % side or not high or not wide:
            raise ValueError(
                f"pixel_values: pictures are {high}x{wide} pixels; sides must be multiples of the patch size {side}"
            )
        x = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        table = self.position_embedding.weight.unflatten(0, (round(self.num_positions**0.5), -1))
        places = resized(table, (high // side, wide // side))
        return hide(x, mask, mask_token) + places


class GroupedEmbeddings(Siglip2VisionEmbeddings):
    """Patches of NaFlex pictures; shapes that occur more than once are resized once."""

    def forward(self, pixel_values: Tensor, spatial_shapes: Tensor) -> Tensor:
        """Embed patches (B, N, P * P * C) of shapes (B, 2); returns (B, N, W)."""
        shapes = [(int(rows), int(columns)) for rows, columns in spatial_shapes.tolist()]
        for rows, columns in shapes:
            if rows < 1 or columns < 1 or rows * columns > pixel_values.shape[1]:
                raise ValueError(
                    f"a picture of {rows}x{columns} patches does not fit into {pixel_values.shape[1]} places"
                )
        x: Tensor = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        table = self.position_embedding.weight.unflatten(0, (self.position_embedding_size, -1))
        return x + positions(table, shapes, pixel_values.shape[1])


class _Measured(nn.Module):
    """Attention by what `hub_mim.blocks` measured as fastest for device and number format."""

    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """See `SiglipAttention`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (layer(hidden_states).view(shape).transpose(1, 2) for layer in layers)
        rate = self.dropout if self.training else 0.0
        attend = attention_function(self.config, key)
        out, weights = attend(
            self, query, key, value, attention_mask, is_causal=False, scaling=self.scale, dropout=rate
        )
        return self.out_proj(out.flatten(2)), weights


class FixedAttention(_Measured, SiglipAttention):
    """Of towers for one resolution."""


class FlexibleAttention(_Measured, Siglip2Attention):
    """Of NaFlex towers."""


def vision_tower(config: Any) -> Any:
    """Return transformers' tower for pictures, with our embeddings and attention in it."""
    kind = Siglip2VisionModel if config.naflex else SiglipVisionModel
    tower = kind._from_config(config.vision_config)
    tower.embeddings.__class__ = GroupedEmbeddings if config.naflex else FlexibleEmbeddings
    return _with_attention(tower)


def text_tower(config: Any) -> Any:
    """Return transformers' tower for texts, with our attention in it."""
    return _with_attention((Siglip2TextModel if config.naflex else SiglipTextModel)._from_config(config.text_config))


def _with_attention(tower: Any) -> Any:
    for module in tower.modules():
        if type(module) in (SiglipAttention, Siglip2Attention):
            module.__class__ = FixedAttention if type(module) is SiglipAttention else FlexibleAttention
    return tower


def encode(vision: Any, x_BNW: Tensor) -> Tensor:
    """Return the features (B, N, W) of embedded patches of fixed-resolution pictures, after the last norm."""
    out: Tensor = vision.post_layernorm(vision.encoder(inputs_embeds=x_BNW).last_hidden_state)
    return out


def encode_masked(vision: Any, pixel_values: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """Return the features (B, N, W) of pictures whose patches are hidden where the mask (B, N) says."""
    return encode(vision, vision.embeddings(pixel_values, mask=mask, mask_token=mask_token))


def patch_vectors(vision: Any, features_BNW: Tensor) -> Tensor:
    """Return each patch in the joint space (B, N, W): what the pooling head makes of this patch alone.

    With one key the attention's weights are 1, so it is the head's value and output projections, then its MLP.
    """
    head = vision.head
    value = nn.functional.linear(features_BNW, *_value(head.attention))
    x = head.attention.out_proj(value)
    vectors: Tensor = x + head.mlp(head.layernorm(x))
    return vectors


def _value(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    assert attention.in_proj_weight is not None
    assert attention.in_proj_bias is not None
    return attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]


def key_mask(x: Tensor, valid: Tensor | None) -> Tensor | None:
    """Return what is added to scores (B, 1, 1, S) of keys that are padding, in the kind of x; None where none is told."""
    if valid is None:
        return None
    away = ~valid.bool()[:, None, None]
    return torch.zeros(away.shape, dtype=x.dtype, device=x.device).masked_fill(away, torch.finfo(x.dtype).min / 2)
