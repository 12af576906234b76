"""From a table to ReMasker's tensors and back: column kinds, scaling, levels, the gaps of the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import BatchFeature, ProcessorMixin

from hub_mim_remasker.columns import Column, fit_column
from hub_mim_remasker.gaussian import MAX_COLUMNS, fit_gaussian


class ReMaskerProcessor(ProcessorMixin):
    """Learn the columns of a table (`fit`), encode rows, write predictions into the gaps.

    Args:
        columns: what `fit` learned, one dict per column; see `columns.Column`.
        patterns: rows of the fitted table as the modelled columns that they lack; see `ReMaskerConfig.patterns`.
        scaling: of numeric columns, "minmax" (the authors') or "standard".
        max_levels: a column of strings with more levels is not modelled; its gaps get the most frequent value.
        max_patterns: rows to keep in `patterns`, drawn with a fixed seed from larger tables.
        gaussian: mean and covariance of the scaled columns; see `gaussian.py`.
        residuals: errors on held-out cells of each modelled column, on the model's scale; what sampling draws from.
    """

    encode_once = True

    def __init__(
        self,
        columns: Sequence[dict[str, Any]] = (),
        patterns: Sequence[Sequence[int]] = (),
        scaling: str = "minmax",
        max_levels: int = 100,
        max_patterns: int = 512,
        residuals: Sequence[Sequence[float]] = (),
        gaussian: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if scaling not in ("minmax", "standard"):
            raise ValueError(f"scaling is {scaling!r}; it must be 'minmax' or 'standard'")
        self.columns = [dict(column) for column in columns]
        self.patterns = [list(pattern) for pattern in patterns]
        self.scaling, self.max_levels, self.max_patterns = scaling, max_levels, max_patterns
        self.residuals = [list(errors) for errors in residuals]
        self.gaussian = dict(gaussian or {})

    @classmethod
    def for_config(cls, fields: Mapping[str, Any]) -> "ReMaskerProcessor":
        """Return a processor that scales as the configuration with these fields needs: sigmoid outputs take [0, 1]."""
        bounded = fields.get("legacy") or fields.get("output", "sigmoid") == "sigmoid"
        return cls(scaling="minmax" if bounded else "standard")

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        return ["values", "codes", "observed"]

    def fit(self, rows: Any, *, constant: bool = False) -> "ReMaskerProcessor":
        """Learn every column and the pattern of gaps from a table.

        Args:
            rows: DataFrame, `datasets.Dataset`, list of dicts, or a two-dimensional array.
            constant: accept a table in which no column varies.
        Raises:
            ValueError: a column mixes types or holds infinite values, names are not unique, or no column varies.
        """
        frame = as_frame(rows)
        fitted = [
            fit_column(name, frame.iloc[:, place], scaling=self.scaling, max_levels=self.max_levels)
            for place, name in enumerate(frame.columns)
        ]
        if not constant and not any(column.modelled for column in fitted):
            raise ValueError("no column of the table varies: there is nothing to learn from")
        self.columns = [column.to_dict() for column in fitted]
        values, _, observed = self._encode(frame)
        self.gaussian = self.normal_model(values, observed)
        chosen = np.arange(len(frame))
        if len(chosen) > self.max_patterns:
            chosen = np.random.default_rng(0).choice(len(frame), self.max_patterns, replace=False)
        self.patterns = [np.flatnonzero(~row).tolist() for row in observed[chosen]]
        return self

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the table decides."""
        fields = {"cardinalities": [column.cardinality for column in self.modelled()], "patterns": self.patterns}
        return fields | {f"gaussian_{name}": value for name, value in self.gaussian.items()}

    def normal_model(self, values: np.ndarray, observed: np.ndarray) -> dict[str, Any]:
        """Return mean and covariance of encoded numeric columns, 0 for categorical ones; nothing for wide tables.

        Args:
            values: (rows, L), scaled.
            observed: bool (rows, L).
        """
        numeric = np.array([not column.cardinality for column in self.modelled()], bool)
        if not 0 < numeric.sum() <= MAX_COLUMNS:
            return {}
        mean, covariance = np.zeros(len(numeric)), np.zeros((len(numeric), len(numeric)))
        part, whole = fit_gaussian(values[:, numeric], observed[:, numeric])
        mean[numeric], covariance[np.ix_(numeric, numeric)] = part, whole
        return {"mean": mean.astype(np.float32).tolist(), "covariance": covariance.astype(np.float32).tolist()}

    def fitted(self) -> list[Column]:
        """Return all columns.

        Raises:
            ValueError: the processor was not fitted.
        """
        if not self.columns:
            raise ValueError("the processor has seen no table yet; call fit(rows), or load a trained one")
        return [Column(**column) for column in self.columns]

    def modelled(self) -> list[Column]:
        """Return the columns that the model sees, in its order."""
        return [column for column in self.fitted() if column.modelled]

    def __call__(self, rows: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Encode rows.

        Args:
            rows: as in `fit`; columns are found by name, further ones are ignored.
            return_tensors: "pt" or "np".
            kwargs: ignored.
        Returns:
            values: float32 (B, L), scaled, 0 where missing or categorical. codes: int64 (B, L), levels, 0 elsewhere.
            observed: bool (B, L).
        Raises:
            ValueError: a column is missing; the message names it and those present.
        """
        values, codes, observed = self._encode(as_frame(rows))
        return BatchFeature({"values": values, "codes": codes, "observed": observed}, tensor_type=return_tensors)

    def _encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns = self.modelled()
        missing = [column.name for column in columns if column.name not in frame.columns]
        if missing:
            present = ", ".join(map(str, frame.columns))
            raise ValueError(f"the table lacks the columns {missing}; it has {present}")
        values = np.zeros((len(frame), len(columns)), np.float32)
        codes = np.zeros((len(frame), len(columns)), np.int64)
        observed = np.zeros((len(frame), len(columns)), bool)
        for place, column in enumerate(columns):
            numbers, observed[:, place] = column.encode(frame[column.name])
            (codes if column.cardinality else values)[:, place] = numbers
        return values, codes, observed

    def decode(self, rows: Any, predictions: Any, codes: Any = None) -> pd.DataFrame:
        """Fill the gaps of a table; cells that are there stay bit for bit.

        Args:
            rows: the table that was encoded.
            predictions: float (B, L), scaled values for numeric columns.
            codes: int (B, L), levels for categorical columns.
        Returns:
            A new DataFrame with the index, columns and dtypes of `rows`; a dtype that cannot hold what is filled in
            is widened. Columns that are empty stay missing.
        """
        frame = as_frame(rows).copy()
        places = {column.name: place for place, column in enumerate(self.modelled())}
        predictions = np.asarray(predictions, np.float64)
        for column in self.fitted():
            gaps = frame[column.name].isna().to_numpy()
            if not gaps.any() or column.kind == "empty":
                continue
            if column.modelled:
                source = np.asarray(codes) if column.cardinality else predictions
                filling = column.decode(source[gaps, places[column.name]])
            else:
                filling = [_typed(column.fill, frame[column.name])] * int(gaps.sum())
            frame[column.name] = _filled(frame[column.name], gaps, filling)
        return frame

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save what was learned as JSON beside a model; see `ProcessorMixin.save_pretrained`."""
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def as_frame(rows: Any) -> pd.DataFrame:
    """Return a table as a DataFrame with unique column names; arrays get the names x0, x1, ...

    Raises:
        ValueError: column names are not unique, or the array is not two-dimensional.
    """
    if isinstance(rows, pd.DataFrame):
        frame = rows
    elif hasattr(rows, "to_pandas"):
        frame = rows.to_pandas()
    elif isinstance(rows, np.ndarray | torch.Tensor):
        table = np.asarray(rows)
        if table.ndim != 2:
            raise ValueError(f"a table has two dimensions, this array has {table.ndim}")
        frame = pd.DataFrame(table, columns=[f"x{place}" for place in range(table.shape[1])])
    else:
        frame = pd.DataFrame(list(rows))
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"more than one column is called {twice[0]!r}; give each its own name")
    objects = [place for place, dtype in enumerate(frame.dtypes) if pd.api.types.is_object_dtype(dtype)]
    return frame.infer_objects() if objects else frame


def _filled(cells: pd.Series, gaps: np.ndarray, filling: Any) -> pd.Series:
    """Return the cells with the gaps filled, in their own dtype where it can hold the filling."""
    filling = pd.Series(filling, index=cells.index[gaps])
    if isinstance(cells.dtype, pd.CategoricalDtype) or pd.api.types.is_object_dtype(cells.dtype):
        filling = filling.astype(object)
    elif filling.dtype != cells.dtype:
        filling = filling.astype(cells.dtype)
    result = cells.copy()
    result.iloc[np.flatnonzero(gaps)] = filling.to_numpy()
    return result


def _typed(value: Any, cells: pd.Series) -> Any:
    return pd.Timestamp(value) if pd.api.types.is_datetime64_any_dtype(cells.dtype) else value
