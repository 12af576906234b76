"""Pictures look as they did: drawn again from fixed numbers, each is near the one kept in tests/golden.

After a wanted change look at the new pictures, then keep them: HUB_MIM_KEEP_PICTURES=1 pytest tests/test_golden_pictures.py
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hub_mim import pictures

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = (
    12.0  # root mean square over the pixels of 255; a changed colour or a lost panel is above, another font below
)


def source():
    return np.random.default_rng(5)


def table(path):
    values = source().normal(size=(12, 5)).cumsum(0)
    hidden = source().random((12, 5)) > 0.6
    values[3, 2] = np.nan
    pictures.masked_table(values, hidden, values + 0.4, path, names=list("abcde"))


def images(path):
    y, x = np.mgrid[:16, :16] / 16
    shown = np.stack([np.stack([x, y, np.full_like(x, level)], -1) for level in (0.2, 0.8)])
    hidden = np.kron(source().random((2, 4, 4)) > 0.5, np.ones((4, 4), bool))
    pictures.masked_images(shown, hidden, shown * 0.7, path, names=["row 0", "row 1"], note="a note")


def tokens(path):
    values = np.sin(np.arange(40).reshape(1, 20, 2) / 3)
    pictures.masked_tokens(values, source().random((1, 20)) > 0.5, values * 0.5, path, names=["row 0"])


def distributions(path):
    draws = source().normal(size=300)
    observed = {"number": draws[:200], "word": ["red"] * 30 + ["blue"] * 20}
    pictures.distributions(observed, {"number": draws[200:] + 1, "word": ["red"] * 10}, path)


def attention(path):
    maps = source().random((1, 3, 4, 4))
    pictures.attention_images(source().random((1, 8, 8, 3)), maps, path, names=["row 0"])


def matrices(path):
    pictures.attention_matrices(source().random((1, 3, 6, 6)), path, names=["row 0"])


def scatter(path):
    points = source().normal(size=(60, 2))
    panels = {name: (points * scale, (0.6, 0.2)) for name, scale in (("features", 1), ("raw input", 2))}
    pictures.scatter(panels, np.arange(60) % 3, path)


def spectrogram(path):
    time, pitch = np.mgrid[:40, :16]
    values = np.sin(time / 4) * np.exp(-(((pitch - 4 - time / 8) / 3) ** 2))
    hidden = np.kron(source().random((10, 4)) > 0.5, np.ones((4, 4), bool))
    pictures.masked_spectrograms(values[None], hidden[None], values[None] * 0.6, path, seconds=0.4, names=["row 0"])


def graph(path):
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    edges = [(node, (node + step) % 8) for node in range(8) for step in (1, 3)]
    mask = source().random(16) > 0.6
    pictures.masked_graph(np.stack([np.cos(angles), np.sin(angles)], 1), edges, mask, source().random(16), path)


DRAWN = [table, images, tokens, distributions, attention, matrices, scatter, spectrogram, graph]


@pytest.mark.parametrize("draw", DRAWN)
def test_pictures_look_as_they_did(draw, tmp_path):
    compare = pytest.importorskip("matplotlib.testing.compare", reason="matplotlib's comparison is not here")
    kept, made = GOLDEN / f"{draw.__name__}.png", tmp_path / f"{draw.__name__}.png"
    draw(made)
    if os.environ.get("HUB_MIM_KEEP_PICTURES"):
        GOLDEN.mkdir(exist_ok=True)
        shutil.copy(made, kept)
    assert compare.compare_images(str(kept), str(made), TOLERANCE) is None


def test_a_changed_picture_is_noticed(tmp_path):
    compare = pytest.importorskip("matplotlib.testing.compare", reason="matplotlib's comparison is not here")
    made = tmp_path / "images.png"
    y, x = np.mgrid[:16, :16] / 16
    shown = np.stack([np.stack([x, y, np.full_like(x, level)], -1) for level in (0.2, 0.8)])
    pictures.masked_images(shown, np.zeros((2, 16, 16), bool), shown, made, names=["row 0", "row 1"], note="a note")
    assert compare.compare_images(str(GOLDEN / "images.png"), str(made), TOLERANCE) is not None
