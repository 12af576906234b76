"""The small checkpoints under model_cards/: each loads, and its card is what a fresh rendering gives."""

import shutil
from pathlib import Path

import pytest

from hub_mim import sharing

FOLDERS = sorted((Path(__file__).parent.parent / "model_cards").glob("*/"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_checkpoint_loads_as_the_card_says(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    card = (folder / "README.md").read_text(encoding="utf-8")
    snippet = card.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(snippet, names)
    assert names["model"].num_parameters() > 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_card_equals_a_fresh_rendering(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    sharing.add_results(copy, [])
    fresh, kept = ((place / "README.md").read_text(encoding="utf-8") for place in (copy, folder))
    assert fresh == kept, "run `make cards`"
