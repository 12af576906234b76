"""The `imputation` protocol of `hub-mim evaluate`: errors on hidden cells beside scikit-learn's imputers."""

from pathlib import Path
from typing import Any

from hub_mim.results import Result
from hub_mim_remasker.comparison import compare_imputers, overall
from hub_mim_remasker.imputation import ReMaskerImputer
from hub_mim_remasker.processing_remasker import as_frame


def imputation(
    model: Any, processor: Any, rows: list[dict[str, Any]], *, seed: int = 0, share: float = 0.1
) -> list[Result]:
    """Hide a share of the observed cells and measure every imputer on them.

    Args:
        model: a trained `ReMaskerForPreTraining`.
        processor: its processor.
        rows: list of dicts.
        seed: decides the cells.
        share: of the observed cells.
    Returns:
        Per imputer, the mean over columns of its error relative to that of the mean (or mode); 1 = no better. ReMasker
        knows the rows that it was trained on; scikit-learn's imputers learn from the judged rows alone.
    """
    imputer = ReMaskerImputer.from_trained(model, processor)
    frame = as_frame(rows)[[column.name for column in processor.fitted()]]
    errors = compare_imputers(frame, imputer.transform, share=share, seed=seed)
    return [
        Result(
            metric_type=f"relative-error-{name}",
            metric_name=f"error relative to mean/mode, {name}{'' if name == 'ReMasker' else ' fitted on the judged rows'}",
            metric_value=value,
            dataset_name="rows",
            task_type="tabular-regression",
        )
        for name, value in overall(errors).items()
    ]


def picture(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw rows of a table: with their hidden cells, as predicted, as they are; on the processor's scale.

    Args:
        model: a trained `ReMaskerForPreTraining`. processor: its processor.
        rows: list of dicts. path: picture to write. overwrite: replace one that is there.
        start: number of the first row, which with `seed` decides the masks.
    """
    import numpy as np
    import torch

    from hub_mim.masking import EVALUATION, row_seeds
    from hub_mim.pictures import masked_table

    batch = dict(processor(rows=rows))
    seeds = row_seeds(seed, EVALUATION, torch.arange(start, start + len(rows)))
    with torch.no_grad():
        output = model(**batch, row_seed=seeds)
    kinds = torch.tensor(model.config.cardinalities) > 0
    named = output.logits.argmax(-1) if output.logits is not None else None
    predicted = output.predictions.clone()
    values = torch.where(kinds, batch["codes"].float(), batch["values"]) if "codes" in batch else batch["values"]
    if named is not None and bool(kinds.any()):
        predicted[:, kinds] = named.float() if named.shape[1] == int(kinds.sum()) else named[:, kinds].float()
    original = np.where(batch["observed"].numpy(), values.numpy(), np.nan)
    names = [column.name for column in processor.modelled()]
    return masked_table(original, output.mask.numpy(), predicted.numpy(), path, names=names, overwrite=overwrite)
