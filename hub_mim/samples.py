"""Small sample data, so that every command has something to run on without a download.

`sample:NAME` finds a method's own sample rows (`Method.sample_data`, seeded) by the method's name, small
ray-traced scenes (`scenes`), or one of the tables that scikit-learn brings with it.
"""

from typing import Any

from hub_mim.checking import takes
from hub_mim.method import resolve, suggest
from hub_mim.scenes import scenes as scenes

GENERATED = {"scenes": "hub_mim.scenes:scenes"}
TABLES = ("breast_cancer", "diabetes", "iris", "wine")
LICENCES = dict.fromkeys(
    ("breast_cancer", "iris", "wine"), "cc-by-4.0"
)  # as the UCI repository says; diabetes has none


@takes(num_rows=">=1", seed=">=0")
def sample_rows(name: str, *, num_rows: int | None = None, seed: int = 0) -> Any:
    """Return sample rows as a `datasets.Dataset`.

    Args:
        name: a method that brings sample data, one of `GENERATED`, or a table of scikit-learn; with "-gaps" behind it, a
            table has 20 % of its cells removed.
        num_rows: at most so many rows.
        seed: of generated rows and of gaps.
    Raises:
        ValueError: no sample of that name.
    """
    from hub_mim import plugins
    from hub_mim.reading import frame_to_rows, records_to_rows

    methods = plugins.methods()
    made = methods[name].sample_data if name in methods else GENERATED.get(name)
    if made:
        rows = resolve(made)(num_rows or 256, seed)
        return rows if hasattr(rows, "column_names") else records_to_rows(rows)
    table, gaps = name.removesuffix("-gaps"), name.endswith("-gaps")
    if table not in TABLES:
        known = [*(key for key, method in methods.items() if method.sample_data), *GENERATED, *TABLES]
        raise ValueError(f"no sample called {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    frame = sample_table(table, gaps=0.2 if gaps else 0.0, seed=seed)
    return frame_to_rows(frame.iloc[:num_rows] if num_rows else frame)


def licence_of_sample(name: str) -> str | None:
    """Return the licence of sample rows; those that a method generates need none."""
    from hub_mim import plugins

    if name in plugins.methods() or name in GENERATED:
        return "generated, no rights reserved"
    return LICENCES.get(name.removesuffix("-gaps"))


@takes(gaps=">=0 <1", seed=">=0")
def sample_table(name: str, *, gaps: float = 0.0, seed: int = 0) -> Any:
    """Return one of scikit-learn's bundled tables as a DataFrame, its target left out.

    Args:
        name: one of `TABLES`.
        gaps: share of cells to remove, in [0, 1).
        seed: decides which.
    Raises:
        ImportError: scikit-learn is not installed.
    """
    import numpy as np

    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f"sample:{name} comes from scikit-learn: pip install scikit-learn") from error
    frame = getattr(datasets, f"load_{name}")(as_frame=True).data
    return frame.mask(np.random.default_rng(seed).random(frame.shape) < gaps) if gaps else frame
