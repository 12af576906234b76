"""Impute six UCI tables on the identical missing cells with ReMasker and with scikit-learn's imputers.

Protocol of Du, Melis, Wang (ICLR 2024), section 4, as in hyperimpute's benchmark: tables scaled to [0, 1], at most
eight columns with gaps; RMSE over the missing cells; Wasserstein distance summed over the columns; AUROC of logistic
regression on the completed table, in sample as the authors take it and by five-fold cross-validation.

Each finished run is one line of the csv, so an interrupted script goes on where it stopped:
    python scripts/reproduce_remasker.py --data ../shared/data/uci-amputed --out results.csv
    python scripts/reproduce_remasker.py --out results.csv --report          # the table, as Markdown
"""

import argparse
import csv
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TABLES = ("iris", "yacht", "diabetes", "wine", "compression", "climate")
MECHANISMS = ("MCAR", "MAR", "MNAR")
FIELDS = ("table", "mechanism", "ratio", "method", "seed", "rmse", "wasserstein", "auroc", "auroc_cv", "cpu_seconds")
MAX_LABELS = 20  # the authors' rule: more distinct labels than this are a regression target


def baselines() -> dict[str, Callable[[int], Any]]:
    """Return the imputers by name, each made from a seed; hyperimpute's where it is installed."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (makes IterativeImputer importable)
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    def extra_trees(seed: int) -> Any:
        return IterativeImputer(ExtraTreesRegressor(100, random_state=seed), random_state=seed)

    return {
        "mean": lambda seed: SimpleImputer(),
        "knn": lambda seed: KNNImputer(n_neighbors=5),
        "iterative": lambda seed: IterativeImputer(random_state=seed),
        "extra-trees": extra_trees,
    }


def remaskers() -> dict[str, Callable[[int], Any]]:
    """Return ReMasker as shipped and as its authors run it."""
    from hub_mim_remasker import ReMaskerImputer

    return {
        "remasker": lambda seed: ReMaskerImputer(random_state=seed),
        "remasker-legacy": lambda seed: ReMaskerImputer(random_state=seed, legacy=True),
    }


def hyperimputers() -> dict[str, Callable[[int], Any]]:
    """Return hyperimpute's own imputer where that library is installed, nothing elsewhere."""
    try:
        from hyperimpute.plugins.imputers import Imputers
    except ImportError:
        return {}
    return {"hyperimpute": lambda seed: Imputers().get("hyperimpute", random_state=seed)}


