"""Heads for fine-tuning: linear, ConvNeXt, DPT and Segmenter, as the authors' output adapters compute them.

Dense heads take the tokens of `config.main`, joined on the channels: maps (B, n D, h, w).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from hub_mim.blocks import Block, build_blocks
from hub_mim_multimae.configuration_multimae import MultiMAEConfig

Size = tuple[int, int]


def as_map(tokens: Tensor, grid: Size) -> Tensor:
    """Turn tokens (B, N, D) into a map (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class LinearHead(nn.Module):
    """Pool the tokens, norm, one linear layer; spec 1."""

    def __init__(self, config: MultiMAEConfig, num_labels: int):
        super().__init__()
        self.last, self.scale = config.classifier_pooling == "last", config.classifier_init_scale
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, num_labels)

    def forward(self, hidden: Tensor, pooled: Tensor) -> Tensor:
        """Map the encoder's tokens (B, T, D) and their mean (B, D) to logits (B, labels)."""
        return self.head(self.norm(hidden[:, -1] if self.last else pooled))


class ConvNextBlock(nn.Module):
    """Depthwise convolution 7 x 7, norm, two linear layers, added to the input; no layer scale."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(F.gelu(self.pwconv1(y))).permute(0, 3, 1, 2)


class ConvNextHead(nn.Module):
    """Split each token into several places, then ConvNeXt blocks; spec 2."""

    def __init__(self, config: MultiMAEConfig, num_labels: int):
        super().__init__()
        self.split = round(config.head_predictions_per_patch**0.5)
        width = config.head_hidden_size // config.head_predictions_per_patch
        if width * config.head_predictions_per_patch != config.head_hidden_size:
            raise ValueError(
                f"head_hidden_size {config.head_hidden_size} is no multiple of head_predictions_per_patch "
                f"{config.head_predictions_per_patch}"
            )
        self.proj_dec = nn.Linear(config.hidden_size * len(config.main), config.head_hidden_size)
        self.blocks = nn.ModuleList(ConvNextBlock(width, config.layer_norm_eps) for _ in range(config.head_num_layers))
        self.final_layer = nn.Conv2d(width, num_labels, 1)

    def forward(self, levels: Sequence[Tensor], grid: Size, size: Size) -> Tensor:
        """Map the tokens after each block, of which the last are taken, to (B, labels, H, W)."""
        side = self.split
        x = self.proj_dec(levels[-1]).unflatten(2, (side, side, -1)).unflatten(1, grid)
        x = x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # B, C, h * side, w * side
        for block in self.blocks:
            x = block(x)
        return F.interpolate(self.final_layer(x), size=size, mode="bilinear", align_corners=False)


class SegmenterLayer(Block):
    """A block of the Segmenter head."""


class SegmenterHead(nn.Module):
    """Class tokens beside the patches; masks are their inner products; spec 4."""

    def __init__(self, config: MultiMAEConfig, num_labels: int):
        super().__init__()
        width, eps = config.head_hidden_size, config.layer_norm_eps
        self.spread = config.initializer_range
        self.proj_dec = nn.Linear(config.hidden_size * len(config.main), width)
        self.cls_emb = nn.Parameter(torch.empty(1, num_labels, width))
        self.blocks = build_blocks(
            SegmenterLayer,
            config,
            config.head_num_layers,
            width,
            config.head_num_attention_heads,
            4 * width,
            layer_norm_eps=eps,
            drop_path=config.drop_path_rate,
        )
        self.decoder_norm, self.mask_norm = nn.LayerNorm(width, eps=eps), nn.LayerNorm(num_labels, eps=eps)
        self.patch_proj, self.classes_proj = (nn.Linear(width, width, bias=False) for _ in range(2))

    def reset(self) -> None:
        """Fill the class tokens."""
        init.trunc_normal_(self.cls_emb, std=self.spread)

    def forward(self, levels: Sequence[Tensor], grid: Size, size: Size) -> Tensor:
        """See `ConvNextHead.forward`."""
        x = self.proj_dec(levels[-1])
        count = x.shape[1]
        x = torch.cat([x, self.cls_emb.expand(len(x), -1, -1).to(x.dtype)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches = F.normalize(self.patch_proj(x[:, :count]), dim=-1)
        classes = F.normalize(self.classes_proj(x[:, count:]), dim=-1)
        masks = as_map(self.mask_norm(patches @ classes.transpose(1, 2)), grid)
        return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


class Residual(nn.Module):
    """Two convolutions, each after a ReLU, added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, h, w) to the same."""
        return x + self.conv2(self.conv1(x.relu()).relu())


class Fusion(nn.Module):
    """Add a finer level to a coarser one that has its size, and double the result."""

    def __init__(self, width: int, *, skip: bool):
        super().__init__()
        self.unit1 = Residual(width) if skip else None
        self.unit2, self.out_conv = Residual(width), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, F, h, w) to (B, F, 2 h, 2 w)."""
        if self.unit1 is not None and skip is not None:
            x = x + self.unit1(skip)
        return self.out_conv(F.interpolate(self.unit2(x), scale_factor=2, mode="bilinear", align_corners=True))


