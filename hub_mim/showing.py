"""Show what a checkpoint makes of rows: with their mask, as predicted, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_mim.checking import takes
from hub_mim.method import resolve, suggest

MAX_SHOWN = 40
WHAT = ("prediction", "attention", "embedding")


@takes(row=">=0", count=">=1", seed=">=0")
def show(
    source: str | Path,
    data: Any,
    out: str | Path,
    *,
    row: int = 0,
    count: int = 4,
    columns: Mapping[str, str] | None = None,
    features: Any = None,
    split: str | None = None,
    seed: int = 0,
    what: str = "prediction",
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Draw rows of a source: masked, predicted, original; or where the model looks; or where it puts the rows.

    Args:
        source: folder or Hub id of a pre-training checkpoint.
        data: see `data.load_rows`.
        out: picture to write, by its ending.
        row: number of the first row. count: how many.
        columns, split: see `data.load_rows`. features: see `data.load_for`.
        seed: of the masks, the evaluation's own.
        what: one of `WHAT`. options: `layer` of the attention, `label` of the embedding; see `maps`.
        overwrite: replace a picture that is there.
    Returns:
        The picture.
    Raises:
        ValueError: the row is not there, or the method has no picture and its predictions do not have its input's shape.
        FileExistsError: `out` is there and `overwrite` is false.
    """
    from hub_mim import loading, maps
    from hub_mim.data import as_records, load_for
    from hub_mim.evaluation import method_of
    from hub_mim.files import refuse_overwrite

    if what not in WHAT:
        raise ValueError(f"nothing called {what!r} can be shown{suggest(what, WHAT)}; there are {', '.join(WHAT)}")
    refuse_overwrite(out, overwrite)
    method = method_of(source)
    rows = load_for(method, data, features=features, split=split, columns=columns)
    if not 0 <= row < len(rows):
        raise ValueError(f"there is no row {row}; the rows are 0 to {len(rows) - 1}")
    if what != "prediction":
        many = min(count, MAX_SHOWN)
        return maps.draw(what, source, rows, Path(out), row=row, count=many, overwrite=overwrite, options=options)
    model = loading.load(source, auto="AutoModelForPreTraining").eval()
    processor = loading.load_processor(source)
    chosen = as_records(rows.select(range(row, min(row + min(count, MAX_SHOWN), len(rows)))))
    draw = resolve(method.picture) if method is not None and method.picture else draw_tokens
    return Path(draw(model, processor, chosen, Path(out), start=row, seed=seed, overwrite=overwrite))


def draw_tokens(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw any method's rows as maps of numbers, tokens by channels; for methods that declare no picture.

    Raises:
        ValueError: the predictions do not have the shape of the main input.
    """
    import torch

    from hub_mim.data import encode
    from hub_mim.evaluation import _draws
    from hub_mim.pictures import masked_tokens

    batch = encode(processor, rows)
    with torch.no_grad():
        output = model(**batch, **_draws(model, seed, start, len(rows)))
    values, predictions = batch[model.main_input_name], output.get("predictions")
    if predictions is None or predictions.shape != values.shape or values.dim() not in (2, 3):
        raise ValueError(
            f"{type(model).__name__} predicts something of another shape than its input; its plugin needs a `picture`"
        )
    names = [f"row {number}" for number in range(start, start + len(rows))]
    return masked_tokens(
        values.numpy(), output.mask.numpy(), predictions.numpy(), path, names=names, overwrite=overwrite
    )
