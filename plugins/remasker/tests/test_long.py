"""Nightly: the paper's other ratios of missing cells, and a table of 20,640 rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hub_mim_remasker import ReMaskerImputer
from hub_mim_remasker.comparison import compare_imputers, overall

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("ratio", ["0.1", "0.5", "0.7"])
def test_other_ratios_beat_the_mean(ratio):
    folder = DATA / "uci-amputed"
    if not folder.is_dir():
        pytest.skip("needs the shared table folder uci-amputed")
    stored = np.load(folder / "yacht_seed0.npz", allow_pickle=False)
    complete = stored["X"].astype(float)
    missing = np.unpackbits(stored[f"mask_MCAR_{ratio}"])[: complete.size].reshape(complete.shape).astype(bool)
    table = np.where(missing, np.nan, complete)
    filled = ReMaskerImputer(random_state=0).fit_transform(table)
    mean = np.broadcast_to(np.nanmean(table, 0), table.shape)
    assert np.square(filled - complete)[missing].mean() < np.square(mean - complete)[missing].mean()


def test_a_table_with_natural_gaps_and_words_is_filled():
    path = DATA / "uci" / "california_raw.csv.gz"
    if not path.is_file():
        pytest.skip("needs the shared table california_raw")
    table = pd.read_csv(path)
    filled = ReMaskerImputer(random_state=0).fit_transform(table)
    assert table.isna().to_numpy().sum() > 200
    assert not filled.isna().to_numpy().any()
    errors = overall(compare_imputers(table, lambda visible: ReMaskerImputer(random_state=0).fit_transform(visible)))
    assert errors["ReMasker"] < 1
