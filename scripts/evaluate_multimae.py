"""What MultiMAE's pre-training is worth on scenes: fine-tuned on 100 labelled rows, beside RGB-only MAE and from scratch.

Each run: the same head, rows, steps and rate; AdamW, cosine, no augmentation; the last step is judged on the test split.
Segmentation by mean intersection over union of all classes, depth by the absolute error in scene units on pixels of
objects. Appends to a csv; what is there is not run again.
    python scripts/evaluate_multimae.py DATA --multimae runs/multimae-tiny --rgb runs/rgb-mae --out results.csv
"""

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from torch import Tensor

from hub_mim import loading
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.modeling_multimae_heads import MultiMAEForDepthEstimation, MultiMAEForSemanticSegmentation

CLASSES, LABELLED, STEPS, BATCH, RATE = 6, 100, 400, 16, 5e-4
FIELDS = ("task", "weights", "inputs", "seed", "metric", "value", "seconds")


def tensors(rows: Any, processor: Any) -> dict[str, Tensor]:
    """Return all rows as inputs, class maps, depth in scene units and where objects are."""
    batch = dict(
        processor(rows=[{"rgb": row["image"], "depth": row["depth"], "semseg": row["semseg"]} for row in rows])
    )
    found = {name: value for name, value in batch.items() if name in ("rgb", "depth")}
    found["classes"] = torch.stack([torch.from_numpy(np.array(row["semseg"])).long() for row in rows])
    found["distance"] = torch.stack([torch.from_numpy(np.array(row["depth"]).astype(np.float32)) / 100 for row in rows])
    return found


def build(task: str, source: Path | None, template: Path, names: list[str], seed: int) -> Any:
    """Return a model with a head: its encoder from a checkpoint, or fresh."""
    fields = loading.read_config(template)
    given = {name: fields[name] for name in MultiMAEConfig().to_dict() if name in fields}
    for name in (
        "architectures",
        "model_type",
        "transformers_version",
        "tasks",
        "normalized_targets",
        "crop_scale",
        "flip_share",
        "num_labels",
        "id2label",
        "label2id",
        "depth_loss",
    ):
        given.pop(name, None)
    given["modalities"] = [each for each in given["modalities"] if each["name"] in names]
    kind = MultiMAEForSemanticSegmentation if task == "segmentation" else MultiMAEForDepthEstimation
    config = MultiMAEConfig(**given, normalized_targets=[], num_labels=CLASSES, depth_loss="l1")
    torch.manual_seed(seed)
    model = kind(config)
    if source is not None:
        weights = loading.load(source).state_dict()
        own = model.multimae.state_dict()
        model.multimae.load_state_dict({name: value for name, value in weights.items() if name in own})
    return model


def run(model: Any, task: str, train: dict[str, Tensor], test: dict[str, Tensor], names: list[str], seed: int) -> float:
    """Fine-tune on some rows and judge on others."""
    source = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train["rgb"]), generator=source)[:LABELLED]
    mean, spread = train["distance"][chosen].mean(), train["distance"][chosen].std()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    model.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        picked = chosen[torch.randint(LABELLED, (BATCH,), generator=source)]
        labels = train["classes"][picked] if task == "segmentation" else (train["distance"][picked] - mean) / spread
        loss = model(**{name: train[name][picked] for name in names}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge(model.eval(), task, test, names, float(mean), float(spread))


def judge(model: Any, task: str, test: dict[str, Tensor], names: list[str], mean: float, spread: float) -> float:
    """Return mean intersection over union, or the absolute depth error on pixels of objects."""
    counts, error, pixels = torch.zeros(CLASSES, CLASSES), 0.0, 0
    for part in torch.arange(len(test["rgb"])).split(64):
        truth = test["classes"][part]
        with torch.no_grad():
            out = model(**{name: test[name][part] for name in names})
        if task == "segmentation":
            pairs = truth.flatten() * CLASSES + out.logits.argmax(1).flatten()
            counts += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
        else:
            objects = truth >= 2
            off = (out.predicted_depth * spread + mean - test["distance"][part]).abs()
            error, pixels = error + float(off[objects].sum()), pixels + int(objects.sum())
    right = counts.diagonal()
    return (
        float((right / (counts.sum(0) + counts.sum(1) - right).clamp(min=1)).mean())
        if task == "segmentation"
        else error / pixels
    )


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--multimae", type=Path, required=True)
    parser.add_argument("--rgb", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    done = list(csv.DictReader(options.out.open())) if options.out.is_file() else []
    if not options.out.is_file():
        options.out.write_text(",".join(FIELDS) + "\n")
    processor = loading.load_processor(options.multimae)
    train, test = (tensors(load_dataset(str(options.data), split=split), processor) for split in ("train", "test"))
    plans = [
        (task, weights, names)
        for task in ("segmentation", "depth")
        for weights, names in (
            ("MultiMAE", ["rgb"]),
            ("RGB-only MAE", ["rgb"]),
            ("from scratch", ["rgb"]),
            *([("MultiMAE", ["rgb", "depth"]), ("from scratch", ["rgb", "depth"])] if task == "segmentation" else []),
        )
    ]
    for seed in options.seeds:
        for task, weights, names in plans:
            key = {"task": task, "weights": weights, "inputs": "+".join(names), "seed": str(seed)}
            if any(all(row[name] == value for name, value in key.items()) for row in done):
                continue
            started = time.process_time()
            source = {"MultiMAE": options.multimae, "RGB-only MAE": options.rgb}.get(weights)
            value = run(build(task, source, options.multimae, names, seed), task, train, test, names, seed)
            metric = "miou" if task == "segmentation" else "object depth error"
            row = [*key.values(), metric, f"{value:.4f}", f"{time.process_time() - started:.0f}"]
            with options.out.open("a") as file:
                csv.writer(file).writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
