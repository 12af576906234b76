"""`hub-mim impute` as a user meets it: files in, files out, one sentence for what is wrong, the input untouched."""

import json

import numpy as np
import pandas as pd
import pytest

from hub_mim import cli
from hub_mim_remasker import ReMaskerImputer
from hub_mim_remasker.comparison import compare_imputers, hide_cells, overall
from hub_mim_remasker.filling import fill_table


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Train for a few steps only."""
    from hub_mim_remasker.plugin import IMPUTATION

    monkeypatch.setitem(IMPUTATION, "steps", (10, 10))


@pytest.fixture
def table(tmp_path):
    """A csv with gaps, odd number formats and dates."""
    rows = ["id,age,weight,colour,day"]
    for i in range(40):
        weight = "" if i % 7 == 0 else f"{50 + i}.50"
        colour = "" if i % 9 == 4 else ("red" if i % 2 else "blue")
        day = "" if i == 5 else f"2024-01-{i % 28 + 1:02d}"
        rows.append(f"{9007199254740993 + i},{'' if i == 3 else 20 + i % 30},{weight},{colour},{day}")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def run(capsys, *arguments):
    code = 0
    try:
        cli.main(["impute", "--jobs", "1", *map(str, arguments)])
    except SystemExit as ended:
        code = ended.code or 0
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_table_is_filled_and_observed_text_stays(capsys, table, tmp_path):
    before = table.read_bytes()
    out = tmp_path / "filled.csv"
    code, told, err = run(capsys, table, "--out", out)
    assert code == 0, err
    assert table.read_bytes() == before
    old, new = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (table, out))
    assert list(new.columns) == list(old.columns)
    known = old != ""
    assert (new[known] == old[known]).to_numpy()[known.to_numpy()].all()  # 50.50 stays 50.50, large ids stay exact
    assert (new != "").all().all()
    assert new["age"][3].isdigit()
    assert pd.to_datetime(new["day"][5]).strftime("%Y-%m-%d") == new["day"][5]
    assert "REMASKER" in told
    assert "ITERATIVE" in told
    assert (tmp_path / "filled-distributions.png").stat().st_size > 5_000
    assert (tmp_path / "filled-model" / "model.safetensors").is_file()
    assert "--model" in err


def test_a_trained_model_fills_another_table(capsys, table, tmp_path):
    assert run(capsys, table, "--out", tmp_path / "one.csv", "--save", tmp_path / "model", "--no-compare")[0] == 0
    code, told, err = run(capsys, table, "--out", tmp_path / "two.csv", "--model", tmp_path / "model", "--json")
    assert code == 0, err
    facts = json.loads(told)
    assert "may have been trained on these cells" in facts["explanation"]
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()


def test_several_fillings_go_to_several_files(capsys, table, tmp_path):
    code, _, err = run(capsys, table, "--out", tmp_path / "f.csv", "--n-imputations", "2", "--no-compare")
    assert code == 0, err
    first, second = (pd.read_csv(tmp_path / f"f-{number}.csv") for number in (1, 2))
    assert not first.equals(second)
    assert not first.isna().any().any()


def test_two_trainings_at_a_time_give_what_one_after_the_other_gives(table):
    frame = pd.read_csv(table)[["age", "weight", "colour"]]
    one, two = (fill_table(frame, ReMaskerImputer(max_steps=10, random_state=0), jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one.tables[0], two.tables[0])
    assert one.comparison == two.comparison


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_other_formats(capsys, table, tmp_path, ending):
    frame = pd.read_csv(table)
    path = tmp_path / f"in.{ending}"
    frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, sep="\t", index=False)
    code, _, err = run(capsys, path, "--out", tmp_path / f"out.{ending}", "--no-compare")
    assert code == 0, err
    filled = (
        pd.read_parquet(tmp_path / "out.parquet")
        if ending == "parquet"
        else pd.read_csv(tmp_path / "out.tsv", sep="\t")
    )
    assert not filled.isna().any().any()
    assert (filled["id"] == frame["id"]).all()


BAD = {
    "no gap": ("a,b\n1,2\n3,4\n", "has no missing value"),
    "one row": ("a,b\n1,\n", "has 1 row"),
    "one column": ("a\n1\n\n3\n", "one column"),
    "twice": ("a,a\n1,\n3,4\n", "more than one column called 'a'"),
    "infinite": ("a,b\n1,inf\n3,\n5,6\n", "infinite value in row 1"),
    "mixed": ("a,b\n1,\n3,x\nfour,y\n5,z\n", "column 'a' of .* mixes numbers and words \\('four' in row 3\\)"),
    "ragged": ("a,b\n1,2\n3,4,5\n,6\n", "cannot read"),
    "empty": ("", "empty"),
    "header only": ("a,b\n", "row"),
    "binary": ("\x00\x01\x02", "."),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tables_get_one_sentence_and_nothing_is_written(capsys, tmp_path, what):
    content, text = BAD[what]
    path = tmp_path / "bad.csv"
    path.write_text(content)
    code, out, err = run(capsys, path, "--out", tmp_path / "filled.csv")
    assert code == 1
    assert not out
    assert pd.Series([err]).str.contains(text).all(), err
    assert len(err.strip().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]
    assert path.read_text() == content


def test_outputs_are_not_overwritten_unasked(capsys, table, tmp_path):
    out = tmp_path / "filled.csv"
    out.write_text("mine")
    code, _, err = run(capsys, table, "--out", out)
    assert code == 1
    assert "already exists" in err
    assert out.read_text() == "mine"
    assert run(capsys, table, "--out", out, "--overwrite", "--no-compare")[0] == 0
    assert run(capsys, table, "--out", table, "--overwrite")[0] == 1


def test_a_model_of_another_table_is_told(capsys, table, tmp_path):
    assert run(capsys, table, "--out", tmp_path / "one.csv", "--no-compare")[0] == 0
    other = tmp_path / "other.csv"
    other.write_text("p,q\n1,\n2,3\n4,5\n")
    code, _, err = run(capsys, other, "--out", tmp_path / "x.csv", "--model", tmp_path / "one-model")
    assert code == 1
    assert "feature names" in err or "lacks the columns" in err


def test_wrong_endings_and_missing_files(capsys, table, tmp_path):
    assert "ending" in run(capsys, table, "--out", tmp_path / "x.xlsx")[2]
    assert "no file" in run(capsys, tmp_path / "none.csv", "--out", tmp_path / "x.csv")[2]


# --- the comparison ---


def test_hidden_cells_leave_half_of_each_row_and_two_of_each_column():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((50, 4)), columns=list("abcd")).mask(random.random((50, 4)) < 0.3)
    frame["d"] = [1.0, 2.0] + [None] * 48
    hidden = hide_cells(frame, list("abcd"), 0.9, 0)
    observed = frame.notna().to_numpy()
    assert not (hidden & ~observed).any()
    assert (hidden.sum(1) <= observed.sum(1) // 2).all()
    assert ((observed & ~hidden).sum(0) >= 2).all()
    assert hidden.any()


def test_hidden_cells_do_not_follow_the_gaps_of_the_same_seed():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((100, 4)), columns=list("abcd"))
    frame = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)
    share = hide_cells(frame, list("abcd"), 0.1, 0).sum() / frame.notna().to_numpy().sum()
    assert 0.07 < share < 0.13


def test_the_comparison_measures_what_it_says():
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0) * 2, "c": ["x", "y"] * 30})
    errors = compare_imputers(frame, lambda visible: visible.fillna({"a": 29.5, "b": 59.0, "c": "x"}))
    by_name = {error.column: error for error in errors}
    assert by_name["a"].errors["ReMasker"] == pytest.approx(by_name["a"].errors["mean/mode"], rel=0.1)
    assert by_name["a"].errors["iterative"] < 0.1
    assert 0 <= by_name["c"].errors["KNN(5)"] <= 1
    assert overall(errors)["mean/mode"] == 1.0
