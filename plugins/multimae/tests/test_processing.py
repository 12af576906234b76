"""The processor: every kind of map a row may hold, aligned, scaled, refused with a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim_multimae.processing_multimae import MultiMAEProcessor, standardize

MODALITIES = [
    {"name": "rgb", "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    {"name": "depth", "channels": 1, "loss": "l1", "standardize": True, "scale": 65536.0},
    {"name": "semseg", "kind": "categorical", "num_classes": 4, "stride": 2},
]


@pytest.fixture
def processor():
    return MultiMAEProcessor(modalities=MODALITIES, image_size=16, patch_size=4)


@pytest.fixture
def row():
    y, x = np.mgrid[:32, :32]
    palette = Image.fromarray((x // 8).astype(np.uint8), mode="P")
    palette.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
    return {
        "image": Image.fromarray(np.stack([x * 8, y * 8, x * 0 + 9], -1).astype(np.uint8)),
        "depth": Image.fromarray((1000 + 100 * y + x).astype(np.uint16)),
        "semseg": palette,
    }


def test_a_picture_sixteen_bit_depth_and_palette_labels(processor, row):
    batch = processor(rows=[row, row])
    assert batch["rgb"].dtype == torch.uint8
    assert batch["rgb"].shape == (2, 3, 16, 16)
    assert batch["depth"].shape == (2, 1, 16, 16)
    assert batch["semseg"].shape == (2, 8, 8)
    assert batch["semseg"][0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # numbers of the palette, no colours, no blending
    assert "present" not in batch
    middle = batch["depth"][0].flatten().sort().values[25:230]
    assert abs(float(middle.mean())) < 1e-5
    assert float(middle.std()) == pytest.approx(1, abs=0.01)  # the spread is small beside the authors' 1e-6


def test_normalising_on_the_host_is_the_same(row):
    eight = MultiMAEProcessor(modalities=MODALITIES, image_size=32, patch_size=4)(rows=[row])["rgb"]
    scaled = MultiMAEProcessor(modalities=MODALITIES, image_size=32, patch_size=4, normalize=True)(rows=[row])["rgb"]
    torch.testing.assert_close((eight / 255 - 0.5) / 0.5, scaled)


def test_rows_may_lack_modalities(processor, row):
    batch = processor(rows=[row, {"rgb": row["image"]}, row | {"semseg": None}])
    assert batch["present"].tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert not batch["depth"][1].any()
    only = MultiMAEProcessor(modalities=MODALITIES, use=["rgb"], image_size=16, patch_size=4)(rows=[row, row])
    assert set(only) == {"rgb"}


def test_columns_may_be_given_by_name(processor, row):
    batch = processor(rgb=[row["image"]], depth=[row["depth"]], semseg=[row["semseg"]])
    assert torch.equal(batch["rgb"], processor(rows=[row])["rgb"])


def test_shapes_that_are_no_squares(row):
    processor = MultiMAEProcessor(modalities=MODALITIES, image_size=[8, 16], patch_size=4)
    wide = {name: value.crop((0, 0, 32, 16)) for name, value in row.items()}
    assert processor(rows=[wide])["semseg"].shape == (1, 4, 8)


def test_standardising_forgets_outliers_and_scale():
    values = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(0))
    with_outlier = values.clone()
    with_outlier[0, 0, 0] = 1e6
    first, second = standardize(values), standardize(with_outlier)
    assert (first - second).flatten()[1:].abs().max() < 0.1
    torch.testing.assert_close(standardize(values * 300 + 7), first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"semseg": np.full((32, 32), 7)}, "holds the class 7; its classes are the whole numbers 0 to 3"),
        ({"semseg": np.zeros((32, 32))}, "values of float64"),
        ({"depth": np.full((32, 32), np.nan)}, "1024 values that are no numbers"),
        ({"depth": np.zeros((32, 16))}, "do not show the same; align them"),
        (
            {"image": np.full((32, 32, 3), 256)},
            "rgb holds whole numbers from 256 to 256; those of a picture are 0 to 255",
        ),
        ({"image": np.zeros((32, 32, 5), np.uint8)}, r"rgb is uint8 of shape \(32, 32, 5\)"),
    ],
)
def test_what_cannot_be_read_is_told(processor, row, change, told):
    with pytest.raises(ValueError, match=told):
        processor(rows=[row | change])


def test_a_row_of_nothing_is_told(processor):
    with pytest.raises(ValueError, match="none of the modalities rgb, depth, semseg; its columns are text"):
        processor(rows=[{"text": "a"}])
    with pytest.raises(ValueError, match="image_size 15 must be a multiple"):
        MultiMAEProcessor(image_size=15)
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        MultiMAEProcessor(use=["dept"])


def test_predictions_become_maps(processor):
    assert processor.as_maps("semseg", torch.randn(2, 16, 4 * 4)).shape == (2, 8, 8)
    assert processor.as_maps("norm_rgb", torch.randn(2, 16, 48)).shape == (2, 3, 16, 16)
