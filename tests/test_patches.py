"""Patches and position tables: against plain loops, there and back."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_mim import patches

GOLDEN = Path(__file__).parent / "golden" / "patches.json"
MADE = "python tests/test_patches.py; float32 rounded to 7 digits, arguments in the test"


def golden_values():
    image = torch.arange(2 * 4 * 2).view(1, 2, 4, 2)
    return {
        "channel_last": patches.patchify(image, (2, 1)).tolist(),
        "channel_first": patches.patchify(image, (2, 1), order="channel_first").tolist(),
        "sincos_1d": patches.sincos_1d(torch.tensor([0.0, 1.0, 2.5, 1000.0]), 6).double().round(decimals=7).tolist(),
        "sincos_2d": patches.sincos_2d((2, 3), 4).double().round(decimals=7).tolist(),
    }


def test_the_values_are_the_frozen_ones():
    frozen = json.loads(GOLDEN.read_text())
    assert golden_values().keys() == frozen.keys() - {"made"}
    for name, value in golden_values().items():
        np.testing.assert_allclose(value, frozen[name], rtol=0, atol=2e-7)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(
    p=st.integers(1, 4),
    q=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.integers(1, 3),
)
@pytest.mark.parametrize("order", ["channel_first", "channel_last"])
def test_unpatchify_inverts_patchify(order, p, q, rows, columns, channels):
    images = rand(2, channels, p * rows, q * columns)
    cut = patches.patchify(images, (p, q), order=order)
    assert cut.shape == (2, rows * columns, p * q * channels)
    assert torch.equal(patches.unpatchify(cut, (p, q), (rows, columns), order=order), images)


def test_patch_layouts():
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    last, first = (patches.patchify(image, (2, 2), order=order)[0, 1] for order in ("channel_last", "channel_first"))
    assert last.tolist() == [2, 18, 3, 19, 6, 22, 7, 23]  # rows first, then the second patch of the top row
    assert first.tolist() == [2, 3, 6, 7, 18, 19, 22, 23]


def test_patch_size_that_does_not_divide_is_told():
    with pytest.raises(ValueError, match="5x4 is not a multiple of the patch size 2x2"):
        patches.patchify(torch.zeros(1, 1, 5, 4), (2, 2))


def test_sincos_against_a_loop():
    table = patches.sincos_1d(torch.arange(5), 6)
    for position in range(5):
        for k in range(3):
            angle = position / 10_000 ** (k / 3)
            assert table[position, k].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 3 + k].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_sincos_2d_tells_rows_and_columns_apart():
    by_column = patches.sincos_2d((2, 3), 8).view(2, 3, 8)
    assert torch.equal(by_column[0, :, :4], by_column[1, :, :4])  # first half: the column
    assert torch.equal(by_column[:, 0, 4:], by_column[:, 2, 4:])  # second half: the row
    by_row = patches.sincos_2d((2, 3), 8, first="row").view(2, 3, 8)
    assert torch.equal(by_row[:, :, :4], by_column[:, :, 4:])


def test_tables_keep_digits_far_away():
    table = patches.sincos_1d(torch.tensor([1_000_003]), 4)  # in float32 the angle would be off by 1e-3
    assert table[0, 1].item() == pytest.approx(math.sin(10_000.03), abs=1e-7)


def test_widths_that_do_not_divide_are_told():
    with pytest.raises(ValueError, match="even width, not 5"):
        patches.sincos_1d(torch.arange(2), 5)
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        patches.sincos_2d((2, 2), 6)
    with pytest.raises(ValueError, match="3 patches of 4 values do not fill a grid 2x2"):
        patches.unpatchify(torch.zeros(1, 3, 4), (2, 2), (2, 2))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"made": MADE, **golden_values()}, indent=1) + "\n")
