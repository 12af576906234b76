"""Measure imputers on cells that are hidden from all of them alike: ReMasker beside mean or mode, KNN, iterative."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hub_mim_remasker.columns import Column
from hub_mim_remasker.processing_remasker import ReMaskerProcessor

MAX_ROWS = 5_000  # scikit-learn's imputers take minutes beyond; the comparison then uses this many rows
RIVALS = ("mean/mode", "KNN(5)", "iterative")


@dataclass(frozen=True)
class ColumnError:
    """Errors of each imputer on one column: root mean squared in its own unit (days for dates), or share wrong."""

    column: Any
    kind: str
    missing: int
    held_out: int
    errors: dict[str, float]


def hide_cells(frame: pd.DataFrame, columns: list[Any], share: float, seed: int) -> np.ndarray:
    """Choose observed cells to hide, at most every second one of a row, at least two of each column staying.

    Args:
        frame: the table.
        columns: names of the columns to hide cells of.
        share: of their observed cells, in (0, 1).
        seed: decides which.
    Returns:
        Bool (rows, columns of the frame), True = hidden.
    """
    random = np.random.default_rng([seed, 1])  # not the stream that may have made the table's own gaps
    observed = frame.notna().to_numpy() & frame.columns.isin(columns)[None, :]
    noise = np.where(observed, random.random(observed.shape), np.inf)
    rank = noise.argsort(1).argsort(1)
    hidden = (noise < share) & (rank < (frame.notna().to_numpy().sum(1) // 2)[:, None])
    for place in range(hidden.shape[1]):
        surplus = hidden[:, place].sum() - max(0, observed[:, place].sum() - 2)
        if surplus > 0:
            hidden[np.flatnonzero(hidden[:, place])[:surplus], place] = False
    return hidden


def compare_imputers(
    frame: pd.DataFrame, fill: Callable[[pd.DataFrame], pd.DataFrame], *, share: float = 0.1, seed: int = 0
) -> list[ColumnError]:
    """Hide cells, let ReMasker and scikit-learn's imputers fill them, and measure.

    Args:
        frame: the table with its own gaps; of more than `MAX_ROWS` rows, that many are drawn.
        fill: ReMasker: returns the table filled. It sees the table without the hidden cells.
        share: of the observed cells to hide.
        seed: decides cells and rows.
    Returns:
        One entry per modelled column of which cells were hidden.
    """
    if len(frame) > MAX_ROWS:
        frame = frame.sample(MAX_ROWS, random_state=seed)
    processor = ReMaskerProcessor().fit(frame)
    columns = processor.modelled()
    hidden = hide_cells(frame, [column.name for column in columns], share, seed)
    visible = frame.mask(pd.DataFrame(hidden, index=frame.index, columns=frame.columns))
    visible = visible.astype(_kept_dtypes(frame, visible))
    filled = {"ReMasker": fill(visible)} | dict(_rivals(visible, seed))
    places = {name: place for place, name in enumerate(frame.columns)}
    found = []
    for column in columns:
        cells = hidden[:, places[column.name]]
        if cells.any():
            errors = {
                name: _error(column, frame[column.name][cells], table[column.name][cells])
                for name, table in filled.items()
            }
            missing = int(frame[column.name].isna().sum())
            found.append(ColumnError(column.name, column.kind, missing, int(cells.sum()), errors))
    return found


def overall(errors: list[ColumnError]) -> dict[str, float]:
    """Return each imputer's mean over columns of its error divided by that of the mean (or mode)."""
    names = list(errors[0].errors) if errors else []
    base = {error.column: error.errors["mean/mode"] or 1.0 for error in errors}
    return {name: float(np.mean([e.errors[name] / base[e.column] for e in errors])) for name in names}


def _kept_dtypes(frame: pd.DataFrame, visible: pd.DataFrame) -> dict[Any, Any]:
    """Return the dtypes that hiding cells changed and that can hold gaps."""
    keep = {}
    for name in frame.columns:
        before, after = frame[name].dtype, visible[name].dtype
        if before != after and not (pd.api.types.is_integer_dtype(before) or pd.api.types.is_bool_dtype(before)):
            keep[name] = before
    return keep


def _rivals(visible: pd.DataFrame, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield scikit-learn's imputers' fillings; categories are given to them as one column per level."""
    import warnings

    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (makes IterativeImputer importable)
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    processor = ReMaskerProcessor().fit(visible)
    table = one_hot(processor, visible)
    imputers = (SimpleImputer(), KNNImputer(n_neighbors=5), IterativeImputer(random_state=seed))
    for name, imputer in zip(RIVALS, imputers, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ten rounds did not converge: ten is its default
            yield name, from_one_hot(processor, visible, imputer.fit_transform(table))


def one_hot(processor: ReMaskerProcessor, frame: pd.DataFrame) -> np.ndarray:
    """Return the modelled columns as numbers with NaN at gaps, a categorical one as 0 and 1 per level."""
    encoded = processor(frame, return_tensors="np")
    parts = []
    for place, column in enumerate(processor.modelled()):
        gaps = ~encoded["observed"][:, place : place + 1]
        if column.cardinality:
            block = np.eye(column.cardinality)[encoded["codes"][:, place]]
        else:
            block = encoded["values"][:, place : place + 1].astype(np.float64)
        parts.append(np.where(gaps, np.nan, block))
    return np.concatenate(parts, 1)


def from_one_hot(processor: ReMaskerProcessor, frame: pd.DataFrame, table: np.ndarray) -> pd.DataFrame:
    """Fill the gaps of a table from what `one_hot` made, filled by another imputer."""
    columns = processor.modelled()
    values, codes = np.zeros((len(frame), len(columns))), np.zeros((len(frame), len(columns)), np.int64)
    start = 0
    for place, column in enumerate(columns):
        width = max(1, column.cardinality)
        block = table[:, start : start + width]
        if column.cardinality:
            codes[:, place] = block.argmax(1)
        else:
            values[:, place] = block[:, 0]
        start += width
    return processor.decode(frame, values, codes)


def _error(column: Column, truth: pd.Series, guess: pd.Series) -> float:
    if column.kind == "category":
        return float((truth.astype(object) != guess.astype(object)).mean())
    if column.kind == "datetime":
        return float(np.sqrt(np.mean(((truth - guess).dt.total_seconds() / 86_400) ** 2)))
    return float(np.sqrt(np.mean((truth.astype(float) - guess.astype(float)) ** 2)))
