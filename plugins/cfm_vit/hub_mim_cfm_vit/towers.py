"""The two towers: pictures by their patches, texts by their words, each with a projection into the joint space.

Shapes: B rows, N patches of a picture, V of them visible, T words, D channels of a tower, E channels of the joint space.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.masking_utils import create_bidirectional_mask

from hub_mim.blocks import Block, build_blocks
from hub_mim.masking import Kept, keep_visible, take
from hub_mim.patches import patchify
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.positions import Grid, Positions


class CfmVitLayer(Block):
    """A block of the tower of pictures."""


class CfmVitTextLayer(Block):
    """A block of the tower of texts."""


class Encoded(NamedTuple):
    """What the tower of pictures returns.

    tokens: (B, V, D), after the last norm. places: int64 (B, V), of each among the N patches. valid: bool (B, V), False at
    padding. grid: of all patches.
    """

    tokens: Tensor
    places: Tensor
    valid: Tensor
    grid: Grid

    @property
    def kept(self) -> Kept:
        """The same as `hub_mim.masking.Kept`."""
        return Kept(self.tokens, self.places, self.valid)


def attended(valid: Tensor) -> Tensor:
    """Return which tokens attention sees, bool (B, T): the valid ones; of a row without any the first, lest it sees nothing."""
    first = torch.arange(valid.shape[1], device=valid.device) == 0
    return valid | (~valid.any(1, keepdim=True) & first)


def valid_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid tokens: (B, T, D), bool (B, T) -> (B, D); 0 where there is none."""
    weights = valid[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


class PatchEmbedding(nn.Module):
    """Map patches to tokens; the weight is that of a convolution with as large a stride."""

    def __init__(self, config: CfmVitConfig):
        super().__init__()
        side = config.patch_size
        self.weight = nn.Parameter(torch.empty(config.hidden_size, config.num_channels, side, side))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, V, C * P * P), channel first, to (B, V, D)."""
        return linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class CfmVitVisionTower(nn.Module):
    """A plain ViT without a class token; patches that are hidden are not looked at.

    Args:
        config: of the model. project: whether to have the projection into the joint space.
    """

    def __init__(self, config: CfmVitConfig, project: bool = True):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.positions = Positions(config, config.hidden_size)
        self.layers = build_blocks(
            CfmVitLayer,
            config,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            drop_path=config.drop_path_rate,
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if project:
            self.proj = nn.Linear(config.hidden_size, config.joint_dim, bias=False)

    def forward(
        self,
        pixel_values: Tensor,
        hidden: Tensor | None = None,
        pe_keep: Tensor | None = None,
        pe_crop: Tensor | None = None,
        num_visible: int | None = None,
        **kwargs: Any,
    ) -> Encoded:
        """Encode the patches of each picture that are not hidden.

        Args:
            pixel_values: (B, C, H, W). hidden: bool (B, N), True = not encoded.
            pe_keep: bool (B,), pictures that have positions; default all. pe_crop: (B, 4), part of the table for each
                picture, see `Positions.cropped`.
            num_visible: patches of every row that are not hidden, where it is known.
            kwargs: passed to the attention.
        Raises:
            ValueError: pictures or a mask of another shape.
        """
        patches, grid = self.cut(pixel_values)
        kept = self._keep(patches, hidden, num_visible)
        x = self.patch_embed(kept.tokens) + self._places(kept, grid, pe_keep, pe_crop)
        whole = hidden is None or (num_visible is not None and num_visible > 0)
        mask = None if whole else create_bidirectional_mask(self.config, x, attended(kept.valid))
        for layer in self.layers:
            x = layer(x, mask, **kwargs)
        return Encoded(self.norm(x), kept.places, kept.valid, grid)

    def cut(self, pixel_values: Tensor) -> tuple[Tensor, Grid]:
        """Return patches (B, N, C * P * P) and their grid."""
        side = self.config.patch_size
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}; it must be (rows, {self.config.num_channels}, "
                "height, width)"
            )
        high, wide = pixel_values.shape[2:]
        if high % side or wide % side:
            raise ValueError(f"pixel_values are {high}x{wide} pixels; sides must be multiples of the patch size {side}")
        grid = high // side, wide // side
        return patchify(pixel_values, (side, side), order="channel_first"), grid

    def _keep(self, patches: Tensor, hidden: Tensor | None, num_visible: int | None) -> Kept:
        if hidden is None:
            places = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
            return Kept(patches, places, torch.ones_like(places, dtype=torch.bool))
        if tuple(hidden.shape) != tuple(patches.shape[:2]):
            raise ValueError(f"the mask has the shape {tuple(hidden.shape)}; it must be {tuple(patches.shape[:2])}")
        if num_visible is None and torch.compiler.is_compiling():
            num_visible = patches.shape[1]  # the widest row cannot be looked up; padding changes nothing
        return keep_visible(patches, hidden.bool(), num_visible=num_visible)

    def _places(self, kept: Kept, grid: Grid, pe_keep: Tensor | None, pe_crop: Tensor | None) -> Tensor:
        """Return what is added to each token for its place (B, V, D); 0 for pictures that lose their positions."""
        if pe_crop is not None:
            found = take(self.positions.cropped(pe_crop, grid), kept.places)
        else:
            found = self.positions(grid)[kept.places]
        return found if pe_keep is None else found * pe_keep.to(found.dtype)[:, None, None]


class CfmVitTextEmbeddings(nn.Module):
    """Vectors of words and of their places."""

    def __init__(self, config: CfmVitConfig):
        super().__init__()
        self.token_embed = nn.Embedding(config.vocab_size, config.text_hidden_size)
        self.pos_embed = nn.Parameter(torch.empty(config.max_position_embeddings, config.text_hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map int64 (B, T) to (B, T, D).

        Raises:
            ValueError: a text is longer than the table of positions.
        """
        length = input_ids.shape[1]
        if length > len(self.pos_embed):
            raise ValueError(f"a text has {length} tokens; the model takes {len(self.pos_embed)}, so cut input_ids off")
        x: Tensor = self.token_embed(input_ids) + self.pos_embed[:length]
        return x


class CfmVitTextTower(nn.Module):
    """A Transformer over words that sees them all; padding is neither attended to nor in the mean."""

    def __init__(self, config: CfmVitConfig):
        super().__init__()
        self.config = config
        self.embeddings = CfmVitTextEmbeddings(config)
        self.layers = build_blocks(
            CfmVitTextLayer,
            config,
            config.text_num_hidden_layers,
            config.text_hidden_size,
            config.text_num_attention_heads,
            config.text_intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
        )
        self.norm = nn.LayerNorm(config.text_hidden_size, eps=config.layer_norm_eps)
        self.proj = nn.Linear(config.text_hidden_size, config.joint_dim, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Encode words.

        Args:
            input_ids: int64 (B, T). attention_mask: (B, T), 1 where a word is real; default: where it is not `pad_token_id`.
            kwargs: passed to the attention.
        Returns:
            Tokens after the last norm (B, T, D), and which are real, bool (B, T); where a row has none, its first.
        """
        valid = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        valid = attended(valid)
        x = self.embeddings(input_ids)
        mask = create_bidirectional_mask(self.config, x, valid)
        for layer in self.layers:
            x = layer(x, mask, **kwargs)
        return self.norm(x), valid