class DptHead(nn.Module):
    """Dense prediction from four levels of the encoder; spec 3 (Ranftl et al. 2021, arXiv:2103.13413).

    The authors' first unit of the coarsest fusion, which is never run, is left out.
    """

    def __init__(self, config: MultiMAEConfig, num_labels: int, *, classes: bool):
        super().__init__()
        if not all(0 <= hook < config.num_hidden_layers for hook in config.dpt_hooks):
            raise ValueError(
                f"dpt_hooks is {config.dpt_hooks}; the encoder's blocks are 0 to {config.num_hidden_layers - 1}"
            )
        self.hooks, wide, width = config.dpt_hooks, config.hidden_size * len(config.main), config.dpt_features
        after = (
            lambda size: nn.ConvTranspose2d(size, size, 4, 4),
            lambda size: nn.ConvTranspose2d(size, size, 2, 2),
            lambda size: nn.Identity(),
            lambda size: nn.Conv2d(size, size, 3, 2, 1),
        )
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, size, 1), make(size))
            for size, make in zip(config.dpt_sizes, after, strict=True)
        )
        self.levels = nn.ModuleList(nn.Conv2d(size, width, 3, padding=1, bias=False) for size in config.dpt_sizes)
        self.fusions = nn.ModuleList(Fusion(width, skip=level < 3) for level in range(4))
        self.head = _classes(width, num_labels) if classes else _quantity(width, num_labels)

    def forward(self, levels: Sequence[Tensor], grid: Size, size: Size) -> Tensor:
        """Map the tokens after each block to (B, labels, H, W).

        Raises:
            ValueError: the grid has an odd side, which the coarsest level cannot be doubled to.
        """
        if grid[0] % 2 or grid[1] % 2:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches has an odd side; DPT needs even ones")
        maps = [
            level(reassemble(as_map(levels[hook], grid)))
            for hook, reassemble, level in zip(self.hooks, self.reassemble, self.levels, strict=True)
        ]
        x = self.fusions[3](maps[3])
        for place in (2, 1, 0):
            x = self.fusions[place](x, maps[place])
        x = self.head(x)
        if tuple(x.shape[-2:]) != size:  # the authors' has 16 places a patch, whatever the patch size
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x


def _quantity(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(width // 2, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, count, 1),
    )


def _classes(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.Identity(),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(width, count, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    )


class LinearDenseHead(nn.Module):
    """Norm and one linear layer a token, then bilinear: what can be read off the tokens by a line."""

    def __init__(self, config: MultiMAEConfig, num_labels: int):
        super().__init__()
        width = config.hidden_size * len(config.main)
        self.norm, self.head = nn.LayerNorm(width, eps=config.layer_norm_eps), nn.Linear(width, num_labels)

    def forward(self, levels: Sequence[Tensor], grid: Size, size: Size) -> Tensor:
        """See `ConvNextHead.forward`."""
        x = as_map(self.head(self.norm(levels[-1])), grid)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def dense_head(config: MultiMAEConfig, kind: str, num_labels: int, *, classes: bool) -> Any:
    """Return a dense head by its name."""
    if kind == "dpt":
        return DptHead(config, num_labels, classes=classes)
    return {"convnext": ConvNextHead, "segmenter": SegmenterHead, "linear": LinearDenseHead}[kind](config, num_labels)
