"""Pictures as normalised pixels, beside PIL and floats."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim.pixels import pixel_values, resized


@pytest.fixture
def picture():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("mode", "filter"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
@pytest.mark.parametrize("size", [(56, 56), (30, 70), (240, 200)])
def test_resized_as_by_pil(picture, mode, filter, size):
    there = np.asarray(picture.resize(size[::-1], filter)).transpose(2, 0, 1).astype(int)
    here = resized(picture, size, mode).numpy().astype(int)
    assert np.abs(here - there).max() <= 2
    assert (here != there).mean() < 0.02


def test_pixels_are_normalised_by_channel(picture):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    made = pixel_values([picture, picture], (120, 160), mean, std)
    wanted = (np.asarray(picture).transpose(2, 0, 1) / 255 - np.array(mean)[:, None, None]) / np.array(std)[
        :, None, None
    ]
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    np.testing.assert_allclose(made[1].numpy(), wanted, atol=1e-6)