def load_cell(folder: Path, table: str, mechanism: str, ratio: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the complete table (rows, columns), its missing cells (True = missing) and the target."""
    stored = np.load(folder / f"{table}_seed0.npz", allow_pickle=False)
    complete = stored["X"].astype(np.float64)
    bits = np.unpackbits(stored[f"mask_{mechanism}_{ratio}"])[: complete.size]
    return complete, bits.reshape(complete.shape).astype(bool), stored["y"]


def score(complete: np.ndarray, missing: np.ndarray, target: np.ndarray, filled: np.ndarray) -> dict[str, float]:
    """Return the measures of one completed table; AUROC is nan where the target is no class label."""
    from scipy.stats import wasserstein_distance

    columns = range(complete.shape[1])
    measures = {
        "rmse": float(np.sqrt(np.mean((filled - complete)[missing] ** 2))),
        "wasserstein": float(sum(wasserstein_distance(filled[:, j], complete[:, j]) for j in columns)),
    }
    return measures | aurocs(filled, target)


def aurocs(filled: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return the AUROC of liblinear logistic regression in sample and by five stratified folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier

    labels = np.unique(target)
    if len(labels) > MAX_LABELS or np.min(np.unique(target, return_counts=True)[1]) < 5:
        return {"auroc": float("nan"), "auroc_cv": float("nan")}
    model = OneVsRestClassifier(LogisticRegression(solver="liblinear"))

    def area(probability: np.ndarray) -> float:
        if len(labels) == 2:
            return float(roc_auc_score(target, probability[:, 1]))
        return float(roc_auc_score(target, probability, multi_class="ovr"))

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    out_of_sample = cross_val_predict(model, filled, target, cv=folds, method="predict_proba")
    return {"auroc": area(model.fit(filled, target).predict_proba(filled)), "auroc_cv": area(out_of_sample)}


def plan(options: argparse.Namespace, methods: dict[str, Any]) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield (table, mechanism, ratio, method, seed) for each run; methods without randomness run once."""
    for ratio in options.ratios:
        for table in options.tables:
            for mechanism in options.mechanisms:
                for method in options.methods or methods:
                    for seed in options.seeds if method not in ("mean", "knn", "iterative") else options.seeds[:1]:
                        yield table, mechanism, ratio, method, seed


def run(options: argparse.Namespace) -> None:
    """Do every run that the csv does not hold yet."""
    methods = baselines() | hyperimputers()
    if any(name not in methods for name in options.methods or ["remasker"]):
        methods |= remaskers()
    done = {tuple(row[field] for field in FIELDS[:5]) for row in read(options.out)}
    for table, mechanism, ratio, method, seed in plan(options, methods):
        if (table, mechanism, ratio, method, str(seed)) in done:
            continue
        complete, missing, target = load_cell(options.data, table, mechanism, ratio)
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # IterativeImputer says that ten rounds did not converge; that is its default
            filled = np.asarray(methods[method](seed).fit_transform(np.where(missing, np.nan, complete)), np.float64)
        measures = score(complete, missing, target, filled) | {"cpu_seconds": time.process_time() - started}
        row = dict(zip(FIELDS, (table, mechanism, ratio, method, seed), strict=False)) | measures
        append(options.out, row)
        print(json.dumps(row), flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """Return the finished runs of an earlier call."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any], fields: tuple[str, ...] = FIELDS) -> None:
    """Add one run to the csv in one write, the header first in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "" if path.exists() else ",".join(fields) + "\n"
    values = [f"{row[field]:.6g}" if isinstance(row[field], float) else str(row[field]) for field in fields]
    with path.open("a", encoding="utf-8") as file:
        file.write(header + ",".join(values) + "\n")
        file.flush()
        os.fsync(file.fileno())


def report(path: Path, ratio: str, measure: str) -> str:
    """Return one measure as a Markdown table, cells by methods, mean and half the range over seeds."""
    runs: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in read(path):
        if row["ratio"] == ratio:
            cell = runs.setdefault((row["table"], row["mechanism"]), {})
            cell.setdefault(row["method"], []).append(float(row[measure]))
    methods = list(dict.fromkeys(method for cell in runs.values() for method in cell))
    lines = ["| table | mechanism | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for (table, mechanism), cell in runs.items():
        best = (max if measure.startswith("auroc") else min)(np.mean(values) for values in cell.values())
        texts = [_text(cell.get(method), best) for method in methods]
        lines.append(f"| {table} | {mechanism} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", tally(runs)] if measure == "rmse" else lines)


def _text(values: list[float] | None, best: float) -> str:
    if values is None:
        return "not run"
    text = f"{np.mean(values):.4f}" + (f" ± {np.ptp(values) / 2:.4f}" if len(values) > 1 else "")
    return f"**{text}**" if np.mean(values) == best else text


def tally(runs: dict[tuple[str, str], dict[str, list[float]]]) -> str:
    """Say in how many cells ReMasker is best, or within its seeds' range of the best other imputer."""
    rivals = ("mean", "knn", "iterative", "extra-trees")
    lines = []
    for method in ("remasker", "remasker-legacy"):
        cells = [cell for cell in runs.values() if method in cell and all(rival in cell for rival in rivals)]
        best = [min(float(np.mean(cell[rival])) for rival in rivals) for cell in cells]
        means = [float(np.mean(cell[method])) for cell in cells]
        spreads = [float(np.ptp(cell[method])) for cell in cells]
        wins = sum(mean <= rival for mean, rival in zip(means, best, strict=True))
        near = sum(m <= rival + spread for m, rival, spread in zip(means, best, spreads, strict=True))
        lines.append(f"{method}: best in {wins} of {len(cells)} cells, best or within its seeds' range in {near}.")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, then run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci-amputed"))
    parser.add_argument("--out", type=Path, required=True, help="csv of finished runs")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--mechanisms", nargs="+", default=MECHANISMS, choices=MECHANISMS)
    parser.add_argument("--ratios", nargs="+", default=["0.3"], choices=("0.1", "0.3", "0.5", "0.7"))
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--report", action="store_true", help="print the table instead of running")
    parser.add_argument("--measure", default="rmse", choices=FIELDS[5:])
    options = parser.parse_args()
    if options.report:
        print("\n\n".join(report(options.out, ratio, options.measure) for ratio in options.ratios))
    else:
        run(options)


if __name__ == "__main__":
    main()
