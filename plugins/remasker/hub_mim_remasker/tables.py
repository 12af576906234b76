"""Read a table to be filled and write it back: what was observed keeps its text."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hub_mim.files import new_file
from hub_mim.reading import read_csv, table_kind


class Table:
    """A table file: the typed frame, and for text formats every cell as it stands in the file.

    Args:
        path: csv, tsv or parquet, csv and tsv also compressed.
    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, fewer than two rows or columns, no missing value, infinite values, or a column that
            mixes numbers and words; one sentence that names the place.
    """

    def __init__(self, path: str | Path, *, need_gaps: bool = True):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")
        self.kind = table_kind(self.path)
        if self.kind not in (".csv", ".tsv", ".parquet"):
            raise ValueError(f"{self.path} is no table; csv, tsv and parquet are read")
        self.separator = "\t" if self.kind == ".tsv" else ","
        self.text: pd.DataFrame | None = None
        if self.kind == ".parquet":
            self.frame = _read_parquet(self.path)
        else:
            self.frame = read_csv(self.path)
            self.text = pd.read_csv(self.path, sep=self.separator, dtype=str, keep_default_na=False, index_col=False)
            self._parse_words()
        self._check(need_gaps)

    def _parse_words(self) -> None:
        """Turn columns of ISO dates into dates; refuse columns that mix numbers and words."""
        for name in self.frame.columns:
            cells = self.frame[name]
            known = cells.dropna()
            if known.empty or not pd.api.types.is_string_dtype(cells.dtype):
                continue
            numbers = pd.to_numeric(known, errors="coerce")
            if numbers.notna().mean() > 0.5:
                odd = known[numbers.isna()]
                raise ValueError(
                    f"column {name!r} of {self.path} mixes numbers and words ({odd.iloc[0]!r} in row {odd.index[0] + 1}); "
                    "make it one type, or leave such cells empty"
                )
            if known.str.fullmatch(r"\d{4}-\d{2}-\d{2}([T ].*)?").all():
                self.frame[name] = _dates(cells)

    def _check(self, need_gaps: bool) -> None:
        rows, columns = self.frame.shape
        if rows < 2:
            raise ValueError(f"{self.path} has {rows} row; filling gaps needs at least 2")
        if columns < 2:
            raise ValueError(
                f"{self.path} has one column; gaps are filled from other columns, so at least 2 are needed"
            )
        for name in self.frame.columns:
            if pd.api.types.is_float_dtype(self.frame[name].dtype):
                infinite = np.isinf(self.frame[name].to_numpy(np.float64, na_value=np.nan))
                if infinite.any():
                    row = int(np.flatnonzero(infinite)[0]) + 1
                    raise ValueError(
                        f"column {name!r} of {self.path} holds an infinite value in row {row}; make it a number or empty"
                    )
        if need_gaps and not self.frame.isna().to_numpy().any():
            raise ValueError(f"{self.path} has no missing value: there is nothing to fill")

    def write(self, filled: pd.DataFrame, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the filled table atomically, in the format that the path's ending tells; observed text stays as it was."""
        path = Path(path)
        kind = table_kind(path)
        with new_file(path, overwrite=overwrite) as partial:
            if kind == ".parquet":
                filled.to_parquet(partial, index=False)
            else:
                self._as_text(filled).to_csv(partial, index=False, sep="\t" if kind == ".tsv" else ",")
        return path

    def _as_text(self, filled: pd.DataFrame) -> pd.DataFrame:
        if self.text is None:
            return filled
        result = self.text.copy()
        for name in filled.columns:
            gaps = (self.frame[name].isna() & filled[name].notna()).to_numpy()
            if gaps.any():
                result.loc[gaps, name] = _texts(filled[name][gaps], self.frame[name])
        return result


def check_target(path: Path) -> None:
    """Raise ValueError unless a table can be written under this name."""
    if table_kind(path) not in (".csv", ".tsv", ".parquet"):
        raise ValueError(f"cannot write {path}: the ending must be .csv, .tsv or .parquet")


def _read_parquet(path: Path) -> pd.DataFrame:
    from hub_mim.reading import read_path

    read_path(path)  # for its checks and sentences
    return pd.read_parquet(path)


def _dates(cells: pd.Series) -> pd.Series:
    try:
        return pd.to_datetime(cells, format="ISO8601")
    except ValueError:
        return cells


def _texts(cells: pd.Series, observed: pd.Series) -> Any:
    """Write filled cells as the observed ones are written: dates without a time, whole numbers without a point."""
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        known = observed.dropna()
        whole_days = (known == known.dt.normalize()).all()
        return cells.dt.strftime("%Y-%m-%d").to_numpy() if whole_days else [value.isoformat() for value in cells]
    if pd.api.types.is_float_dtype(cells.dtype):
        known = observed.dropna()
        if len(known) and (known == known.round()).all():
            return cells.round().astype("int64").astype(str).to_numpy()
        return [f"{value:.6g}" for value in cells]
    return cells.astype(str).to_numpy()
