"""Pictures are written whole, leave no state behind, and show every kind of column."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hub_mim.pictures import MAX_PANELS, _bars, _compare, _panels, _series, distributions, loss_curve, masked_table
from hub_mim.run import Run


def _is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 2000


def _heights(axis, label):
    return [patch.get_height() for patch in dict(zip(("observed", "imputed"), axis.containers))[label]]


COLUMNS = {
    "number": (np.linspace(0, 1, 50), [0.5, 0.7]),
    "constant": ([1.0, 1.0], [1.0]),
    "count": ([0, 1, 2, 2], [1]),
    "large": (np.arange(50) * 10**15, [2 * 10**15]),
    "flag": (pd.array([True, False, None], dtype="boolean"), [True]),
    "text": (["a", "b", None], ["b"]),
    "category": (pd.Categorical(["a", "b"]), ["a"]),
    "date": (pd.date_range("2020-01-01", periods=40), [pd.Timestamp("2020-01-09")]),
    "zone": (pd.date_range("2020-01-01", periods=40, tz="UTC"), [pd.Timestamp("2020-01-09", tz="UTC")]),
    "infinite": ([1.0, 2.0, 3.0, np.inf], [2.0]),
    "unseen": ([], [1.0]),
    "a title with $ and _ and {braces} that is far too long": ([1.5, 2.5, 3.5], [2.0]),
}


@pytest.mark.filterwarnings("error")
def test_every_kind_of_column(tmp_path):
    observed, imputed = ({name: pair[i] for name, pair in COLUMNS.items()} for i in (0, 1))
    assert _is_png(distributions(observed, imputed | {"complete": []}, tmp_path / "a.png"))
    with pytest.raises(FileExistsError):
        distributions(observed, imputed, tmp_path / "a.png")
    assert distributions(observed, imputed, tmp_path / "a.svg").read_text().startswith("<?xml")


def test_nothing_imputed(tmp_path):
    with pytest.raises(ValueError, match="nothing was imputed"):
        distributions({"a": [1]}, {"a": []}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_more_columns_than_panels(tmp_path):
    columns = {f"c{i}": [1.0, 2.0, 3.0] for i in range(MAX_PANELS + 3)}
    assert _is_png(distributions(columns, columns, tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["number", "count", "text", "date", "skewed"])
def test_shares_of_each_part_sum_to_one(kind):
    """A histogram that loses values outside its bins, or levels after the first few, would sum to less."""
    skewed = np.exp(np.random.default_rng(0).normal(0, 2, 400))
    many = [f"level {i}" for i in range(12)] + ["level 0"] * 5
    observed, imputed = COLUMNS[kind] if kind in ("number", "count", "date") else (skewed, skewed[:20] * 2)
    if kind == "text":
        observed, imputed = many, many[3:]
    _, axes = _panels(1)
    _compare(axes[0], _series(observed), _series(imputed))
    for label in ("observed", "imputed"):
        assert sum(_heights(axes[0], label)) == pytest.approx(1.0)


def test_bars_stand_over_their_level():
    _, axes = _panels(1)
    observed, imputed = pd.Series([3, 1, 1, 1]), pd.Series([3, 3])
    _bars(axes[0], observed, imputed, pd.concat([observed, imputed]), ordered=True)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["1", "3"]
    assert _heights(axes[0], "observed") == [0.75, 0.25]
    assert _heights(axes[0], "imputed") == [0.0, 1.0]


def test_loss_curve(tmp_path):
    history = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)] + [{"step": 3, "eval_loss": 0.4}]
    assert _is_png(loss_curve(Run(method="toy", data="rows.csv", history=history), tmp_path / "a.png"))
    with pytest.raises(ValueError, match="logged no loss"):
        loss_curve(Run(method="toy"), tmp_path / "b.png")


@pytest.mark.filterwarnings("error")
def test_masked_table(tmp_path):
    table = np.random.default_rng(0).normal(size=(50, 4))
    table[:, 1], table[0, 0], table[:, 2] = np.nan, np.nan, 3.0
    mask = np.zeros(table.shape, bool)
    mask[:, 3] = True
    assert _is_png(masked_table(table, mask, table + 1, tmp_path / "a.png", names=list("abcd")))
    with pytest.raises(ValueError, match="one shape"):
        masked_table(table, mask[:3], table, tmp_path / "b.png")


def test_no_display_and_no_global_state():
    code = (
        "import sys, hub_mim.pictures as p; assert 'matplotlib' not in sys.modules;"
        "p.distributions({'a': [1, 2]}, {'a': [1]}, sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code, f"{folder}/a.png"], check=True)
