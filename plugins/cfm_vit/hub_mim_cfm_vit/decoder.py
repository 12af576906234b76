"""The decoder: from the visible patches of a picture to a prediction for each of its patches.

Shapes: B rows, N patches, V visible ones, D channels of the encoder, F of the decoder.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hub_mim.blocks import Block, build_blocks
from hub_mim.masking import Kept, restore
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.positions import Grid, Positions


class CfmVitDecoderLayer(Block):
    """A block of the decoder."""


class CfmVitDecoder(nn.Module):
    """Put what was seen in its places, a learned token elsewhere, and predict; positions are never dropped here (ours)."""

    def __init__(self, config: CfmVitConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.positions = Positions(config, width)
        self.layers = build_blocks(
            CfmVitDecoderLayer,
            config,
            config.decoder_num_hidden_layers,
            width,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pred = nn.Linear(width, config.decoder_outputs)

    def reset(self, spread: float) -> None:
        """Fill the mask token."""
        init.normal_(self.mask_token, std=spread)

    def forward(self, seen: Kept, grid: Grid, **kwargs: Any) -> Tensor:
        """Map visible tokens (B, V, D) and where they are to predictions (B, N, outputs)."""
        kept = seen._replace(tokens=self.embed(seen.tokens))
        x = restore(kept, self.mask_token, grid[0] * grid[1])
        x = x + self.positions(grid)
        for layer in self.layers:
            x = layer(x, None, **kwargs)
        predictions: Tensor = self.pred(self.norm(x))
        return predictions
