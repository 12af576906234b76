"""What MW-MAE's pre-training is worth on real sounds, beside a plain MAE, random weights, and the spectrogram itself.

    python scripts/evaluate_mwmae.py join DATA --out sounds.parquet             # audio of both training splits, no labels
    hub-mim pretrain mwmae --data sounds.parquet --preset nano ...              # and nano-mae, and another seed
    python scripts/evaluate_mwmae.py judge DATA --runs runs/* --out results.csv

DATA holds `esc10` and `fsdd`. Judged are: HEAR's probe (frozen embeddings, one hidden layer), by five folds on ESC-10 and on
the official split of the digits; fine-tuning from ten labelled clips a class, on the official splits; the error of hidden
patches on the test splits. Pre-training never saw the test splits; of ESC-10's five probes it has seen four folds' sound.
Appends to a csv; what is there is not run again.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from hub_mim import loading
from hub_mim.data import load_rows
from hub_mim.evaluation import masked_losses
from hub_mim.features import features, untrained
from hub_mim.few_label import _accuracy as fine_tuned
from hub_mim.probes import hidden_layer, linear
from hub_mim.protocols import few

FIELDS = ("weights", "data", "measure", "seed", "value", "seconds")
SETS = ("esc10", "fsdd")
TUNING = {"steps": 60, "learning_rate": 5e-4, "batch_size": 32}


def read(data: Path, name: str) -> Dataset:
    """Return both splits of a dataset with a column `fold`: 5 is the test split."""
    parts = []
    for split in ("train", "test"):
        rows = load_rows(data / name, split=split)
        fold = rows["fold"] if "fold" in rows.column_names else [5 if split == "test" else 1] * len(rows)
        parts.append(rows.select_columns(["audio", "label"]).add_column("fold", list(map(int, fold))))
    return concatenate_datasets(parts)


def join(data: Path, out: Path) -> None:
    """Write the sound of both training splits, without labels."""
    parts = [load_rows(data / name, split="train").select_columns(["audio"]) for name in SETS]
    content = [{"audio": {"bytes": row["audio"]["bytes"], "path": None}} for part in parts for row in part]
    Dataset.from_list(content).to_parquet(out)


def statistics(processor: Any, rows: Dataset) -> np.ndarray:
    """Return mean and deviation by mel bin of each clip's log-mel spectrogram, not standardised."""
    from hub_mim_mwmae.feature_extraction_mwmae import read_clip
    from hub_mim_mwmae.frontend import log_mel

    made = []
    for row in rows:
        samples, rate = read_clip(row["audio"], 16_000)
        mel = log_mel(processor._wave({"array": samples, "sampling_rate": rate}, None))
        made.append(torch.cat([mel.mean(0), mel.std(0)]).numpy())
    return np.stack(made)


def folds(name: str) -> tuple[int, ...]:
    """Return the folds to judge on, in turn."""
    return (1, 2, 3, 4, 5) if name == "esc10" else (5,)


def probed(values: np.ndarray, rows: Dataset, name: str, seed: int, probe: Callable[..., np.ndarray]) -> float:
    """Return the mean accuracy of a probe over the folds."""
    labels, fold = np.asarray(rows["label"]), np.asarray(rows["fold"])
    scores = []
    for held in folds(name):
        train, test = fold != held, fold == held
        told = probe(values[train], labels[train], values[test], seed=seed)
        scores.append((told == labels[test]).mean())
    return float(np.mean(scores))


class Table:
    """The csv, appended to line by line."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            path.write_text(",".join(FIELDS) + "\n")
        self.done = {tuple(row[name] for name in FIELDS[:4]) for row in csv.DictReader(path.open())}

    def add(self, weights: str, data: str, measure: str, seed: int, make: Callable[[], float]) -> None:
        """Measure and write, unless it is there."""
        if (weights, data, measure, str(seed)) in self.done:
            return
        started = time.process_time()
        line = [weights, data, measure, seed, f"{make():.4f}", f"{time.process_time() - started:.0f}"]
        with self.path.open("a") as file:
            csv.writer(file, lineterminator="\n").writerow(line)
        print(*line, flush=True)


def named(run: Path) -> tuple[str, int]:
    """Return the preset and the seed of a run."""
    told = json.loads((run / "run.json").read_text())
    return f"{told['preset']}", int(told["seed"])


def judge(data: Path, runs: list[Path], out: Path) -> None:
    """Measure all runs, random weights of each preset, and the spectrogram."""
    table = Table(out)
    sets = {name: read(data, name) for name in SETS}
    processor = loading.load_processor(runs[0])
    for name, rows in sets.items():
        plain = statistics(processor, rows)
        table.add(
            "log-mel statistics",
            name,
            "logistic regression",
            0,
            lambda p=plain, r=rows, n=name: probed(p, r, n, 0, linear),
        )
        table.add(
            "log-mel statistics", name, "hear", 0, lambda p=plain, r=rows, n=name: probed(p, r, n, 0, hidden_layer)
        )
    for run in runs:
        preset, seed = named(run)
        model = loading.load(run)
        for name, rows in sets.items():
            for weights, encoder in ((preset, model), (f"{preset} untrained", untrained(model, seed))):
                judge_one(table, run, weights, name, rows, encoder, processor, seed)


def judge_one(
    table: Table, run: Path, weights: str, name: str, rows: Dataset, encoder: Any, processor: Any, seed: int
) -> None:
    """Measure one model on one dataset."""
    scratch = weights.endswith("untrained")
    vectors: list[np.ndarray] = []

    def hear() -> float:
        vectors.append(features(encoder, processor, rows))
        return probed(vectors[0], rows, name, seed, hidden_layer)

    def tuned() -> float:
        fold = np.asarray(rows["fold"])
        train, test = rows.select(np.flatnonzero(fold != 5)), rows.select(np.flatnonzero(fold == 5))
        chosen = train.select(few(np.asarray(train["label"]), 10, seed)).remove_columns(["fold"])
        return fine_tuned(run, chosen, test.remove_columns(["fold"]), "label", seed, scratch, TUNING)

    def hidden() -> float:
        whole = loading.load(run, auto="AutoModelForPreTraining")
        whole = untrained(whole, seed) if scratch else whole
        test = rows.select(np.flatnonzero(np.asarray(rows["fold"]) == 5)).select_columns(["audio"])
        return masked_losses(whole.eval(), processor, test, seed=0)["loss"]

    table.add(weights, name, "hear", seed, hear)
    table.add(weights, name, "hidden patches", seed, hidden)
    table.add(weights, name, "fine-tuned, 10 labels", seed, tuned)


def main() -> None:
    """Join or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("join", "judge"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    join(options.data, options.out) if options.what == "join" else judge(options.data, options.runs, options.out)


if __name__ == "__main__":
    main()
