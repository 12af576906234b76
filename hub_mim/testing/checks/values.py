"""Wrong arguments: each is refused by an error that names it, or does no harm.

The wrong arguments follow from the example's batch: from the dtype, the shape and the device of each tensor in it, of the mask
and of the row seeds. NaN in a tensor need not be refused, as looking for it would wait for the device: the loss tells of it.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hub_mim.files import first_line
from hub_mim.testing.subject import Subject, tensors

FAR = 10**9  # beyond every vocabulary, number of frames, or place


@dataclass(frozen=True)
class Wrong:
    """One argument that is not as it was.

    alike: the result must be the one of the right argument, or of `instead` in its place, or be of as many `rows`, unless the
    argument is refused.
    """

    name: str
    what: str
    value: Any
    alike: bool = True
    instead: Tensor | None = None
    rows: int | None = None


def check_wrong_values(subject: Subject) -> None:
    """A wrong dtype, shape, device or number is refused by a ValueError or TypeError naming the argument, or is harmless."""
    found = []
    for auto in ("AutoModel", "AutoModelForPreTraining"):
        model = subject.model(auto)
        given = subject.batch()
        if auto == "AutoModelForPreTraining":
            given |= {"mask": subject.mask(model), "row_seed": subject.seeds()}
        found += [f"{auto}: {told}" for told in findings(model, given)]
    assert not found, "check arguments by hub_mim.checking.takes: " + "; ".join(found)


def findings(model: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each wrong argument that a model neither refuses by name nor takes without harm."""
    right = _run(model, given)
    read = {*inspect.signature(model.forward).parameters, *getattr(model, "input_names", ())}
    for wrong in wrong_arguments({name: value for name, value in given.items() if name in read}):
        put = {wrong.name: wrong.value}
        told = f"{wrong.name} {wrong.what}"
        try:
            out = _run(model, {**given, **put})
        except (TypeError, ValueError) as error:
            if not re.search(rf"\b{wrong.name}\b", str(error)):
                yield f"{told} is refused without its name: {type(error).__name__}: {error}"
        except Exception as error:  # whatever else comes from the depths is a finding
            yield f"{told} ends in {type(error).__name__}: {first_line(error)}"
        else:
            wanted = right if wrong.instead is None else _run(model, {**given, wrong.name: wrong.instead})
            if wrong.alike and not _alike(out, wanted) and not _of_rows(out, right, wrong.rows):
                yield f"{told} is taken and changes the result"


def _run(model: Any, given: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(tensors(model(**given)))


def _alike(out: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return out.keys() == wanted.keys() and all(
        each.device == wanted[name].device
        and each.shape == wanted[name].shape
        and torch.allclose(each.double(), wanted[name].double(), rtol=1e-4, atol=1e-4, equal_nan=True)
        for name, each in out.items()
    )


def _of_rows(out: Mapping[str, Tensor], right: Mapping[str, Tensor], rows: int | None) -> bool:
    """Tell whether a result is of another number of rows: what was given is then a batch of its own."""
    return any(each.dim() and len(each) == rows != len(right[name]) for name, each in out.items() if name in right)


def wrong_arguments(given: Mapping[str, Any]) -> Iterator[Wrong]:
    """Yield what may go wrong with each tensor, and with each tensor of a mapping."""
    rows = max((len(each) for each in given.values() if isinstance(each, Tensor) and each.dim()), default=0)
    for name, value in given.items():
        if isinstance(value, Mapping):
            for key in value:
                for each in _wrong_tensors(name, value[key], rows):
                    yield Wrong(name, f"[{key!r}] {each.what}", {**value, key: each.value}, each.alike)
        elif isinstance(value, Tensor):
            yield from _wrong_tensors(name, value, rows)
            yield Wrong(name, "as None", None, alike=False)


def _wrong_tensors(name: str, value: Tensor, rows: int) -> Iterator[Wrong]:
    yield from _wrong_types(name, value)
    yield from _wrong_shapes(name, value, rows)
    yield Wrong(name, "on another device", value.to("meta"))
    yield from _wrong_numbers(name, value)


def _wrong_types(name: str, value: Tensor) -> Iterator[Wrong]:
    """Yield the same numbers as another type."""
    yield Wrong(name, "as a list", value.tolist())
    whole = value.nan_to_num().round() if value.is_floating_point() else value
    for kind in (torch.bool, torch.int64, torch.float64):
        if kind != value.dtype:
            other = whole.to(kind)
            yield Wrong(name, f"of {kind}", other, instead=other.to(value.dtype))


def _wrong_shapes(name: str, value: Tensor, rows: int) -> Iterator[Wrong]:
    """Yield one dimension too many or too few, and each one shorter, longer, cut to one and to nothing."""
    yield Wrong(name, "with one more dimension", value[..., None])
    yield Wrong(name, "with one dimension before", value[None])
    if value.numel() and value.dim():
        yield Wrong(name, "with one dimension less", value[0])
        yield Wrong(name, "as one number", value.flatten()[0])
    for place, size in enumerate(value.shape):
        batch = place == 0 and size == rows
        for other in sorted({0, 1, size + 1} - {size}):
            index = torch.arange(other).clamp(max=max(size - 1, 0))
            if size:
                cut = value.index_select(place, index)
                yield Wrong(name, f"of size {other} at {place}", cut, alike=batch, rows=other if batch else None)


def _wrong_numbers(name: str, value: Tensor) -> Iterator[Wrong]:
    """Yield numbers out of every range."""
    if value.dtype == torch.bool or not value.numel():
        return
    for number in (float("nan"), float("inf")) if value.is_floating_point() else (-7, FAR):
        yield Wrong(name, f"of {number} alone", torch.full_like(value, number), alike=False)
