"""An error of a processor tells the row, by its number among the data, and the column."""

import pytest
import torch

from hub_mim.data import Collator, encode, readable


class Numbers:
    """Takes columns of numbers, together of one length."""

    def __call__(self, first, second=None, return_tensors=None):
        made = {"first": torch.tensor([[float(each) for each in row] for row in first])}
        if second is not None:
            made["second"] = torch.tensor([float(each) for each in second])
        return made


class Words:
    def __call__(self, rows, return_tensors=None):
        for number, row in enumerate(rows):
            if row["text"] == "bad":
                raise ValueError(f"text of row {number} is bad")
            row["text"].lower()
        return {"length": torch.tensor([len(row["text"]) for row in rows])}


GOOD = {"first": [1, 2], "second": 3}


def told(rows, processor=None, **columns):
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        Collator(processor or Numbers())([dict(row, **columns) for row in rows])
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(("column", "value"), [("first", [1, "x"]), ("second", "x")])
def test_the_one_wrong_value_is_named(place, column, value):
    rows = [GOOD | {"row_index": 100 + number} for number in range(7)]
    rows[place] = rows[place] | {column: value}
    expected = f"row {100 + place}, column {column!r}: could not convert string to float: 'x'"
    assert told(rows) == (ValueError, expected)


def test_a_row_that_does_not_go_with_those_before_it():
    kind, text = told([GOOD, GOOD, GOOD | {"first": [1, 2, 3]}])
    assert kind is ValueError
    assert text.startswith("row 2, column 'first': expected sequence of length 2")


def test_what_is_told_already_is_not_told_twice():
    rows = [{"text": "good", "row_index": 7}, {"text": "bad", "row_index": 8}]
    assert told(rows, Words()) == (ValueError, "text of row 8 is bad")


def test_errors_of_other_kinds_become_ones_that_commands_expect():
    assert told([{"text": "good"}, {"text": 7}], Words()) == (
        ValueError,
        "row 1, column 'text': 'int' object has no attribute 'lower'",
    )
    kind, text = told([GOOD, GOOD | {"second": None}])
    assert kind is TypeError
    assert text.startswith("row 1, column 'second': float() argument must be")


def test_an_error_that_does_not_come_again_stays_as_it_was():
    calls = []

    class Once:
        def __call__(self, rows, return_tensors=None):
            calls.append(rows)
            if len(calls) == 1:
                raise RuntimeError("for once")
            return {}

    with pytest.raises(RuntimeError, match="for once"):
        encode(Once(), [{"a": 1}])


def test_a_column_that_nobody_may_lack():
    with pytest.raises(ValueError, match=r"the processor needs 'first', but the columns are second"):
        encode(Numbers(), [{"second": 1}])


def test_rows_that_cannot_be_read_are_left_out_with_their_columns():
    class List(list):
        def select(self, places):
            return List(self[place] for place in places)

    kept, skipped = readable(Numbers(), List([GOOD, GOOD | {"second": "x"}, GOOD]))
    assert len(kept) == 2
    assert skipped == ["row 1: column 'second': could not convert string to float: 'x'"]


def test_a_column_that_no_other_row_can_lend():
    """Columns of a row that go together: with another row's edges the nodes do not fit, but the error is another."""

    class Graphs:
        def __call__(self, rows, return_tensors=None):
            for row in rows:
                if max(max(pair) for pair in row["edges"]) >= len(row["nodes"]):
                    raise ValueError("no such node")
            return {}

    large, small = {"edges": [[0, 5]], "nodes": [0] * 6}, {"edges": None, "nodes": [0]}
    assert told([large, small], Graphs()) == (TypeError, "row 1, column 'edges': 'NoneType' object is not iterable")
