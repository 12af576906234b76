"""Pictures of runs and tables, by matplotlib without a display and without its global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import new_file

if TYPE_CHECKING:
    from hub_mim.run import Run

OBSERVED, IMPUTED = "#4c72b0", "#dd8452"
MAX_PANELS = 24


def distributions(
    observed: Mapping[str, Any], imputed: Mapping[str, Any], path: str | Path, *, overwrite: bool = False
) -> Path:
    """Draw, for each column, the distribution of its observed and of its imputed values.

    Args:
        observed: column -> observed values, numbers or texts.
        imputed: column -> values that were filled in; columns without any are left out.
        path: picture to write, by its ending.
        overwrite: replace a picture that is there.
    Returns:
        The path.
    Raises:
        ValueError: nothing was imputed.
    """
    columns = [name for name, values in imputed.items() if len(values)]
    if not columns:
        raise ValueError("nothing was imputed: there is nothing to draw")
    shown = columns[:MAX_PANELS]
    figure, axes = _panels(len(shown))
    for name, axis in zip(shown, axes, strict=False):
        _compare(axis, observed[name], imputed[name])
        axis.set_title(_short(str(name)), fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    left = f", first {MAX_PANELS} of {len(columns)} columns" if len(columns) > MAX_PANELS else ""
    figure.suptitle(f"Observed and imputed values (share of each){left}", fontsize=11)
    return _save(figure, path, overwrite)


def loss_curve(run: "Run", path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw the training and the held-out loss of a run by step."""
    figure, axes = _panels(1)
    for name, label, colour in (("loss", "training", OBSERVED), ("eval_loss", "held out", IMPUTED)):
        points = [(line["step"], line[name]) for line in run.history if name in line]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=label, color=colour, marker=".", markersize=3)
    axes[0].set(xlabel="step", ylabel="loss", title=run.method)
    axes[0].legend(frameon=False)
    return _save(figure, path, overwrite)


def _panels(number: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = min(number, 4)
    high = -(-number // wide)
    figure = Figure(figsize=(max(4.0, 2.6 * wide), 0.6 + 2.0 * high), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
    for axis in axes[number:]:
        axis.set_axis_off()
    return figure, axes


def _compare(axis: Any, observed: Sequence[Any], imputed: Sequence[Any]) -> None:
    """Draw two distributions as shares: bars by level for texts, a histogram for numbers."""
    import numpy as np
    import pandas as pd

    pair = (("observed", pd.Series(observed), OBSERVED), ("imputed", pd.Series(imputed), IMPUTED))
    if pd.api.types.is_numeric_dtype(pair[0][1]) and pair[0][1].nunique() > 2:
        values = pd.concat([values for _, values, _ in pair]).astype(float)
        bins = np.linspace(values.min(), values.max(), 21).tolist()
        for label, part, colour in pair:
            weights = np.full(len(part), 1 / max(1, len(part)))
            axis.hist(part.astype(float), bins=bins, weights=weights, alpha=0.6, label=label, color=colour)
        return
    levels = pair[0][1].astype(str).value_counts().index[:8].tolist()
    for place, (label, part, colour) in enumerate(pair):
        shares = [(part.astype(str) == level).mean() for level in levels]
        axis.bar(np.arange(len(levels)) + 0.4 * place, shares, 0.4, alpha=0.7, label=label, color=colour)
    axis.set_xticks(np.arange(len(levels)) + 0.2, [_short(level, 12) for level in levels], rotation=30, ha="right")


def _short(text: str, length: int = 26) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _save(figure: Any, path: str | Path, overwrite: bool) -> Path:
    with new_file(path, overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=130)
    return Path(path)
