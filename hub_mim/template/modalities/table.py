"""From rows of numbers to cells: values (B, L, 1), coordinates (B, L, P), attention_mask (B, L), False where missing."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

EXAMPLE: dict[str, Any] = {"columns": ["a", "b", "c", "d", "e"], "means": [0.0] * 5, "spreads": [2.0] * 5}
FIXED = ("num_channels",)  # configuration fields that follow from the processor alone


class MyMethodProcessor(ProcessorMixin):
    """Scale the numeric columns of a table; `fit` learns their names, means and spreads.

    Args:
        columns: names, in order.
        means: of the columns.
        spreads: standard deviations of the columns.
    """

    def __init__(
        self,
        columns: Sequence[str] = ("a", "b", "c", "d"),
        means: Sequence[float] = (),
        spreads: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.columns, self.means, self.spreads = list(columns), list(means), list(spreads)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def fit(self, rows: Any) -> "MyMethodProcessor":
        """Learn the columns of a table: a list of dicts or a `datasets.Dataset`."""
        records = [dict(row) for row in rows]
        self.columns = list(records[0])
        table = torch.tensor([[number(row.get(name)) for name in self.columns] for row in records])
        self.means = table.nanmean(0).nan_to_num(0.0).tolist()
        spreads = (table - torch.tensor(self.means)).square().nanmean(0).sqrt()
        self.spreads = torch.where(spreads > 0, spreads, 1.0).tolist()
        return self

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that follow from the table."""
        return {"num_channels": 1, "num_coordinates": len(self.columns)}

    def __call__(self, rows: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows: dicts of numbers by column; None and NaN are missing."""
        if not any(name in row for row in rows for name in self.columns):
            raise ValueError(f"the rows have none of the columns {self.columns}")
        table = torch.tensor([[number(row.get(name)) for name in self.columns] for row in rows])
        there = ~table.isnan()
        scaled = (table - torch.tensor(self.means)) / torch.tensor(self.spreads)
        values = scaled.masked_fill(~there, 0.0)[:, :, None]
        coordinates = torch.eye(len(self.columns)).expand(len(table), -1, -1).clone()
        return BatchFeature({"values": values, "coordinates": coordinates, "attention_mask": there})


def number(cell: Any) -> float:
    """Return a cell as a number, NaN where there is none."""
    return math.nan if cell is None else float(cell)


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows whose columns follow from two hidden numbers, every ninth cell missing."""
    source = random.Random(seed)
    rows = []
    for place in range(count):
        u, v = source.gauss(0, 1), source.gauss(0, 1)
        row = dict(zip("abcde", (u + v, u - v, 2 * u, u * v, v), strict=True))
        rows.append({name: None if (5 * place + i) % 9 == 4 else value for i, (name, value) in enumerate(row.items())})
    return rows


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge of what users have."""
    return {
        "nothing observed": [dict.fromkeys("abcde")],
        "one cell": [{"a": 1.0}],
        "no such column": [{"z": 1.0}],
    }
