"""Pictures of runs and tables, by matplotlib without a display and without its global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import new_file

if TYPE_CHECKING:
    from hub_mim.run import Run

OBSERVED, IMPUTED, HIDDEN = "#4c72b0", "#dd8452", "#d9d9d9"
MAX_PANELS = 24
MAX_LEVELS = 8
MAX_ROWS = 40
MAX_GROUPS = 10


def distributions(
    observed: Mapping[str, Any], imputed: Mapping[str, Any], path: str | Path, *, overwrite: bool = False
) -> Path:
    """Draw, for each column, the distribution of its observed and of its imputed values.

    Args:
        observed: column -> observed values: numbers, dates, truth values or texts.
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
        _compare(axis, _series(observed[name]), _series(imputed[name]))
        filled = len(imputed[name])
        axis.set_title(f"{_short(str(name))}\n{filled} of {filled + len(observed[name])} imputed", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    left = f", first {MAX_PANELS} of {len(columns)} columns" if len(columns) > MAX_PANELS else ""
    figure.suptitle(f"Share of values{left}", fontsize=10, x=0.01, ha="left")
    return _save(figure, path, overwrite)


def loss_curve(run: "Run", path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw the training and the held-out loss of a run by step.

    Raises:
        ValueError: the run logged no loss.
    """
    figure, axes = _panels(1)
    for name, label, colour, width in (("loss", "training", OBSERVED, 1.0), ("eval_loss", "held out", IMPUTED, 2.0)):
        points = [(line["step"], line[name]) for line in run.history if name in line]
        if points:
            marker = "o" if len(points) == 1 else None
            axes[0].plot(*zip(*points, strict=True), label=label, color=colour, linewidth=width, marker=marker)
    if not axes[0].lines:
        raise ValueError(f"the run of {run.method} logged no loss: there is nothing to draw")
    axes[0].set_xlabel("step", fontsize=8)
    axes[0].set_ylabel("loss", fontsize=8)
    axes[0].set_title(_short(f"{run.method} on {run.data}", 60), fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path, overwrite)


def masked_table(
    original: Any, mask: Any, predicted: Any, path: str | Path, *, names: Sequence[str] = (), overwrite: bool = False
) -> Path:
    """Draw a table three times: with its hidden cells, with what was predicted for them, and as it is.

    Args:
        original: numbers (rows, columns), NaN where missing; each column is coloured by its own range.
        mask: bool (rows, columns), True = hidden.
        predicted: numbers (rows, columns), read where hidden.
        path: picture to write, by its ending.
        names: of the columns.
        overwrite: replace a picture that is there.
    Raises:
        ValueError: the three have different shapes.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    table, hidden, guess = np.asarray(original, float), np.asarray(mask, bool), np.asarray(predicted, float)
    if not table.shape == hidden.shape == guess.shape:
        raise ValueError(f"table {table.shape}, mask {hidden.shape} and prediction {guess.shape} must have one shape")
    table, hidden, guess = table[:MAX_ROWS], hidden[:MAX_ROWS], guess[:MAX_ROWS]
    low, span = _range(table)
    figure, axes = _panels(3, wide=3, high=min(6.0, 1.2 + 0.14 * len(table)))
    for axis, title, values in zip(
        axes, ("masked", "predicted", "original"), (table, np.where(hidden, guess, table), table), strict=True
    ):
        colours = colormaps["viridis"](np.clip((values - low) / span, 0, 1))
        colours[np.isnan(values)] = to_rgba("white")
        if title == "masked":
            colours[hidden] = to_rgba(HIDDEN)
        axis.imshow(colours, aspect="auto", interpolation="nearest")
        axis.set_title(title, fontsize=9)
        every = range(0, len(names), 1 + len(names) // 16)  # more names would lie over each other
        axis.set_xticks(every, [_short(names[place], 12) for place in every], rotation=60, ha="right")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    more = f", first {MAX_ROWS} rows" if len(np.asarray(mask)) > MAX_ROWS else ""
    axes[0].set_ylabel(f"row{more}", fontsize=8)
    patches = [Patch(facecolor=HIDDEN, label="hidden"), Patch(facecolor="white", edgecolor="black", label="missing")]
    figure.legend(handles=patches, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return _save(figure, path, overwrite)


def _range(table: Any) -> tuple[Any, Any]:
    """Return each column's lowest value and span, 0 and 1 for a column without values."""
    import numpy as np

    empty = np.isnan(table).all(0)
    low = np.where(empty, 0.0, np.nanmin(np.where(empty, 0.0, table), 0))
    span = np.where(empty, 1.0, np.nanmax(np.where(empty, 1.0, table), 0) - low)
    return low, np.where(span > 0, span, 1.0)


def _panels(number: int, *, wide: int = 4, high: float = 2.0) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = min(number, wide)
    lines = -(-number // wide)
    figure = Figure(figsize=(max(4.5, 2.6 * wide), 0.6 + high * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, wide, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.xaxis.offsetText.set_fontsize(7)
        axis.yaxis.offsetText.set_fontsize(7)
    for axis in axes[number:]:
        axis.set_axis_off()
    return figure, axes


def _series(values: Any) -> Any:
    """Return values without gaps, truth values as text."""
    import pandas as pd

    series = pd.Series(values).dropna()
    return series.astype(str) if pd.api.types.is_bool_dtype(series) else series


def _compare(axis: Any, observed: Any, imputed: Any) -> None:
    """Draw two distributions as shares: histograms for numbers and dates, bars by level where there are few or texts."""
    import pandas as pd

    both = pd.concat([part for part in (observed, imputed) if len(part)])
    dates = pd.api.types.is_datetime64_any_dtype(both)
    measured = dates or pd.api.types.is_numeric_dtype(both)
    few = both.nunique() <= (2 if dates or not _whole(both) else MAX_LEVELS)
    if measured and not few:
        _histogram(axis, observed, imputed, dates)
    else:
        _bars(axis, observed, imputed, both, ordered=measured)


def _whole(values: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(values) and (values.astype(float) % 1 == 0).all())


def _histogram(axis: Any, observed: Any, imputed: Any, dates: bool) -> None:
    """Draw histograms over one set of bins; where tails are long, the outermost bins collect them."""
    import numpy as np

    parts = [_positions(part, dates) for part in (observed, imputed)]
    values = np.concatenate(parts)
    low, inner_low, inner_high, high = np.quantile(values, [0, 0.05, 0.95, 1])
    long_tails = high - low > 3 * (inner_high - inner_low) > 0
    if long_tails:
        low, high = inner_low, inner_high
        axis.set_xlabel("tails are in the outermost bins", fontsize=6)
    for label, part, colour in zip(("observed", "imputed"), parts, (OBSERVED, IMPUTED), strict=True):
        weights = np.full(len(part), 1 / max(1, len(part)))
        bins = np.linspace(low, high, 21).tolist()
        axis.hist(np.clip(part, low, high), bins=bins, weights=weights, alpha=0.6, label=label, color=colour)
    if dates:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=5)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _positions(values: Any, dates: bool) -> Any:
    """Return values as places on the axis, dates in matplotlib's days; infinite ones are left out."""
    import numpy as np

    if dates and len(values):
        from matplotlib.dates import date2num

        return date2num(values.dt.tz_localize(None) if values.dt.tz is not None else values)
    numbers = values.to_numpy(dtype=float)
    return numbers[np.isfinite(numbers)]


def _bars(axis: Any, observed: Any, imputed: Any, both: Any, *, ordered: bool) -> None:
    """Draw a pair of bars per level, the most frequent ones; the rest is one level."""
    import numpy as np

    levels = both.value_counts().index[:MAX_LEVELS].tolist()
    levels = sorted(levels) if ordered else levels
    rest = both.nunique() > len(levels)
    places = np.arange(len(levels) + rest)
    for shift, (label, part, colour) in enumerate((("observed", observed, OBSERVED), ("imputed", imputed, IMPUTED))):
        shares = [float((part == level).mean()) if len(part) else 0.0 for level in levels]
        axis.bar(places + 0.4 * shift, shares + [1 - sum(shares)] * rest, 0.4, alpha=0.8, label=label, color=colour)
    names = [f"{level:g}" if isinstance(level, int | float) else _short(str(level), 12) for level in levels]
    slanted = max(map(len, names)) > 3
    axis.set_xticks(places + 0.2, names + ["other"] * rest, rotation=30 * slanted, ha="right" if slanted else "center")
    middle, half = (len(places) - 1) / 2 + 0.2, max(1.2, len(places) / 2 + 0.1)
    axis.set_xlim(middle - half, middle + half)


def _short(text: str, length: int = 26) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _save(figure: Any, path: str | Path, overwrite: bool) -> Path:
    with new_file(path, overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=130)
    return Path(path)


def masked_tokens(
    values: Any, mask: Any, predicted: Any, path: str | Path, *, names: Sequence[str] = (), overwrite: bool = False
) -> Path:
    """Draw rows of tokens as maps of numbers: with their hidden tokens, with what was predicted for them, as they are.

    Args:
        values: numbers (rows, tokens, channels) or (rows, tokens); all pictures of a row share its range of colours.
        mask: bool (rows, tokens), True = hidden.
        predicted: as values, read where hidden.
        path: picture to write, by its ending.
        names: of the rows.
        overwrite: replace a picture that is there.
    Raises:
        ValueError: the shapes do not fit.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    shown, guess = (np.asarray(part, float) for part in (values, predicted))
    shown, guess = (part[..., None] if part.ndim == 2 else part for part in (shown, guess))
    hidden = np.asarray(mask, bool)
    if shown.shape != guess.shape or hidden.shape != shown.shape[:2]:
        raise ValueError(f"values {shown.shape}, mask {hidden.shape} and prediction {guess.shape} do not fit together")
    figure, axes = _panels(3 * len(shown), wide=3, high=1.6)
    for number, (row, gaps, filled) in enumerate(zip(shown, hidden, guess, strict=True)):
        low, high = np.nanmin(row), np.nanmax(row)
        for place, title in enumerate(("masked", "predicted", "original")):
            picture = np.where(gaps[:, None], filled, row) if title == "predicted" else row
            colours = colormaps["viridis"](np.clip((picture - low) / max(high - low, 1e-9), 0, 1))
            if title == "masked":
                colours[gaps] = to_rgba(HIDDEN)
            axis = axes[3 * number + place]
            axis.imshow(colours.transpose(1, 0, 2), aspect="auto", interpolation="nearest")
            _label(axis, title if number == 0 else "", names[number] if place == 0 and number < len(names) else "")
    figure.supxlabel("tokens; the channels of a row are stacked", fontsize=7)
    figure.legend(
        handles=[Patch(facecolor=HIDDEN, label="hidden")], loc="outside upper right", fontsize=8, frameon=False
    )
    return _save(figure, path, overwrite)


def _label(axis: Any, title: str, name: str) -> None:
    """Write what stands above and beside a picture, without ticks."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=9)
    axis.set_ylabel(_short(name, 14), fontsize=8)


def masked_images(
    images: Any,
    mask: Any,
    predicted: Any,
    path: str | Path,
    *,
    names: Sequence[str] = (),
    note: str = "",
    overwrite: bool = False,
) -> Path:
    """Draw pictures three times: with their hidden places, as predicted, as they are.

    Args:
        images, predicted: numbers in [0, 1] (rows, height, width, 3).
        mask: bool (rows, height, width), True = hidden.
        path: picture to write, by its ending.
        names: of the rows. note: written below.
        overwrite: replace a picture that is there.
    Raises:
        ValueError: the shapes do not fit.
    """
    import numpy as np
    from matplotlib.colors import to_rgb

    shown, guess, hidden = np.asarray(images, float), np.asarray(predicted, float), np.asarray(mask, bool)
    if shown.shape != guess.shape or hidden.shape != shown.shape[:3]:
        raise ValueError(f"images {shown.shape}, mask {hidden.shape} and prediction {guess.shape} do not fit together")
    shape = shown.shape[1] / shown.shape[2]
    figure, axes = _panels(3 * len(shown), wide=3, high=min(1.9, 0.25 + 2.6 * shape))
    for number, (image, gaps, filled) in enumerate(zip(shown, hidden, guess, strict=True)):
        masked = np.where(gaps[..., None], to_rgb(HIDDEN), image)
        for place, (title, picture) in enumerate((("masked", masked), ("predicted", filled), ("original", image))):
            axis = axes[3 * number + place]
            axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            _label(axis, title if number == 0 else "", names[number] if place == 0 and number < len(names) else "")
    if note:
        figure.supxlabel(note, fontsize=7)
    return _save(figure, path, overwrite)


def attention_matrices(
    weights: Any,
    path: str | Path,
    *,
    names: Sequence[str] = (),
    titles: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Draw attention as matrices: in each line the mean of the heads, then heads.

    Args:
        weights: (rows, 1 + heads, tokens, tokens); a line of a matrix sums to 1.
        path: picture to write, by its ending.
        names: of the rows. titles: of the columns; default the mean of the heads, then their numbers.
        overwrite: replace a picture that is there.
    """
    columns = len(weights[0])
    titles = titles or [_head(place) for place in range(columns)]
    figure, axes = _panels(len(weights) * columns, wide=columns, high=1.9)
    for number, heads in enumerate(weights):
        for place, matrix in enumerate(heads):
            axis = axes[number * columns + place]
            axis.imshow(matrix, vmin=0, cmap="viridis", interpolation="nearest")
            _label(axis, titles[place] if number == 0 else "", names[number] if place == 0 and names else "")
    figure.supxlabel("a line for each token that looks, a column for each that is looked at", fontsize=7)
    return _save(figure, path, overwrite)


def attention_images(
    images: Any, weights: Any, path: str | Path, *, names: Sequence[str] = (), overwrite: bool = False
) -> Path:
    """Draw pictures, and beside them how much attention each place gets: the mean of the heads, then heads.

    Args:
        images: (rows, height, width, 3) in [0, 1]. weights: (rows, 1 + heads, grid height, grid width).
        path, names, overwrite: see `attention_matrices`.
    """
    columns = 1 + len(weights[0])
    figure, axes = _panels(len(images) * columns, wide=columns, high=1.9)
    for number, (image, heads) in enumerate(zip(images, weights, strict=True)):
        for place in range(columns):
            axis = axes[number * columns + place]
            if place == 0:
                axis.imshow(image)
            else:
                axis.imshow(heads[place - 1], vmin=0, cmap="inferno", interpolation="nearest")
            title = "picture" if place == 0 else _head(place - 1)
            _label(axis, title if number == 0 else "", names[number] if place == 0 and names else "")
    figure.supxlabel("each map from 0 (black) to its own greatest weight", fontsize=7)
    return _save(figure, path, overwrite)


def masked_spectrograms(
    spectrograms: Any,
    mask: Any,
    predicted: Any,
    path: str | Path,
    *,
    seconds: float | None = None,
    names: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Draw spectrograms three times: with their hidden places, as predicted, as they are; low frequencies below.

    Args:
        spectrograms, predicted: numbers (rows, frames, bins); each row is coloured by its own range.
        mask: bool (rows, frames, bins), True = hidden.
        path: picture to write, by its ending.
        seconds: length of the clips, for the axis; else frames are counted.
        names: of the rows.
        overwrite: replace a picture that is there.
    Raises:
        ValueError: the three have different shapes.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    shown, guess, hidden = np.asarray(spectrograms, float), np.asarray(predicted, float), np.asarray(mask, bool)
    if not shown.shape == guess.shape == hidden.shape:
        raise ValueError(
            f"spectrograms {shown.shape}, mask {hidden.shape} and prediction {guess.shape} must have one shape"
        )
    figure, axes = _panels(3 * len(shown), wide=3, high=1.6)
    length = shown.shape[1] if seconds is None else seconds
    for number, (row, gaps, filled) in enumerate(zip(shown, hidden, guess, strict=True)):
        low, high = row.min(), row.max()
        for place, title in enumerate(("masked", "predicted", "original")):
            values = np.where(gaps, filled, row) if title == "predicted" else row
            colours = colormaps["magma"](np.clip((values - low) / max(high - low, 1e-9), 0, 1))
            if title == "masked":
                colours[gaps] = to_rgba(HIDDEN)
            axis = axes[3 * number + place]
            extent = (0, length, 0, row.shape[1])
            axis.imshow(
                colours.transpose(1, 0, 2), aspect="auto", origin="lower", extent=extent, interpolation="nearest"
            )
            axis.set_title(title if number == 0 else "", fontsize=9)
            axis.set_ylabel(_short(names[number], 14) if place == 0 and number < len(names) else "", fontsize=8)
    figure.supxlabel("frames" if seconds is None else "seconds", fontsize=7)
    return _save(figure, path, overwrite)


def masked_graph(
    places: Any, edges: Any, mask: Any, predicted: Any, path: str | Path, *, overwrite: bool = False
) -> Path:
    """Draw a graph three times: without its hidden edges, with these as strong as the model thinks they are, as it is.

    Args:
        places: of the nodes in the plane (N, 2).
        edges: (E, 2) numbers of nodes. mask: (E,), True or 1 = hidden; between them, the share by which one is held back.
        predicted: (E,) in [0, 1], read where hidden.
        path: picture to write, by its ending.
        overwrite: replace a picture that is there.
    Raises:
        ValueError: the shapes do not fit.
    """
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    points, pairs = np.asarray(places, float), np.asarray(edges, int)
    hidden, strength = np.asarray(mask, float), np.clip(np.asarray(predicted, float), 0, 1)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) == len(hidden) == len(strength):
        raise ValueError(
            f"edges {pairs.shape}, mask {hidden.shape} and prediction {strength.shape} do not fit together"
        )
    figure, axes = _panels(3, wide=3, high=2.8)
    lines = points[pairs]
    shown = {"masked": 1 - hidden, "predicted": np.where(hidden > 0, strength, 1), "original": np.ones(len(pairs))}
    for axis, (title, weight) in zip(axes, shown.items(), strict=True):
        colours = np.array([to_rgba(IMPUTED if title == "predicted" and gone else OBSERVED) for gone in hidden > 0])
        colours[:, 3] = weight
        axis.add_collection(LineCollection(lines, colors=colours, linewidths=1))
        axis.scatter(*points.T, s=8, color="black", zorder=2)
        axis.margins(0.05)
        _label(axis, title, "")
        axis.spines[["left", "bottom"]].set_visible(False)
    return _save(figure, path, overwrite)


def _head(place: int) -> str:
    return "mean of heads" if place == 0 else f"head {place - 1}"


def scatter(panels: Mapping[str, tuple[Any, Any]], labels: Any, path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw points in the plane, a panel for each way to place them, coloured by their labels.

    Args:
        panels: title -> points (N, 2) and the two directions' shares of the variance.
        labels: classes or quantities (N,), or None. With more than ten classes the rarest share a colour.
        path: picture to write, by its ending. overwrite: replace a picture that is there.
    """
    import numpy as np

    figure, axes = _panels(len(panels), wide=3, high=2.8)
    for axis, (title, (points, shares)) in zip(axes, panels.items(), strict=False):
        flat = points if points.shape[1] == 2 else np.column_stack([points[:, 0], np.zeros(len(points))])
        if labels is None or labels.dtype.kind == "f":
            axis.scatter(
                *flat.T, s=6, c=OBSERVED if labels is None else labels, cmap=None if labels is None else "viridis"
            )
        else:
            _classes(axis, flat, labels)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(f"{shares[0]:.0%} of the variance", fontsize=7)
        axis.set_ylabel(f"{shares[1]:.0%}" if len(shares) > 1 else "", fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
    handles = axes[0].get_legend_handles_labels()
    if handles[0]:
        figure.legend(*handles, loc="outside right center", fontsize=7, frameon=False, markerscale=2)
    return _save(figure, path, overwrite)


def map_and_statistics(
    points: Any,
    labels: Any,
    shares: Mapping[str, Any] | None,
    degrees: Any,
    held_back: Any,
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Draw the nodes of a graph: where they are put, how wide their edges are, how much is held back by degree.

    Args:
        points: in the plane (N, 2). labels: classes (N,), or None.
        shares: title -> share of each edge (E,), in [0, 1]; None for no such panels.
        degrees: of the nodes (N,). held_back: of each node's widest edge (N,), in [0, 1].
        path: picture to write, by its ending. overwrite: replace a picture that is there.
    """
    import numpy as np

    figure, axes = _panels(1 if shares is None else 3, wide=3, high=2.8)
    _classes(axes[0], points, labels)
    _label(axes[0], "embeddings", "")
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    if shares is not None:
        bins = np.linspace(0, 1, 31)
        for title, values in shares.items():
            axes[1].hist(values, bins=bins, histtype="step", label=title)
        axes[1].set_yscale("log")
        axes[1].legend(fontsize=7, frameon=False)
        axes[1].set_title("bandwidth of edges", fontsize=9)
        axes[2].scatter(degrees, held_back, s=4, color=OBSERVED, alpha=0.4)
        axes[2].set_xscale("symlog")
        axes[2].set_xlabel("degree", fontsize=7)
        axes[2].set_title("held back of the widest edge", fontsize=9)
    return _save(figure, path, overwrite)


def _classes(axis: Any, points: Any, labels: Any, size: int = 6) -> None:
    """Draw points by class; with more than ten classes the rarest share a colour."""
    import numpy as np
    from matplotlib import colormaps

    if labels is None:
        axis.scatter(*points.T, s=size, c=OBSERVED)
        return
    values, counts = np.unique(labels, return_counts=True)
    shown = values[np.argsort(-counts, kind="stable")[:MAX_GROUPS]]
    for number, value in enumerate(np.sort(shown)):
        chosen = points[labels == value]
        axis.scatter(*chosen.T, s=size, color=colormaps["tab10"](number), label=_short(str(value), 14))
    rest = points[~np.isin(labels, shown)]
    if len(rest):
        axis.scatter(*rest.T, s=size - 2, color=HIDDEN, label="others", zorder=0)
