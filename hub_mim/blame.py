"""Which row of a batch, and which of its columns, is why it cannot be encoded: any processor's error, told with both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hub_mim.files import first_line

WRONG = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError)
Row = dict[str, Any]


def blamed(
    error: Exception, made: Callable[[list[Row]], Any], rows: Sequence[Row], numbers: Sequence[Any]
) -> Exception:
    """Return an error with the row and the column that are to blame in its message; as it was where nothing is found.

    Rows are made again, fewer and fewer of them, to find the one; then it, with each of its columns as in another row.

    Args:
        error: of a processor. made: what raised it, called with rows.
        rows: the batch. numbers: what its rows are called.
    """
    import torch

    whole = [dict(row) for row in rows]
    place = None if isinstance(error, torch.OutOfMemoryError) else _first_wrong(made, whole)
    if place is None:
        return error
    context = [] if _fails(made, [whole[place]]) else whole[:place]
    found = _fails(made, [*context, whole[place]]) or error
    told = re.sub(rf"\brow {len(context)}\b", f"row {numbers[place]}", first_line(found))
    column = _wrong_column(made, whole, place, context, found)
    before = [] if f"row {numbers[place]}" in told else [f"row {numbers[place]}"]
    if column is not None and not re.search(rf"\b{re.escape(column)}\b", told):
        before.append(f"column {column!r}")
    kind = next((kind for kind in (TypeError, OSError) if isinstance(error, kind)), ValueError)
    return kind(f"{', '.join(before)}: {told}" if before else told)


def _fails(made: Callable[[list[Row]], Any], rows: list[Row]) -> Exception | None:
    try:
        made(rows)
    except WRONG as error:
        return error
    return None


def _first_wrong(made: Callable[[list[Row]], Any], rows: list[Row]) -> int | None:
    """Return the place of the row with which the rows up to it cannot be made any more, None if all can."""
    if not _fails(made, rows):
        return None
    good, bad = 0, len(rows)  # so many rows can be made, and so many cannot
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if _fails(made, rows[:middle]) else (middle, bad)
    return bad - 1


def _wrong_column(
    made: Callable[[list[Row]], Any], rows: list[Row], place: int, context: list[Row], error: Exception
) -> str | None:
    """Return the column of a row without whose value it can be made, or the only one without which the error is another."""
    row = rows[place]
    if len(row) == 1:
        return next(iter(row))
    others = rows[:place] or [each for each in rows if each is not row]
    donor = next((each for each in others if not _fails(made, [each])), {})
    changed = []
    for name in row:
        other = {key: value for key, value in row.items() if key != name}
        still = _fails(made, [*context, other | {name: donor[name]} if name in donor else other])
        if still is None:
            return name
        if str(still) != str(error):
            changed.append(name)
    return changed[0] if len(changed) == 1 else None
