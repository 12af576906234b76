"""One table column: what kind it is, how its cells become numbers in [0, 1] or level codes, and back.

Observed cells are never written back: only missing ones are, so large integers and exact floats stay as they were.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

NUMERIC = ("number", "integer", "datetime")
MODELLED = (*NUMERIC, "category")
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_STEPS = (86_400, 3_600, 60, 1)  # seconds: a column of whole days is imputed with whole days


@dataclass
class Column:
    """What was learned about one column.

    Attributes:
        name: of the column.
        kind: "number", "integer" (also floats that are all whole), "datetime", "category" (also booleans), "text" (too
            many levels to model), "constant", or "empty".
        dtype: the column's dtype when it was fitted.
        low: smallest value; an exact integer for integers and datetimes (in units since 1970).
        high: largest value.
        center: subtracted from a value before division by `scale`.
        scale: see `center`.
        step: spacing of valid values, 0 = any.
        levels: the categories, most of them strings, booleans or integers.
        fill: what a gap gets in a column that is not modelled; None leaves it missing.
    """

    name: Any
    kind: str
    dtype: str
    low: Any = None
    high: Any = None
    center: float = 0.0
    scale: float = 1.0
    step: int = 0
    levels: list[Any] = field(default_factory=list)
    fill: Any = None

    @property
    def modelled(self) -> bool:
        """Whether the model sees this column."""
        return self.kind in MODELLED

    @property
    def cardinality(self) -> int:
        """Number of levels; 0 for numeric columns."""
        return len(self.levels) if self.kind == "category" else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def encode(self, cells: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Return float64 (rows,): scaled values or level codes, and bool (rows,): which are known.

        A category that was not seen in fitting counts as missing.
        """
        if self.kind == "category":
            codes = pd.Index(self.levels, dtype=object).get_indexer(pd.Index(_plain(cells), dtype=object))
            return codes.clip(min=0).astype(np.float64), codes >= 0
        known = cells.notna().to_numpy()
        numbers = self._offsets(cells, known)
        return np.where(known, (numbers - self.center) / self.scale, 0.0), known

    def decode(self, values: np.ndarray) -> Any:
        """Return raw values for scaled values or level codes: valid ones, within what was observed."""
        if self.kind == "category":
            return _as_dtype(np.array(self.levels, dtype=object)[values.astype(np.int64)], self.dtype)
        span = float(self.high - self.low)
        offsets = np.clip(values * self.scale + self.center, 0.0, span)
        if not self.step:
            return offsets + self.low
        whole = np.rint(offsets / self.step).astype(np.int64) * self.step + self.low
        return _as_time(whole, self.dtype) if self.kind == "datetime" else whole

    def _offsets(self, cells: pd.Series, known: np.ndarray) -> np.ndarray:
        """Return float64 distances from `low`, taken before rounding to float64, so that large integers stay apart."""
        if self.kind == "number":
            return _floats(cells, self.name) - self.low
        numbers = np.zeros(len(cells), dtype=np.int64)
        numbers[known] = _integers(cells[known], self.kind)
        return np.where(known, (numbers - self.low).astype(np.float64), np.nan)


def fit_column(name: Any, cells: pd.Series, *, scaling: str, max_levels: int) -> Column:
    """Learn one column.

    Args:
        name: of the column.
        cells: its cells; None, NaN, NaT and pd.NA are missing.
        scaling: "minmax" maps the observed range to [0, 1] (the authors'); "standard" maps the mean to 0.5 and two
            standard deviations to either end.
        max_levels: a column of strings with more levels than this is text.
    Raises:
        ValueError: the column mixes types or holds an infinite value.
    """
    known = cells.dropna()
    if known.empty:
        return Column(name, "empty", str(cells.dtype))
    kind = kind_of(name, known)
    if kind == "category":
        return _fit_category(name, cells, known, max_levels)
    numbers = _floats(known, name) if kind == "number" else _integers(known, kind)
    low, high = numbers.min(), numbers.max()
    if low == high:
        return Column(name, "constant", str(cells.dtype), fill=_json(known.iloc[0]))
    offsets = (numbers - low).astype(np.float64)
    if scaling == "standard":
        scale = 4.0 * float(offsets.std())
        center = float(offsets.mean()) - 0.5 * scale
    else:
        center, scale = 0.0, float(offsets.max()) + (1e-8 if kind == "number" else 0.0)  # the authors' epsilon
    step = 0 if kind == "number" else 1 if kind == "integer" else _time_step(numbers, cells)
    return Column(name, kind, str(cells.dtype), low.item(), high.item(), center, scale, step)


