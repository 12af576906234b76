"""Random crops and flips on the device, beside PIL's."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim.augmenting import Augmentation, crop_boxes, resized_crop, resolved
from hub_mim.masking import row_seeds
from hub_mim.method import Method

SEEDS = row_seeds(0, 3, torch.arange(64))


@pytest.fixture(scope="module")
def pixels():
    small = torch.randint(0, 256, (8, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, (48, 40), mode="bicubic", antialias=True)


def test_a_crop_is_that_of_pil(pixels):
    boxes = torch.tensor([[0, 0, 48, 40], [5, 7, 20, 31], [47, 39, 1, 1], [0, 20, 48, 3], [10, 0, 2, 40], [3, 3, 9, 9]])
    mirror = torch.tensor([False, True] * 3)
    made = resized_crop(pixels[:6], boxes, mirror)
    assert made.dtype == torch.uint8
    for row, (top, left, high, wide) in enumerate(boxes.tolist()):
        part = Image.fromarray(pixels[row].permute(1, 2, 0).numpy()).crop((left, top, left + wide, top + high))
        there = part.resize((40, 48), Image.Resampling.BICUBIC)
        there = there.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror[row] else there
        difference = np.abs(np.asarray(there).transpose(2, 0, 1).astype(int) - made[row].numpy())
        assert difference.max() <= 1
        assert difference.mean() < 0.01
    assert torch.equal(made[0], pixels[0])


def test_parts_are_drawn_as_asked():
    draw = torch.rand(4000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    top, left, high, wide = crop_boxes(draw, (96, 128), (0.2, 0.6)).unbind(1)
    assert min(int(top.min()), int(left.min())) == 0
    assert (int((top + high).max()), int((left + wide).max())) == (96, 128)
    share = (high * wide).double() / (96 * 128)
    assert 0.19 < float(share.min()) < 0.22 < 0.58 < float(share.max()) < 0.62
    free = (high < 96) & (wide < 128)
    ratio = (wide / high)[free]
    assert 0.73 < float(ratio.min()) < 0.8 < 1.25 < float(ratio.max()) < 1.37
    assert float((top == 0).double().mean()) < 0.5


def test_a_row_does_not_depend_on_the_others(pixels):
    augment = Augmentation(crop=(0.2, 1.0), flip=0.5)
    whole = augment(pixels, SEEDS[:8])
    assert not torch.equal(whole, pixels)
    for row in range(8):
        assert torch.equal(augment(pixels[row : row + 1], SEEDS[row : row + 1]), whole[row : row + 1])


def test_floats_and_frames_are_cut_as_bytes_are(pixels):
    augment = Augmentation(crop=(0.3, 0.9), flip=0.5)
    seeds = SEEDS[:4]
    frames = pixels.view(4, 2, 3, 48, 40)
    made = augment(frames, seeds)
    assert torch.equal(made[:, 1], augment(frames[:, 1], seeds))
    floats = augment(frames.float(), seeds)
    assert float((floats.clamp(0, 255) - made).abs().mean()) < 0.6  # bytes are rounded twice


def test_flips_alone_move_no_pixel(pixels):
    many = pixels[:1].expand(64, -1, -1, -1)
    made = Augmentation(flip=0.25)(many, SEEDS)
    flipped = (made == pixels[0].flip(-1)).flatten(1).all(1)
    assert bool((flipped | (made == pixels[0]).flatten(1).all(1)).all())
    assert 5 <= int(flipped.sum()) <= 28
    assert torch.equal(Augmentation(flip=1.0)(many, SEEDS), many.flip(-1))


@pytest.mark.parametrize(
    "given", [{"crop": (0.0, 1.0)}, {"crop": (0.8, 0.2)}, {"crop": 0.5}, {"flip": 2}, {"flip": -1}]
)
def test_shares_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Augmentation(**given)


def test_the_recipe_gives_the_numbers():
    facts = {"name": "some", "title": "", "paper": "", "licence": "", "modalities": ("image",), "config": "a:b"}
    facts |= {"auto": {}, "example": "a:b"}
    method = Method(**facts, augments={"crop": (0.2, 1.0), "flip": 0.5})
    assert resolved(None, method) == {}
    assert resolved(["crop", "flip"], method) == {"crop": [0.2, 1.0], "flip": 0.5}
    assert resolved({"flip": None, "crop": [0.5, 0.9]}, method) == {"flip": 0.5, "crop": [0.5, 0.9]}
    with pytest.raises(ValueError, match="some has no augmentation 'flop' .*; did you mean 'flip'"):
        resolved(["flop"], method)
    with pytest.raises(ValueError, match="some has no augmentation 'crop' "):
        resolved(["crop"], Method(**facts))
    with pytest.raises(ValueError, match="flip is 3"):
        resolved({"flip": 3}, method)


def run(out, augment, **arguments):
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    from hub_mim.training import pretrain

    options = {"steps": 3, "batch_size": 4, "validation": 0.2, "preset": "tiny", "augment": augment}
    arguments = {"use_cpu": True, "learning_rate": 0.0, "eval_steps": 3, "save_steps": 3, **arguments}
    return pretrain("mae", "sample:mae", out, arguments=arguments, **options)


def test_a_run_sees_other_pictures(tmp_path):
    plain, made = run(tmp_path / "plain", None), run(tmp_path / "made", ["crop", "flip"])
    assert made.augment == {"crop": [0.2, 1.0], "flip": 0.5}
    assert made.losses["loss"] != plain.losses["loss"]
    assert made.losses["eval_loss"] == plain.losses["eval_loss"]  # held-out rows are left as they are


@pytest.mark.slow
def test_workers_do_not_matter(tmp_path):
    first, *others = (run(tmp_path / str(n), ["crop", "flip"], dataloader_num_workers=n) for n in (0, 1, 2))
    assert all(made.history == first.history for made in others)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_it_was(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    given = {"logging_steps": 1, "learning_rate": 1e-3, "max_steps": 8, "eval_steps": 4, "save_steps": 4}
    whole = run(tmp_path / "whole", ["crop", "flip"], **given)
    usual, seen = Augmentation.__call__, []

    def until(self, pixels, row_seed):
        seen.append(row_seed)
        if len(seen) == 7:
            raise Killed
        return usual(self, pixels, row_seed)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Augmentation, "__call__", until)
        run(tmp_path / "killed", ["crop", "flip"], **given)
    with pytest.raises(ValueError, match="augment.crop was .* and is now None"):
        run(tmp_path / "killed", ["flip"], **given)
    again = run(tmp_path / "killed", ["crop", "flip"], **given)
    assert again.history == whole.history
