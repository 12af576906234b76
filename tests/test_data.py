"""From sources to batches: types survive, errors name what is wrong, nothing is left beside the user's files."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict

from hub_mim.data import (
    Collator,
    EncodedRows,
    Rows,
    as_records,
    batches,
    column_names,
    encode,
    encode_all,
    fingerprint,
    load_rows,
    readable,
    split_rows,
)

CSV = "age,city,big,flag\n1,x,9007199254740993,True\n,y,1,\n3.5,,,False\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(CSV)
    return path


def test_csv_keeps_types_and_large_integers(table):
    rows = load_rows(table)
    assert rows["age"] == [1.0, None, 3.5]
    assert rows["city"] == ["x", "y", None]
    assert rows["big"] == [9007199254740993, 1, None]
    assert rows["flag"] == [True, None, False]


def test_integer_column_with_gaps_is_float(tmp_path):
    (tmp_path / "a.csv").write_text("n,m\n1,1\n,2\n")
    rows = load_rows(str(tmp_path / "a.csv"))
    assert [type(value) for value in rows["n"]] == [float, type(None)]
    assert rows["m"] == [1, 2]
    assert all(type(value) is int for value in rows["m"])


def _write(kind, path):
    frame = pd.DataFrame({"n": [1.5, None, 3.0], "s": ["a", None, "c"]})
    if kind == "tsv":
        frame.to_csv(path, sep="\t", index=False)
    elif kind == "csv.gz":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        lines = [
            {key: None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
        ]
        text = json.dumps(lines) if kind == "json" else "\n".join(map(json.dumps, lines)) + "\n\n"
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())


@pytest.mark.parametrize("kind", ["tsv", "csv.gz", "parquet", "jsonl", "jsonl.gz", "json"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    _write(kind, path)
    assert load_rows(path).to_list() == [{"n": 1.5, "s": "a"}, {"n": None, "s": None}, {"n": 3.0, "s": "c"}]


def test_json_lines_keep_separators_inside_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"s": "a\u2028b"}\n', encoding="utf-8")
    assert load_rows(tmp_path / "a.jsonl")["s"] == ["a\u2028b"]


def test_memory_sources_agree():
    records = [{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}]
    for source in (records, iter(records), pd.DataFrame(records), Dataset.from_list(records)):
        assert load_rows(source).to_list() == records


def test_list_of_dicts_keeps_columns_of_later_rows():
    assert load_rows([{"a": 1}, {"a": 2, "b": "x"}]).to_list() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_frame_index_and_categories():
    frame = pd.DataFrame({"c": pd.Categorical(["x", None, "y"]), 0: [1, 2, 3]}, index=[7, 8, 9])
    assert load_rows(frame).to_list() == [{"c": "x", "0": 1}, {"c": None, "0": 2}, {"c": "y", "0": 3}]


def test_folder_of_tables_and_splits(tmp_path):
    for name, value in (("train", 1), ("test", 2)):
        (tmp_path / f"{name}.csv").write_text(f"a\n{value}\n")
    assert load_rows(tmp_path)["a"] == [2, 1]
    assert load_rows(tmp_path, split="test")["a"] == [2]
    with pytest.raises(ValueError, match="no table of split 'dev'"):
        load_rows(tmp_path, split="dev")


def test_folder_with_other_columns_or_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "b.csv").write_text("b\n1\n")
    with pytest.raises(ValueError, match=r"differ in columns \['a', 'b'\]"):
        load_rows(tmp_path)
    (tmp_path / "c.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="mixes csv and json"):
        load_rows(tmp_path)


def test_folder_of_images(tmp_path):
    from PIL import Image

    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / label / "0.png")
    rows = load_rows(tmp_path)
    assert rows[0]["image"].size == (4, 4)
    assert sorted(rows["label"]) == [0, 1]
    assert fingerprint(rows) is not None


def test_saved_dataset_gets_no_litter(tmp_path):
    DatasetDict(
        {"train": Dataset.from_dict({"a": list(range(20))}), "dev": Dataset.from_dict({"a": [5]})}
    ).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    rows = load_rows(tmp_path / "saved")
    train, held_out = split_rows(rows)
    assert fingerprint(train) != fingerprint(held_out)
    assert sorted(tmp_path.rglob("*")) == before
    assert load_rows(tmp_path / "saved", split="dev")["a"] == [5]
    with pytest.raises(ValueError, match="no split 'test'; it has train, dev"):
        load_rows(tmp_path / "saved", split="test")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_streaming_gives_the_same_rows(tmp_path, kind):
    if kind == "csv":
        (tmp_path / "a.csv").write_text("n,s\n1.5,a\n,\n3,c\n")
    else:
        _write(kind, tmp_path / f"a.{kind}")
    stream = load_rows(tmp_path / f"a.{kind}", streaming=True, columns={"n": "number"})
    assert not hasattr(stream, "__len__")
    assert sorted(column_names(stream)) == ["number", "s"]
    assert list(stream) == [{"number": 1.5, "s": "a"}, {"number": None, "s": None}, {"number": 3.0, "s": "c"}]
    with pytest.raises(ValueError, match=r"no column 'm' in the data.*the columns are n, s"):
        load_rows(tmp_path / f"a.{kind}", streaming=True, columns={"m": "number"})


BAD = {
    "empty.csv": ("", "is empty"),
    "header.csv": ("a,b\n", r"has columns \(a, b\) but no rows"),
    "long_row.csv": ("a,b\n1,2\n1,2,3\n", "line 3"),
    "twice.csv": ("a,b,a\n1,2,3\n", "more than one column called 'a'"),
    "semicolon.csv": ("a;b\n1;2\n", "separated by semicolons"),
    "tabs.csv": ("a\tb\n1\t2\n", r"separated by tabs; call it \.tsv"),
    "latin.csv": (b"a,b\n\xe9,2\n", "not UTF-8"),
    "bad.jsonl": ('{"a": 1}\n{"a": \n', "line 2 is not JSON"),
    "mixed.jsonl": ('{"a": 1}\n{"a": "x"}\n', "column 'a' of .* mixes types"),
    "list.jsonl": ("[1]\n", "row 1 of .* is list"),
    "bad.parquet": ("x", "as parquet"),
    "sheet.xlsx": ("x", "save the sheet as csv"),
    "a.cvs": ("a\n1\n", r"ending '\.cvs' is none of .*did you mean '\.csv'"),
}


@pytest.mark.parametrize("name", BAD)
def test_unreadable_file_is_one_clear_sentence(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_rows(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_short_rows_have_gaps(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1\n2,3\n")
    assert load_rows(tmp_path / "a.csv").to_list() == [{"a": 1, "b": None}, {"a": 2, "b": 3.0}]


def test_missing_path_is_not_taken_for_a_hub_name(table):
    with pytest.raises(FileNotFoundError, match=r"tables\.csv; did you mean 'table\.csv'"):
        load_rows(str(table.with_name("tables.csv")))


def test_wrong_sources():
    with pytest.raises(ValueError, match="empty"):
        load_rows([])
    with pytest.raises(TypeError, match="from int"):
        load_rows(5)
    with pytest.raises(ValueError, match="column 'a' of the table mixes types"):
        load_rows(pd.DataFrame({"a": [1, "x"]}))
    with pytest.raises(ValueError, match="more than one column called 'a'"):
        load_rows(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="no split 'test'"):
        load_rows([{"a": 1}], split="test")


def test_split_of_a_file_is_refused(table):
    with pytest.raises(ValueError, match="has no split 'test'"):
        load_rows(table, split="test")


def test_columns_are_renamed(table):
    assert load_rows(table, columns={"age": "years", "city": "city"}).column_names == ["years", "city", "big", "flag"]
    swapped = load_rows([{"a": 1, "b": 2}], columns={"a": "b", "b": "a"})
    assert swapped.to_list() == [{"b": 1, "a": 2}]
    assert load_rows([{"text": 1, "caption": 2}], columns={"caption": "text"}).to_list() == [{"text": 2}]


def test_missing_column_is_named_with_those_present(table):
    message = "no column 'agee' in the data; did you mean 'age'?; the columns are age, city, big, flag"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_rows(table, columns={"agee": "years"})
    with pytest.raises(ValueError, match="2 columns are mapped to 'years'"):
        load_rows(table, columns={"age": "years", "big": "years"})


@pytest.mark.parametrize(("count", "share", "held"), [(10, 0.1, 1), (1000, 0.25, 250), (3, 0.01, 1), (2, 0.9, 1)])
def test_split_is_exact_disjoint_and_seeded(count, share, held):
    rows = Dataset.from_dict({"a": list(range(count))})
    train, held_out = split_rows(rows, share, seed=3)
    assert len(held_out) == held
    assert sorted([*train["a"], *held_out["a"]]) == list(range(count))
    assert list(train["a"]) == sorted(train["a"])
    assert split_rows(rows, share, seed=3)[1].to_list() == held_out.to_list()
    if count > 100:
        assert split_rows(rows, share, seed=4)[1].to_list() != held_out.to_list()


def test_split_of_a_stream_is_disjoint_seeded_and_near_the_share():
    rows = Dataset.from_dict({"a": list(range(2000))}).to_iterable_dataset()
    train, held_out = ([row["a"] for row in part] for part in split_rows(rows, 0.3, seed=1))
    assert sorted(train + held_out) == list(range(2000))
    assert abs(len(held_out) - 600) < 82  # four standard deviations of a binomial
    assert [row["a"] for row in split_rows(rows, 0.3, seed=2)[1]] != held_out


def test_split_refuses_what_cannot_be_parted():
    with pytest.raises(ValueError, match="1 row; at least 2"):
        split_rows(Dataset.from_dict({"a": [1]}))
    with pytest.raises(ValueError, match="share is 1"):
        split_rows(Dataset.from_dict({"a": [1, 2]}), 1)
    assert split_rows(Dataset.from_dict({"a": [1]}), 0)[1] is None


def test_fingerprint_is_of_the_content():
    rows = Dataset.from_dict({"a": [1.0, None, 3.0], "b": ["x", None, "z"], "c": [[1], None, [2, 3]]})
    same = Dataset.from_dict({"a": [9.0, 1.0, None, 3.0], "b": ["q", "x", None, "z"], "c": [[5], [1], None, [2, 3]]})
    assert fingerprint(rows) == fingerprint(same.select([1, 2, 3]))
    assert fingerprint(rows) == fingerprint(same.select(range(1, 4)))
    others = [
        rows.select([2, 1, 0]),
        rows.rename_column("a", "d"),
        Dataset.from_dict({**rows[:], "a": [1.0, 0.0, 3.0]}),
        Dataset.from_dict({**rows[:], "a": [1.0, float("nan"), 3.0]}),
        Dataset.from_dict({**rows[:], "b": ["x", "", "z"]}),
        Dataset.from_dict({**rows[:], "c": [[1], [2], [3]]}),
        rows.select([0, 1]),
    ]
    assert len({fingerprint(other) for other in [rows, *others]}) == 8
    assert fingerprint(rows.to_iterable_dataset()) is None


def test_fingerprint_of_a_frame_ignores_what_lies_under_a_gap():
    assert fingerprint(load_rows(pd.DataFrame({"a": [1.0, None]}))) == fingerprint(load_rows([{"a": 1.0}, {"a": None}]))


def test_fingerprint_is_the_same_in_another_process(table):
    code = "import sys; from hub_mim.data import *; print(fingerprint(load_rows(sys.argv[1])))"
    told = subprocess.run(
        [sys.executable, "-c", code, str(table)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert told.stdout.strip() == fingerprint(load_rows(table))


class ByRow:
    """A processor that takes rows whole."""

    encode_once = True

    def __call__(self, rows, return_tensors=None):
        return {"values": torch.tensor([[row["a"], row["b"]] for row in rows])}


class ByColumn:
    """A processor that takes columns."""

    def __call__(self, images, text=None, padding=False, return_tensors=None, **kwargs):
        batch = {"pixels": torch.tensor(images)}
        return batch if text is None else batch | {"length": torch.tensor([len(words) for words in text])}


ROWS = [{"a": i, "b": 10 * i} for i in range(7)]


def test_encode_by_rows_and_by_columns():
    assert encode(ByRow(), ROWS[:2])["values"].tolist() == [[0, 0], [1, 10]]
    batch = encode(ByColumn(), [{"text": "ab", "images": 1, "other": 3}, {"images": 2, "text": "c", "other": 4}])
    assert batch["pixels"].tolist() == [1, 2]
    assert batch["length"].tolist() == [2, 1]
    assert list(encode(ByColumn(), [{"images": 1}])) == ["pixels"]


def test_encode_names_missing_and_present_columns():
    with pytest.raises(
        ValueError, match="needs 'images', but the columns are picture, text; map one with --map COLUMN=images"
    ):
        encode(ByColumn(), [{"picture": 1, "text": "a"}])
    with pytest.raises(ValueError, match="row 1 lacks the column 'text'"):
        encode(ByColumn(), [{"images": 1, "text": "a"}, {"images": 2}])


def test_collator_keeps_row_numbers_and_hides_them_from_the_processor():
    loader = torch.utils.data.DataLoader(
        Rows(Dataset.from_list([{"images": i, "text": "x"} for i in range(5)])),
        batch_size=3,
        collate_fn=Collator(ByColumn()),
    )
    got = [(batch["row_index"].tolist(), batch["pixels"].tolist()) for batch in loader]
    assert got == [([0, 1, 2], [0, 1, 2]), ([3, 4], [3, 4])]
    assert Collator(ByColumn())([{"images": 1}]).keys() == {"pixels"}


def test_collator_of_the_method():
    collate = Collator(ByColumn(), lambda rows, processor: {"rows": rows, "by": processor})
    batch = collate([{"a": 1, "row_index": 4}])
    assert batch["rows"] == [{"a": 1}]
    assert isinstance(batch["by"], ByColumn)
    assert batch["row_index"].tolist() == [4]


@pytest.mark.parametrize("workers", [0, 2])
def test_encoded_rows_give_whole_batches_that_equal_encoding_row_by_row(workers):
    data = encode_all(ByRow(), Dataset.from_list(ROWS), batch_size=3)
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, shuffle=True, generator=generator, collate_fn=Collator(ByRow()), num_workers=workers
    )
    seen = Counter()
    for batch in loader:
        seen.update(batch["row_index"].tolist())
        assert torch.equal(batch["values"], encode(ByRow(), [ROWS[i] for i in batch["row_index"]])["values"])
    assert seen == Counter(range(7))


def test_encoded_rows_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="'b' has 2 rows, but 'a' has 3"):
        EncodedRows({"a": torch.zeros(3), "b": torch.zeros(2)})


def test_batches_cover_everything_once():
    assert [len(batch) for batch in batches(ROWS, 3)] == [3, 3, 1]
    assert list(batches([], 3)) == []
    rows = Dataset.from_list(ROWS)
    for source in (
        rows,
        rows.select([6, 5, 4, 3, 2, 1, 0]).select(range(6, -1, -1)),
        rows.to_iterable_dataset(),
        iter(ROWS),
    ):
        assert list(batches(source, 3)) == [ROWS[:3], ROWS[3:6], ROWS[6:]]
    assert as_records(rows) == ROWS


def test_a_broken_picture_is_named_or_left_out(tmp_path):
    from PIL import Image

    for number in range(5):
        Image.new("RGB", (40, 30), (number * 50, 20, 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:20])
    rows = load_rows(tmp_path)
    assert len(Rows(rows).__getitems__([0, 4, 2])) == 3
    with pytest.raises(ValueError, match="row 3 cannot be read: Truncated"):
        Rows(rows).__getitems__([0, 3, 2])
    with pytest.raises(ValueError, match="row 3 cannot be read"):
        list(batches(rows, 2))

    def processor(images, return_tensors=None):
        return {"pixel_values": torch.stack([torch.tensor(image.size) for image in images])}

    class Processor:
        __call__ = staticmethod(processor)

    kept, skipped = readable(Processor(), rows, batch_size=2)
    assert len(kept) == 4
    assert skipped[0].startswith("row 3: Truncated")


def test_a_name_with_a_nul_is_told(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"a,b\0c\n1,2\n")
    for source in (tmp_path / "rows.csv", [{"a": 1, "b\0c": 2}]):
        with pytest.raises(ValueError, match="with a NUL character, which no column can have"):
            load_rows(source)