def kind_of(name: Any, known: pd.Series) -> str:
    """Return "number", "integer", "datetime" or "category" for the known cells of a column.

    Raises:
        ValueError: the column mixes types.
    """
    if isinstance(known.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(known.dtype):
        return "category"
    if pd.api.types.is_datetime64_any_dtype(known.dtype):
        return "datetime"
    if pd.api.types.is_integer_dtype(known.dtype):
        return "integer"
    if pd.api.types.is_float_dtype(known.dtype):
        values = _floats(known, name)
        return "integer" if np.all(values == np.rint(values)) and np.abs(values).max() < 2**53 else "number"
    types = {type(value) for value in known}
    if len(types) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in types))
        raise ValueError(f"column {name!r} mixes types ({names}); make it one type")
    if issubclass(types.pop(), str | bool | np.bool_):
        return "category"
    raise ValueError(
        f"column {name!r} holds {type(known.iloc[0]).__name__} values; tables hold numbers, text, truth values and dates"
    )


def _fit_category(name: Any, cells: pd.Series, known: pd.Series, max_levels: int) -> Column:
    plain = _plain(known)
    levels = sorted(set(plain)) if not isinstance(cells.dtype, pd.CategoricalDtype) else list(dict.fromkeys(plain))
    if isinstance(cells.dtype, pd.CategoricalDtype):
        order = {value: place for place, value in enumerate(_plain(pd.Series(cells.cat.categories)))}
        levels.sort(key=order.__getitem__)
    most = pd.Series(plain, dtype=object).mode().iloc[0]
    if len(levels) == 1:
        return Column(name, "constant", str(cells.dtype), fill=_json(levels[0]))
    if len(levels) > max_levels:
        return Column(name, "text", str(cells.dtype), fill=_json(most))
    return Column(name, "category", str(cells.dtype), levels=[_json(level) for level in levels])


def _plain(cells: pd.Series) -> list[Any]:
    """Return cells as Python values, None where missing."""
    return [
        None if missing else _json(value) for value, missing in zip(cells.astype(object), cells.isna(), strict=True)
    ]


def _json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def _floats(cells: pd.Series, name: Any) -> np.ndarray:
    numbers = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise ValueError(
            f"column {name!r} holds an infinite value in row {row + 1}; make it a number or leave it empty"
        )
    return numbers


def _integers(known: pd.Series, kind: str) -> np.ndarray:
    if kind != "datetime":
        return known.to_numpy(dtype=np.int64)
    return known.astype("int64").to_numpy()


def _time_step(numbers: np.ndarray, cells: pd.Series) -> int:
    unit = _UNITS[_unit(str(cells.dtype))]
    return next((seconds * unit for seconds in _STEPS if not (numbers % (seconds * unit)).any()), 1)


def _unit(dtype: str) -> str:
    return dtype.partition("[")[2].partition("]")[0].partition(",")[0]


def _as_time(numbers: np.ndarray, dtype: str) -> Any:
    times = pd.DatetimeIndex(numbers.astype(f"datetime64[{_unit(dtype)}]"))
    zone = dtype.partition(",")[2].strip(" ]")
    return times.tz_localize("UTC").tz_convert(zone) if zone else times


def _as_dtype(values: np.ndarray, dtype: str) -> Any:
    return values.astype(bool) if dtype == "bool" else values
