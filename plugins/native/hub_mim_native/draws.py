"""Masks that follow from each row's seed, in the form that transformers' own classes take."""

from math import prod
from typing import Any

from torch import Tensor

from hub_mim.masking import random_mask, row_noise

SIMMIM_RATIO = 0.6  # SimMIM, Table 1
SIMMIM_UNIT = 32  # pixels; SimMIM, section 4.1
TUBE_RATIO = 0.9  # VideoMAE, Table 1


def noise(model: Any, batch: dict[str, Any], row_seed: Tensor) -> dict[str, Tensor]:
    """Return MAE's `noise` (B, patches), uniform in [0, 1): the patches with the least stay visible."""
    return {"noise": row_noise(row_seed, model.vit.embeddings.patch_embeddings.num_patches)}


def unit_noise(model: Any, batch: dict[str, Any], row_seed: Tensor) -> dict[str, Tensor]:
    """Return Hiera's `noise` (B, mask units), uniform in [0, 1): the units with the least stay visible."""
    return {"noise": row_noise(row_seed, prod(model.hiera.embeddings.mask_spatial_shape))}


def block_mask(model: Any, batch: dict[str, Any], row_seed: Tensor) -> dict[str, Tensor]:
    """Return SimMIM's `bool_masked_pos` (B, patches): square units of 32 pixels, 60 % of them, True = hidden.

    Pictures of less than 128 pixels have units of two patches, as large a share of the side as in the paper's pictures.
    """
    side, patch = model.config.image_size, model.config.patch_size
    unit = max(patch, SIMMIM_UNIT if side >= 4 * SIMMIM_UNIT else 2 * patch)
    cells, times = side // unit, unit // patch
    hidden = random_mask((len(row_seed), cells * cells), SIMMIM_RATIO, row_seed=row_seed).view(-1, cells, cells)
    return {"bool_masked_pos": hidden.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)}


def tube_mask(model: Any, batch: dict[str, Any], row_seed: Tensor) -> dict[str, Tensor]:
    """Return VideoMAE's `bool_masked_pos` (B, tubelets): the same 90 % of places in every frame, True = hidden."""
    config = model.config
    places, times = (config.image_size // config.patch_size) ** 2, config.num_frames // config.tubelet_size
    hidden = random_mask((len(row_seed), places), TUBE_RATIO, row_seed=row_seed)
    return {"bool_masked_pos": hidden[:, None].expand(-1, times, -1).flatten(1)}
