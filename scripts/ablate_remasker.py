"""What each choice of ReMasker's default preset is worth, on validation cells alone.

Of the observed cells of the tables that `reproduce_remasker.py` imputes, 15 % are hidden besides (seed 7) and measured;
the really missing cells, which the reproduction measures, are never looked at. Each finished fit is a line of the csv:
    python scripts/ablate_remasker.py --data ../shared/data/uci-amputed --out ablation.csv
    python scripts/ablate_remasker.py --out ablation.csv --report
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reproduce_remasker import append, baselines, load_cell, read

TABLES, MECHANISMS = ("iris", "yacht", "diabetes", "compression"), ("MCAR", "MAR")
FIELDS = ("variant", "table", "mechanism", "seed", "rmse", "cpu_seconds")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "the Transformer alone": {"config": {"linear_skip": "none"}},
    "the normal model alone": {"max_steps": 1, "config": {"linear_skip": "gaussian"}},
    "the normal model added in training": {"config": {"linear_skip": "gaussian"}},
    "a learned linear map added in training": {"config": {"linear_skip": "fixed"}},
    "half of the cells hidden in every row": {"config": {"mask_ratio": 0.5, "mask_ratio_max": None}},
    "uniform masking": {"config": {"masking": "uniform"}},
    "min-max scaling": {"scaling": "minmax"},
    "shared value embedding": {"config": {"value_embedding": "shared"}},
    "no loss on visible cells": {"config": {"loss_weights": {"remasked": 1.0, "visible": 0.0}}},
    "no held-out cells (last step)": {"validation_fraction": 0.0},
}


def cells(folder: Path, table: str, mechanism: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the complete table, the table with missing and validation cells empty, and the validation cells."""
    complete, missing, _ = load_cell(folder, table, mechanism, "0.3")
    validation = ~missing & (np.random.default_rng(7).random(complete.shape) < 0.15)
    return complete, np.where(missing | validation, np.nan, complete), validation


def fit(variant: str, seed: int, visible: np.ndarray) -> np.ndarray:
    """Fill a table with one variant, or with scikit-learn's iterative imputer for reference."""
    from hub_mim_remasker import ReMaskerImputer

    if variant == "iterative":
        return baselines()["iterative"](seed).fit_transform(visible)
    return ReMaskerImputer(random_state=seed, **VARIANTS[variant]).fit_transform(visible)


def run(options: argparse.Namespace) -> None:
    """Fit every variant on every table that the csv does not hold yet."""
    import time

    done = {tuple(row[field] for field in FIELDS[:4]) for row in read(options.out)}
    for variant in options.variants or ["iterative", *VARIANTS]:
        for table in TABLES:
            for mechanism in MECHANISMS:
                if (variant, table, mechanism, str(options.seed)) in done:
                    continue
                complete, visible, validation = cells(options.data, table, mechanism)
                started = time.process_time()
                filled = fit(variant, options.seed, visible)
                error = float(np.sqrt(np.mean((filled - complete)[validation] ** 2)))
                figures = (variant, table, mechanism, options.seed, error, time.process_time() - started)
                append(options.out, dict(zip(FIELDS, figures, strict=True)), FIELDS)


def report(path: Path) -> str:
    """Return the geometric mean of each variant's error relative to the default's, as a Markdown table."""
    rows = read(path)
    errors: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        errors.setdefault(row["variant"], {})[row["table"], row["mechanism"]] = float(row["rmse"])
    base = errors["default"]
    lines = ["| variant | error relative to the default | cells |", "|---|---|---|"]
    for variant, found in errors.items():
        common = [cell for cell in found if cell in base]
        ratio = np.exp(np.mean([np.log(found[cell] / base[cell]) for cell in common]))
        lines.append(f"| {variant} | {ratio:.3f} | {len(common)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, then run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci-amputed"))
    parser.add_argument("--out", type=Path, required=True, help="csv of finished fits")
    parser.add_argument("--variants", nargs="+", choices=["iterative", *VARIANTS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="print the table instead of running")
    options = parser.parse_args()
    if options.report:
        print(report(options.out))
    else:
        run(options)


if __name__ == "__main__":
    main()
