"""The `imputation` protocol of `hub-mim evaluate`: errors on hidden cells beside scikit-learn's imputers."""

from typing import Any

from hub_mim.evaluation import Result
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
