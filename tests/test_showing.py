"""`hub-mim show` draws what the model makes of rows; `hub-mim report` tells of runs, and of their difference."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from hub_mim import report, sharing, show
from hub_mim.pictures import masked_tokens
from hub_mim.results import Result
from hub_mim.run import Run

toy = pytest.importorskip("hub_mim_toy.modeling_toy", reason="the toy plugin (tests/toy) is not installed")
RESULT = Result(metric_type="accuracy", metric_value=0.9, dataset_name="rows", interval=(0.88, 0.92), seeds=(0, 1, 2))
RUN = Run(
    method="toy", data="sample:toy", seed=3, status="finished", losses={"loss": 0.25},
    history=[{"step": step, "loss": 1 / step, "eval_loss": 1.1 / step} for step in (1, 2, 4, 8)],
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(11)
    model = toy.ToyMimForPreTraining(toy.ToyMimConfig())
    return sharing.save(tmp_path_factory.mktemp("toy") / "first", model, ToyMimProcessor(), run=RUN, results=[RESULT])


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_a_method_without_a_picture_gets_maps_of_numbers(folder, tmp_path):
    first = show(folder, "sample:toy", tmp_path / "a.png", row=3, count=2)
    again = show(folder, "sample:toy", tmp_path / "b.png", row=3, count=2)
    other = show(folder, "sample:toy", tmp_path / "c.png", row=3, count=2, seed=1)
    assert np.array_equal(pixels(first), pixels(again))
    assert pixels(first).shape[0] < pixels(show(folder, "sample:toy", tmp_path / "d.png")).shape[0]
    assert not np.array_equal(pixels(first), pixels(other))
    with pytest.raises(FileExistsError, match="overwrite"):
        show(folder, "sample:toy", first)
    with pytest.raises(ValueError, match="there is no row 256; the rows are 0 to 255"):
        show(folder, "sample:toy", tmp_path / "e.png", row=256)


def test_only_hidden_tokens_are_grey_and_only_they_are_predicted(tmp_path):
    values = np.tile(np.linspace(0, 1, 4), (1, 1))[..., None].repeat(2, -1)
    mask = np.array([[False, True, False, False]])
    masked_tokens(values, mask, np.full_like(values, 0.5), tmp_path / "x.png")
    grey = (np.abs(pixels(tmp_path / "x.png") - 0xD9).max(-1) <= 1).mean(0)
    columns = np.flatnonzero(grey > 0.5)  # of the picture, where a token is grey from top to bottom
    share = (columns.max() - columns.min() + 1) / pixels(tmp_path / "x.png").shape[1]
    assert 0.06 < share < 0.1  # one of four tokens in one of three pictures
    with pytest.raises(ValueError, match="do not fit together"):
        masked_tokens(values, mask[:, :3], values, tmp_path / "y.png")


def test_a_table_is_drawn_by_its_plugin(tmp_path):
    pytest.importorskip("hub_mim_remasker", reason="hub-mim-remasker is not installed")
    from pathlib import Path

    checkpoint = Path(__file__).parent.parent / "model_cards" / "remasker-breast-cancer"
    picture = show(checkpoint, "sample:breast_cancer", tmp_path / "x.png", count=10)
    assert pixels(picture).std() > 20


def test_a_page_tells_all_of_a_run(folder, tmp_path):
    page = report([folder], tmp_path / "page.html").read_text()
    assert "0.9 (0.88 to 0.92)" in page
    assert page.count("<polyline") == 2
    assert "hub-mim pretrain toy --data sample:toy --out again --seed 3" in page
    assert "difference" not in page
    assert "<script" not in page
    assert re.search(r'(src|href)="(?!data:)', page) is None  # nothing is fetched
    with pytest.raises(FileExistsError, match="overwrite"):
        report([folder], tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"is no run: it holds no run\.json"):
        report([tmp_path], tmp_path / "other.html")


@pytest.mark.parametrize(
    ("value", "interval", "said"),
    [(0.95, (0.93, 0.97), "differs by more than the intervals"), (0.91, (0.89, 0.93), "within the intervals"),
     (0.95, None, "one seed: no spread to compare with")],
)  # fmt: skip
def test_runs_are_compared_by_their_intervals(folder, tmp_path, value, interval, said):
    second = shutil.copytree(folder, tmp_path / "second")
    replace(RUN, seed=4, data="<b>rows</b>").save(second)
    sharing.add_results(second, [replace(RESULT, metric_value=value, interval=interval)])
    sharing.add_results(second, [replace(RESULT, metric_type="other")])
    page = report([folder, second], tmp_path / "page.html").read_text()
    assert said in page
    assert "not run" in page
    assert "<b>rows</b>" not in page
    assert page.count("<polyline") == 4
    (row,) = re.findall(r'<tr class="differs"><td>seed</td>.*?</tr>', page)
    assert ">3<" in row
    assert ">4<" in row


def test_runs_of_one_name_are_told_apart(folder, tmp_path):
    second = shutil.copytree(folder, tmp_path / "else" / "first")
    page = report([folder, second], tmp_path / "page.html").read_text()
    assert str(folder) in page
    assert str(second) in page
