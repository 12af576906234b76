"""From a table with gaps to a filled one: train, compare on held-out cells, write table, model and picture."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hub_mim.files import refuse_overwrite
from hub_mim_remasker.comparison import ColumnError, compare_imputers, overall
from hub_mim_remasker.imputation import ReMaskerImputer
from hub_mim_remasker.tables import Table, check_target

HELD_OUT = 0.1
JOBS = min(2, os.cpu_count() or 1)  # trainings at a time that the cores allow; there are never more than two


@dataclass
class Filling:
    """A filled table, what filled it, and how it did on cells held out."""

    tables: list[pd.DataFrame]
    imputer: ReMaskerImputer
    comparison: list[ColumnError] = field(default_factory=list)
    explanation: str = ""
    files: dict[str, Path] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "comparison": [asdict(error) for error in self.comparison],
            "relative_to_mean": overall(self.comparison),
            "explanation": self.explanation,
            "files": {name: str(path) for name, path in self.files.items()},
        }


def fill_table(
    frame: pd.DataFrame,
    imputer: ReMaskerImputer,
    *,
    trained: bool = False,
    n_imputations: int = 1,
    compare: bool = True,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Filling:
    """Fill a table; unless `trained`, the imputer is fitted on all of its observed cells.

    The comparison hides a tenth of the observed cells first; a second imputer with the same parameters is trained
    without them, as scikit-learn's are, so that its errors are on cells it never saw.

    Args:
        frame: the table.
        imputer: what fills.
        trained: use it as it is.
        n_imputations: fillings; more than one are drawn.
        compare: measure beside scikit-learn's imputers.
        seed: decides the hidden cells.
        jobs: with 2, what is compared and what fills are trained at the same time, in processes of their own.
        progress: called with a line of text at each stage.
    Returns:
        The fillings, the errors per column and what they mean.
    """
    comparison: list[ColumnError] = []
    if compare and not trained and jobs > 1:
        progress("training on all observed cells, and beside it without held-out cells for the comparison")
        imputer, comparison = _side_by_side(frame, imputer, seed)
    else:
        if compare:
            progress("comparing on held-out cells")
            comparison = _compare(frame, imputer, trained, seed)
        if not trained:
            progress("training on all observed cells")
            imputer.fit(frame)
    explanation = _explain(comparison, trained, seed) if compare else ""
    tables = [imputer.transform(frame)] if n_imputations == 1 else imputer.sample(frame, n_imputations)
    return Filling(tables, imputer, comparison, explanation)


def fill_file(
    table: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    save: str | Path | None = None,
    n_imputations: int = 1,
    legacy: bool = False,
    max_steps: int | None = None,
    compare: bool = True,
    seed: int = 0,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Filling:
    """Fill a table file and write the result, the model and a picture; see `hub-mim impute --help`.

    Raises:
        ValueError: the table cannot be read or filled, or does not fit the model.
        FileExistsError: an output exists and `overwrite` is false; looked at before anything is trained.
    """
    out = Path(out)
    check_target(out)
    folder = Path(save) if save is not None else out.with_name(f"{out.name.split('.')[0]}-model")
    picture = out.with_name(f"{out.name.split('.')[0]}-distributions.png")
    targets = [out] if n_imputations == 1 else [_numbered(out, number + 1) for number in range(n_imputations)]
    for target in [*targets, picture, *([folder] if model is None else [])]:
        refuse_overwrite(target, overwrite)
    source = Table(table)
    if Path(table).resolve() in [target.resolve() for target in targets]:
        raise ValueError(f"the output {out} is the input; give it another name")
    if model is None:
        imputer = ReMaskerImputer(legacy=legacy, max_steps=max_steps, random_state=seed, verbose=True)
    else:
        imputer = ReMaskerImputer.from_pretrained(model, random_state=seed)
    filling = fill_table(
        source.frame,
        imputer,
        trained=model is not None,
        n_imputations=n_imputations,
        compare=compare,
        seed=seed,
        jobs=jobs,
        progress=progress,
    )
    imputer = filling.imputer
    filling.files = {"filled": targets[0], "model": Path(model) if model is not None else folder}
    if model is None:
        imputer.run_.data = str(table)
        imputer.save(folder, overwrite=overwrite)
    filling.files["picture"] = draw(source.frame, filling.tables[0], picture, overwrite=overwrite)
    for target, filled in zip(targets, filling.tables, strict=True):  # last: with it, all that belongs to it is there
        source.write(filled, target, overwrite=overwrite)
    return filling


def draw(frame: pd.DataFrame, filled: pd.DataFrame, path: Path, *, overwrite: bool) -> Path:
    """Draw the distributions of observed and of filled-in values, column by column."""
    from hub_mim.pictures import distributions

    gaps = frame.isna() & filled.notna()
    names = [name for name in frame.columns if gaps[name].any()]
    observed = {name: frame[name].dropna() for name in names}
    return distributions(observed, {name: filled[name][gaps[name]] for name in names}, path, overwrite=overwrite)


def _side_by_side(
    frame: pd.DataFrame, imputer: ReMaskerImputer, seed: int
) -> tuple[ReMaskerImputer, list[ColumnError]]:
    """Fit and compare in two processes; the fitted imputer is a copy."""
    from joblib import Parallel, delayed
    from sklearn.base import clone

    quiet = clone(imputer).set_params(verbose=False)  # one progress line at a time
    calls = [delayed(imputer.fit)(frame), delayed(_compare)(frame, quiet, False, seed)]
    fitted, comparison = Parallel(n_jobs=2, max_nbytes=None)(calls)
    return fitted, comparison


def _compare(frame: pd.DataFrame, imputer: ReMaskerImputer, trained: bool, seed: int) -> list[ColumnError]:
    return compare_imputers(frame, _filler(imputer, trained), share=HELD_OUT, seed=seed)


def _filler(imputer: ReMaskerImputer, trained: bool) -> Callable[[pd.DataFrame], pd.DataFrame]:
    if trained:
        return imputer.transform
    from sklearn.base import clone

    return lambda visible: clone(imputer).fit(visible).transform(visible)


def _explain(comparison: list[ColumnError], trained: bool, seed: int) -> str:
    cells = sum(error.held_out for error in comparison)
    relative = ", ".join(f"{name} {value:.3f}" for name, value in overall(comparison).items())
    text = (
        f"{cells} observed cells were hidden from every imputer (a tenth, seed {seed}); errors in each column's own unit "
        f"(root mean square; share wrong for categories).\nMean over columns relative to mean/mode: {relative}."
    )
    return text + (" The model given may have been trained on these cells." if trained else "")


def _numbered(path: Path, number: int) -> Path:
    stem, dot, ending = path.name.partition(".")
    return path.with_name(f"{stem}-{number}{dot}{ending}")
