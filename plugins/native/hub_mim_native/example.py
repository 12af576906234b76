"""Generated pictures and clips: a bright disc on a gradient, so that hidden parts follow from visible ones."""

from typing import Any

import numpy as np
from PIL import Image

from hub_mim.method import Example, resolve


def sample_pictures(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with `images` (PIL, 32 x 32) and `label`: 1 where the disc is large."""
    source = np.random.default_rng(seed)
    return [_row(source) for _ in range(count)]


def _row(source: np.random.Generator) -> dict[str, Any]:
    large = int(source.integers(2))
    return {"images": Image.fromarray(_disc(source, source.uniform(9, 23, 2), 4 + 5 * large)), "label": large}


def _disc(source: np.random.Generator, centre: Any, radius: float) -> np.ndarray:
    y, x = np.mgrid[:32, :32]
    ground = np.stack([60 + 3 * x, 60 + 3 * y, np.full_like(x, 90)], -1).astype(float)
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    ground[inside] = source.uniform(150, 250, 3)
    return (ground + source.normal(0, 3, ground.shape)).clip(0, 255).astype(np.uint8)


def sample_clips(count: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with `images`: eight frames in which a disc moves, and `label`: 1 where it moves to the right."""
    source = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        right, height = int(source.integers(2)), source.uniform(9, 23)
        places = [(8 + 2 * step if right else 24 - 2 * step, height) for step in range(8)]
        state = source.bit_generator.state["state"]["state"] % 2**32
        frames = [Image.fromarray(_disc(np.random.default_rng(state), place, 5)) for place in places]
        rows.append({"images": frames, "label": right})
    return rows


def _example(name: str, rows: list[dict[str, Any]]) -> Example:
    from hub_mim import plugins

    method = plugins.get_method(name)
    fields = method.presets["tiny"]
    processors = method.auto["AutoImageProcessor"]
    assert not isinstance(processors, str)
    side = fields["image_size"] if isinstance(fields["image_size"], int) else fields["image_size"][0]
    square = {"height": side, "width": side}
    options = {"size": {"shortest_edge": side}, "crop_size": square} if name == "videomae" else {"size": square}
    return Example(
        config=resolve(method.config)(**fields),
        rows=[{"images": row["images"]} for row in rows],
        processor=resolve(processors["pil"])(**options),
        corrupt=lambda batch, mask: batch,
    )


def pictures_of_mae() -> Example:
    """Return the example of MAE."""
    return _example("mae", sample_pictures(4))


def pictures_of_vit() -> Example:
    """Return the example of SimMIM on a ViT."""
    return _example("simmim-vit", sample_pictures(4))


def pictures_of_swin() -> Example:
    """Return the example of SimMIM on a Swin Transformer."""
    return _example("simmim-swin", sample_pictures(4))


def pictures_of_beit() -> Example:
    """Return the example of BEiT."""
    return _example("beit", sample_pictures(4))


def pictures_of_hiera() -> Example:
    """Return the example of Hiera."""
    return _example("hiera", sample_pictures(4))


def clips() -> Example:
    """Return the example of VideoMAE."""
    return _example("videomae", sample_clips(4))
