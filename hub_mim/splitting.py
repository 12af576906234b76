"""Part rows into those to train on and those held out, the same ones for every caller that says the same seed."""

import hashlib
from functools import partial
from typing import Any


def hold_out(method: Any, rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Part rows for a method: by its own `hold_out`, where it has one; see `split_rows`."""
    from hub_mim.method import resolve

    own = resolve(method.hold_out) if method is not None and method.hold_out else split_rows
    parts: tuple[Any, Any] = own(rows, share, seed)
    return parts


def split_rows(rows: Any, validation: float = 0.1, seed: int = 0) -> tuple[Any, Any]:
    """Part rows into a training and a validation set, decided by the seed; both keep the rows' order.

    Args:
        rows: a Dataset, of which exactly `round(validation * rows)`, at least one, are held out; or a stream, whose row
            is held out by a hash of the seed, its shard and its number there, so that the share is met on average, whoever
            reads it, and both parts (`stream_rows.Part`) read the whole stream.
        validation: share held out, in [0, 1); 0 gives None as the second.
        seed: decides which rows.
    Raises:
        ValueError: the share is out of range, or there are too few rows to part.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"the validation share is {validation}; it must be at least 0 and less than 1")
    if validation == 0:
        return rows, None
    if not hasattr(rows, "__len__"):
        from hub_mim.stream_rows import Part

        side = partial(_is_on, share=validation, seed=seed)
        return Part(rows, partial(side, held_out=False)), Part(rows, partial(side, held_out=True))
    if len(rows) < 2:
        raise ValueError(f"there is {len(rows)} row; at least 2 are needed to hold one out, or use --validation 0")
    import numpy

    count = min(len(rows) - 1, max(1, round(len(rows) * validation)))
    order = numpy.random.default_rng(seed).permutation(len(rows))
    return rows.select(numpy.sort(order[count:])), rows.select(numpy.sort(order[:count]))


def _is_on(index: int, *, held_out: bool, share: float, seed: int) -> bool:
    drawn = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(drawn, "big") < share * 2**64) == held_out
