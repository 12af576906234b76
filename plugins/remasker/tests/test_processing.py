"""Every kind of column goes to numbers and back; observed cells are never touched."""

import numpy as np
import pandas as pd
import pytest

from hub_mim_remasker.processing_remasker import ReMaskerProcessor, as_frame


def mixed():
    return pd.DataFrame(
        {
            "number": [1.5, None, 3.25, 9.0],
            "big": [2**60, 2**60 + 1, 2**60 + 7, 2**60 + 3],
            "count": pd.array([1, None, 3, 5], dtype="Int64"),
            "whole": [1.0, None, 3.0, 4.0],
            "flag": [True, None, False, True],
            "day": pd.to_datetime(["2020-01-01", None, "2021-05-05", "2022-02-02"]),
            "hour": pd.to_datetime(["2020-01-01 10:00", None, "2021-05-05 11:00", "2022-02-02 12:00"]).tz_localize(
                "Europe/Paris"
            ),
            "word": ["x", None, "y", "x"],
            "grade": pd.Categorical(["lo", None, "hi", "lo"], categories=["lo", "mid", "hi"], ordered=True),
            "same": [7.0, 7.0, None, 7.0],
            "empty": [None] * 4,
        }
    )


def fill(frame, processor, value=0.5, code=0):
    shape = (len(frame), len(processor.modelled()))
    return processor.decode(frame, np.full(shape, value), np.full(shape, code))


def test_kinds():
    kinds = {column.name: column.kind for column in ReMaskerProcessor().fit(mixed()).fitted()}
    assert kinds == {
        "number": "number", "big": "integer", "count": "integer", "whole": "integer", "flag": "category", "day": "datetime",
        "hour": "datetime", "word": "category", "grade": "category", "same": "constant", "empty": "empty",
    }  # fmt: skip


def test_gaps_get_valid_values_and_dtypes_stay():
    frame = mixed()
    filled = fill(frame, ReMaskerProcessor().fit(frame))
    assert filled.dtypes.equals(frame.dtypes)
    assert filled["number"][1] == pytest.approx(5.25, rel=1e-6)
    assert filled["count"][1] == 3
    assert filled["whole"][1] == 3.0  # 1 + 1.5, rounded, halves to even
    assert filled["day"][1] == pd.Timestamp("2021-01-16") or filled["day"][1] == pd.Timestamp("2021-01-17")
    assert filled["hour"][1].minute == 0
    assert filled["flag"][1] is False
    assert filled["word"][1] == "x"
    assert filled["grade"][1] == "lo"
    assert filled["same"][2] == 7.0
    assert filled["empty"].isna().all()


def test_observed_cells_stay_bit_for_bit():
    frame = mixed()
    filled = fill(frame, ReMaskerProcessor().fit(frame))
    known = frame.notna()
    for name in frame.columns:
        assert (filled[name][known[name]] == frame[name][known[name]]).all()
    assert filled["big"].tolist() == frame["big"].tolist()  # 2**60 + 1 is no float64


def test_large_integers_are_told_apart_and_filled_within_range():
    frame = pd.DataFrame(
        {"id": pd.array([2**60, 2**60 + 1, None, 2**60 + 9], dtype="Int64"), "x": [0.0, 0.3, 0.6, 0.9]}
    )
    processor = ReMaskerProcessor().fit(frame)
    values = processor(frame)["values"]
    assert values[0, 0] == 0
    assert values[1, 0] == pytest.approx(1 / 9)
    assert fill(frame, processor, value=5.0)["id"][2] == 2**60 + 9  # clipped to what was observed


def test_an_unseen_category_is_missing_to_the_model_and_stays_in_the_table():
    processor = ReMaskerProcessor().fit(pd.DataFrame({"c": ["a", "b", "a"], "x": [1.0, 2.0, 3.0]}))
    new = pd.DataFrame({"c": ["z", None], "x": [1.0, 2.0]})
    assert processor(new)["observed"][:, 0].tolist() == [False, False]
    assert fill(new, processor, code=1)["c"].tolist() == ["z", "b"]


def test_a_column_of_many_words_is_not_modelled():
    frame = pd.DataFrame({"name": [f"n{i}" for i in range(200)] + [None], "x": np.arange(201.0)})
    processor = ReMaskerProcessor(max_levels=100).fit(frame)
    assert [column.name for column in processor.modelled()] == ["x"]
    assert fill(frame, processor)["name"].notna().all()


def test_statistics_survive_saving(tmp_path):
    processor = ReMaskerProcessor(scaling="standard").fit(mixed())
    processor.residuals = [[0.1, -0.2]]
    processor.save_pretrained(tmp_path)
    again = ReMaskerProcessor.from_pretrained(tmp_path)
    assert again.columns == processor.columns
    assert again.patterns == processor.patterns
    assert again.residuals == processor.residuals
    assert again.scaling == "standard"


def test_every_container_gives_the_same_tensors():
    from datasets import Dataset

    frame = pd.DataFrame({"x0": [1.0, None, 3.0], "x1": [0.5, 0.25, None]})
    processor = ReMaskerProcessor().fit(frame)
    expected = processor(frame)["values"]
    for rows in (frame.to_numpy(), frame.to_dict("records"), Dataset.from_pandas(frame)):
        assert (processor(rows)["values"] == expected).all()


def test_standard_scaling_maps_the_mean_to_the_middle():
    frame = pd.DataFrame({"x": [0.1, 0.7, 0.4, 5.0]})
    values = ReMaskerProcessor(scaling="standard").fit(frame)(frame)["values"].numpy()[:, 0]
    assert values.mean() == pytest.approx(0.5, abs=1e-6)
    assert values.std() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pd.DataFrame({"a": [1, "x", None]}, dtype=object), "column 'a' mixes types"),
        (pd.DataFrame({"a": [1.0, np.inf]}), "column 'a' holds an infinite value in row 2"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column is called 'a'"),
        (pd.DataFrame({"a": [1.0, 1.0]}), "no column of the table varies"),
        (pd.DataFrame({"a": [[1], [2]]}), "column 'a' holds list values"),
    ],
)
def test_bad_tables_are_told(frame, text):
    with pytest.raises(ValueError, match=text):
        ReMaskerProcessor().fit(frame)


def test_a_missing_column_is_named():
    processor = ReMaskerProcessor().fit(pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]}))
    with pytest.raises(ValueError, match=r"lacks the columns \['b'\]; it has a"):
        processor(pd.DataFrame({"a": [1.0]}))


def test_an_array_of_three_dimensions_is_no_table():
    with pytest.raises(ValueError, match="two dimensions"):
        as_frame(np.zeros((2, 2, 2)))
