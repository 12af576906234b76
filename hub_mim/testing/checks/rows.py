"""Wrong rows: each is refused by a sentence that names the column, or does no harm to the batch.

What may be wrong follows from the example's second row: each of its columns is left out, becomes nothing, a word, a number, and
what else its kind of value can become. A processor may take such a value (a gap in a table, a picture without a depth map), but
then the rows beside it give the tensors that they give without it, and the loss is finite.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch

from hub_mim.data import encode
from hub_mim.files import first_line
from hub_mim.testing.subject import Subject, tensors

ABSENT = object()
NAN, INFINITE, FAR = float("nan"), float("inf"), 10**9


def check_wrong_rows(subject: Subject) -> None:
    """A wrong column of a row is refused by a ValueError, TypeError or OSError naming it, or harms no row beside it."""
    found = [*wrong_row_findings(subject)]
    assert not found, "the processor should say what is wrong, and with which column: " + "; ".join(found)


def wrong_row_findings(subject: Subject) -> Iterator[str]:
    """Yield one sentence for each wrong column that is neither refused by name nor taken without harm."""
    right = subject.rows[:2]
    model = None if subject.method.native else subject.model()
    for column, what, wrong in wrong_rows(right[-1]):
        told = f"{column} {what}"
        try:
            batch = encode(subject.example.processor, [right[0], wrong])
            with torch.no_grad():
                loss = torch.zeros(()) if model is None else model(**batch, row_seed=torch.arange(2)).loss
        except (ValueError, TypeError, OSError) as error:  # of a file that is not there
            if not re.search(rf"\b{re.escape(column)}\b", str(error)):
                yield f"{told} is refused without its name: {type(error).__name__}: {first_line(error)}"
        except Exception as error:  # whatever else comes from the depths is a finding
            yield f"{told} ends in {type(error).__name__}: {first_line(error)}"
        else:
            if harmed := _harmed(subject, right[0], batch):
                yield f"{told} is taken and changes {harmed} of the row beside it"
            if not loss.isfinite() and str(10**30) not in what:  # too large for the arithmetic, which training tells
                yield f"{told} is taken and gives a loss of {loss.item()}"


def _harmed(subject: Subject, row: Mapping[str, Any], batch: Mapping[str, Any]) -> str | None:
    """Return the name of a tensor in which the first row is not what it is by itself, None where all are."""
    alone = dict(tensors(encode(subject.example.processor, [copy.deepcopy(dict(row))])))
    for name, tensor in tensors(batch):
        same = name in alone and tensor.shape[1:] == alone[name].shape[1:] and len(tensor) == 2
        if same and not torch.equal(tensor[0], alone[name][0]) and not _both_nan(tensor[0], alone[name][0]):
            return name
    return None


def _both_nan(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.is_floating_point() and torch.equal(first.isnan(), second.isnan()) and bool(first.isnan().any())


def wrong_rows(row: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield a column, what is wrong with it, and the row, for all that may be wrong with each column of a row."""
    for column, value in row.items():
        for what, wrong in wrong_columns(value):
            other = copy.deepcopy(dict(row))
            if wrong is ABSENT:
                del other[column]
            else:
                other[column] = wrong
            yield column, what, other


def wrong_columns(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value may wrongly be, each with words for it."""
    yield "left out", ABSENT
    for wrong in (None, "seven", 7, -1, FAR, 10**30, 0.5, NAN, INFINITE, True, b"\x00\xff", [], {}, (), object()):
        if type(wrong) is not type(value):
            yield "as an object" if type(wrong) is object else f"as {wrong!r}", wrong
    for kind, more in OF_KINDS.items():
        if kind == type(value).__name__ or (kind == "picture" and hasattr(value, "getbands")):
            yield from more(value)


def _of_text(value: str) -> Iterator[tuple[str, Any]]:
    yield "as an empty text", ""
    yield "as blanks", " \t\n"
    yield "as a text of 100,000 words", "word " * 100_000
    yield "as a lone half of a character", "\ud800"
    yield "as a zero byte", "a\x00b"
    yield "as a list with None", [value, None]


def _of_number(value: float) -> Iterator[tuple[str, Any]]:
    yield "negative", -value - 1
    yield "as a word", "many"
    yield "in a list", [value]


def _of_list(value: list[Any]) -> Iterator[tuple[str, Any]]:
    if value:
        yield "without its last", value[:-1]
        yield "twice as long", value + value
        yield "with None for one", [*value[:-1], None]
        yield "with a word for one", [*value[:-1], "seven"]
        yield "with NaN for one", [*value[:-1], NAN]
        yield "in one more list", [value]


def _of_array(value: numpy.ndarray) -> Iterator[tuple[str, Any]]:
    if value.ndim and len(value):
        yield "without its last", value[:-1]
        yield "without any", value[:0]
        yield "without one dimension", value[0]
    yield "with one more dimension", value[..., None]
    yield "as words", value.astype(str)
    yield "as complex numbers", value.astype(complex)
    if value.dtype.kind == "f":
        yield "as NaN", numpy.full_like(value, NAN)
        yield "as infinity", numpy.full_like(value, INFINITE)


def _of_picture(value: Any) -> Iterator[tuple[str, Any]]:
    array = numpy.asarray(value)
    yield "of 1 x 1 pixels", value.resize((1, 1))
    yield "of 1000 x 1 pixels", value.resize((1000, 1))
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"):
        yield f"of mode {mode}", value.convert("L").convert(mode) if mode in ("I;16", "F") else value.convert(mode)
    yield "as an array of one dimension", array.reshape(-1)
    yield "as an array of four dimensions", array[None, ..., None] if array.ndim == 2 else array[None]
    yield "as an array without pixels", array[:0]
    yield "as an array of words", array.astype(str)
    yield "as an array of NaN", numpy.full(array.shape, NAN)
    yield "as the bytes of no picture", {"bytes": b"no picture", "path": None}
    yield "as a file that is not there", {"bytes": None, "path": "not-there.png"}
    yield "as a path that is not there", "not-there.png"


def _of_mapping(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        yield f"without its {key!r}", {name: each for name, each in value.items() if name != key}
        for what, wrong in wrong_columns(inner) if not isinstance(inner, dict) else ():
            if wrong is not ABSENT:
                yield f"with {key!r} {what}", {**value, key: wrong}


OF_KINDS: dict[str, Callable[[Any], Iterator[tuple[str, Any]]]] = {
    "str": _of_text,
    "int": _of_number,
    "float": _of_number,
    "list": _of_list,
    "ndarray": _of_array,
    "picture": _of_picture,
    "dict": _of_mapping,
}
