"""What pre-training of pictures and texts is worth on rendered scenes, part by part of a recipe.

A model learns from each training scene and its first caption; the step with the best retrieval on the validation split is kept,
the test split is judged once:

- retrieval: the caption of each of the 400 pictures among all captions and the other way round, beside chance and ridge
  regression from pixels to counts of words;
- what was learnt: the same with the words of one kind (colours, sizes, shapes, materials) left out of the captions, with the
  words of each caption shuffled, with mirrored pictures;
- zero-shot: one word of a true caption exchanged for every word of its kind; how often the true one is nearest;
- dense: every patch gets the class whose name is nearest (cube, sphere, cylinder, cone, floor, wall), or that a linear layer
  learns from the patches of 400 training scenes; mean IoU with the labels at the patches' places;
- regions (CFM-ViT): the shape of the object in each true box, by the nearest of four names, in pictures as they are and twice as
  large; and after learning from the boxes of the training scenes, with the tower frozen and not.

Appends to a csv; what is there is not run again.

    python scripts/evaluate_pairs.py DATA --method siglip2 --variant sigmoid --steps 1200 --out siglip2.csv
"""

import argparse
import copy
import csv
import json
import math
import random
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hub_mim import plugins, sharing
from hub_mim.data import load_rows
from hub_mim.method import resolve
from hub_mim.pairs import image_vectors, is_dual, recalls, similarity_maps, text_vectors

FIELDS = ("method", "variant", "seed", "measure", "value", "cpu_seconds")
BATCH = 64
WORDS = {
    "colour": ("red", "green", "blue", "yellow", "purple", "cyan", "brown", "gray"),
    "shape": ("cube", "sphere", "cylinder", "cone"),
    "size": ("small", "large"),
    "material": ("matte", "shiny"),
}
NAMES = ("the wall", "the floor", "a cube", "a sphere", "a cylinder", "a cone")  # by the label maps' numbers
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "siglip2": {
        "sigmoid": {"losses": ["sigmoid"]},
        "+ decoder": {"losses": ["sigmoid", "caption"]},
        "+ self-distillation": {"losses": ["sigmoid", "caption", "distillation"]},
        "+ masked prediction": {"losses": ["sigmoid", "caption", "distillation", "masked"]},
        "sigmoid, curated": {"losses": ["sigmoid"], "curation_ratio": 0.5},
    },
    "cfm_vit": {
        "full": {},
        "no reconstruction": {"loss_weights": {"reconstruction": 0.0}},
        "pixels reconstructed": {"reconstruction_target": "pixels"},
        "positions never dropped": {"pe_drop": 0.0},
        "whole picture contrasted": {"contrastive_on": "full"},
    },
}


def caption(row: dict[str, Any]) -> str:
    """Return a scene's first caption."""
    return str(row["captions"][0])


class Pairs:
    """The training rows as tensors."""

    def __init__(self, processor: Any, rows: list[dict[str, Any]]):
        made = [dict(processor(rows=rows[start : start + 200])) for start in range(0, len(rows), 200)]
        self.tensors = {name: torch.cat([part[name] for part in made]) for name in made[0]}

    def batch(self, chosen: Tensor) -> dict[str, Tensor]:
        """Return some rows."""
        return {name: value[chosen] for name, value in self.tensors.items()}


def train(
    model: Any,
    pairs: Pairs,
    judged: Any,
    options: argparse.Namespace,
    seed: int,
    on_step: Any,
) -> tuple[float, int]:
    """Pre-train; the weights of the step that judges best are put back.

    Returns:
        What the best step got, and which it was.
    """
    source = torch.Generator().manual_seed(seed)
    groups = model.parameter_groups() if hasattr(model, "parameter_groups") else model.parameters()
    optimizer = torch.optim.AdamW(groups, lr=options.rate, weight_decay=options.decay, betas=(0.9, 0.98))
    best, step_of, kept = -1.0, 0, {}
    count = len(pairs.tensors["input_ids"])
    large = options.batch * (2 if getattr(model.config, "curation_ratio", 0) else 1)
    takes_step = "step_seed" in model.forward.__code__.co_varnames or getattr(model.config, "curation_ratio", 0)
    for step in range(1, options.steps + 1):
        model.train()
        for group in optimizer.param_groups:
            warm = min(1.0, step / (0.05 * options.steps))
            group["lr"] = options.rate * warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        chosen = torch.randperm(count, generator=source)[:large]
        seeds = torch.randint(2**60, (large,), generator=source)
        given = {"step_seed": seed * 100_000 + step} if takes_step else {}
        loss = model(**pairs.batch(chosen), row_seed=seeds, **given).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group["params"]], 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(model, step, options.steps)
        if step % options.every == 0 or step == options.steps:
            value = judged(model)
            print(f"step {step} validation {value:.3f} loss {float(loss):.3f}", flush=True)
            if value > best:
                best, step_of = value, step
                kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(kept)
    return best, step_of


def begin(method: Any, fields: dict[str, Any], options: argparse.Namespace, seed: int) -> tuple[Any, Any]:
    """Return a processor and the model that is trained: a fresh one, or one that goes on from a folder."""
    kind, whole = (resolve(str(method.auto[name])) for name in ("AutoProcessor", "AutoModelForPreTraining"))
    if options.init:
        processor = kind.from_pretrained(options.init)
    else:
        processor = kind.for_config(fields).fit(load_rows(options.data, split="train"))  # with the names of classes
    torch.manual_seed(seed)
    config = resolve(method.config)(**{**fields, **processor.config_arguments()})
    if options.init:
        return processor, whole.from_pretrained(options.init, config=config, dtype=torch.float32)
    return processor, whole(config)


def towers(model: Any) -> Any:
    """Return what of a pre-training model has the two towers, in evaluation mode."""
    return (model if is_dual(model) else getattr(model, model.base_model_prefix)).eval()


def vectors(model: Any, processor: Any, rows: list[dict[str, Any]], texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return unit vectors of pictures and texts."""
    model = towers(model)
    images = [image_vectors(model, processor, rows[start : start + 100]) for start in range(0, len(rows), 100)]
    words = [text_vectors(model, processor, texts[start : start + 200]) for start in range(0, len(texts), 200)]
    return torch.cat(images), torch.cat(words)


def retrieval(
    model: Any, processor: Any, rows: list[dict[str, Any]], texts: list[str] | None = None
) -> dict[str, float]:
    """Return recalls of pictures and texts, default their captions."""
    texts = [caption(row) for row in rows] if texts is None else texts
    images, words = vectors(model, processor, rows, texts)
    return recalls(images @ words.T, torch.arange(len(rows)))


def validation(model: Any, processor: Any, rows: list[dict[str, Any]]) -> float:
    """Return what the best step is chosen by."""
    return retrieval(model, processor, rows)["recall@1 (mean of both)"]


def controls(model: Any, processor: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean recall at 1 with something taken away from captions or pictures."""
    mean, source, found = "recall@1 (mean of both)", random.Random(0), {}
    for kind, words in WORDS.items():
        bare = [re.sub(rf"\b({'|'.join(words)})\b", "", caption(row)) for row in rows]
        found[f"{mean}, no words of {kind}"] = retrieval(model, processor, rows, bare)[mean]
    mixed = [" ".join(source.sample(text.split(), len(text.split()))) for text in map(caption, rows)]
    found[f"{mean}, words shuffled"] = retrieval(model, processor, rows, mixed)[mean]
    mirrored = [row | {"image": ImageOps.mirror(row["image"].convert("RGB"))} for row in rows]
    found[f"{mean}, pictures mirrored"] = retrieval(model, processor, mirrored)[mean]
    return found


def exchanged(model: Any, processor: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return how often a true caption is nearer than those with one word exchanged, by kind of word."""
    found = {}
    for kind, words in WORDS.items():
        source = random.Random(0)
        texts, truths = [], []
        for row in rows:
            parts = re.findall(r"\w+|[^\w\s]", caption(row))
            where = source.choice([number for number, word in enumerate(parts) if word in words])
            texts += [" ".join([*parts[:where], word, *parts[where + 1 :]]) for word in words]
            truths.append(words.index(parts[where]))
        images, vectors_of = vectors(model, processor, rows, texts)
        near = (vectors_of.view(len(rows), len(words), -1) @ images[..., None])[..., 0].argmax(1)
        right = near.eq(torch.tensor(truths)).float()
        found[f"zero-shot {kind}, of {len(words)}"] = float(right.mean())
    return found


def dense(model: Any, processor: Any, rows: list[dict[str, Any]], enlarged: int = 1) -> float:
    """Return the mean IoU of classes of patches, by the nearest name."""
    model = towers(model)
    table = np.zeros((len(NAMES), len(NAMES)))
    for start in range(0, len(rows), 50):
        part = rows[start : start + 50]
        for row, near in zip(part, similarity_maps(model, processor, part, NAMES), strict=True):
            told = near.argmax(0).numpy()
            truth = np.asarray(row["semseg"].resize(told.shape[::-1], Image.Resampling.NEAREST))
            np.add.at(table, (truth.ravel(), told.ravel()), 1)
    both = np.diag(table)
    return float((both / np.maximum(1, table.sum(0) + table.sum(1) - both)).mean())


def dense_learnt(model: Any, processor: Any, splits: dict[str, list[dict[str, Any]]], seed: int) -> dict[str, float]:
    """Return the mean IoU of classes of patches by a linear layer over frozen features, and over those of random weights."""
    from sklearn.metrics import jaccard_score

    from hub_mim.dense import labelled_tokens
    from hub_mim.features import untrained
    from hub_mim.probes import batched_linear

    parts = [
        [{"image": row["image"], "semseg": row["semseg"]} for row in splits[name][:400]] for name in ("train", "test")
    ]
    tower, found = getattr(model, model.base_model_prefix, model).eval(), {}
    for what, encoder in (("", tower), (", random weights", untrained(tower, seed))):
        learnt, test = (labelled_tokens(encoder, processor, part, "semseg") for part in parts)
        (values, labels), (others, truth) = (map(np.concatenate, zip(*part, strict=True)) for part in (learnt, test))
        chosen = np.random.default_rng(seed).permutation(len(labels))[:20_000]
        told = batched_linear(values[chosen], labels[chosen], others, seed=seed, epochs=10, batch_size=1024)
        found[f"dense mIoU, learnt{what}"] = float(jaccard_score(truth, told, average="macro", zero_division=0))
    return found


class Boxes:
    """Pictures of a split with the true boxes and shapes of their objects; `times` as large."""

    def __init__(self, processor: Any, rows: list[dict[str, Any]], times: int = 1):
        pictures = [row["image"].convert("RGB") for row in rows]
        made = processor(images=pictures, return_tensors="pt", size=processor.image_size * times)
        self.pixels = made["pixel_values"]
        self.boxes, self.labels = torch.zeros(len(rows), 6, 4), torch.full((len(rows), 6), -100)
        for place, row in enumerate(rows):
            for number, each in enumerate(row["objects"][:6]):
                self.boxes[place, number] = torch.tensor(each["bbox"]) * self.pixels.shape[-1] / row["image"].size[0]
                self.labels[place, number] = 1 + each["category"]

    def accuracy(self, head: Any) -> float:
        """Return how often the right of the four shapes scores highest."""
        head.eval()
        right = []
        for part in torch.arange(len(self.pixels)).split(100):
            with torch.no_grad():
                told = head(self.pixels[part], self.boxes[part]).logits[..., 1:].argmax(-1) + 1
            known = self.labels[part] >= 0
            right.append(told[known] == self.labels[part][known])
        return float(torch.cat(right).float().mean())


def regions(
    whole: Any, processor: Any, splits: dict[str, list[dict[str, Any]]], seed: int, steps: int = 150
) -> dict[str, float]:
    """Return accuracies of the shapes in true boxes; see the module."""
    from hub_mim_cfm_vit.modeling_cfm_vit_heads import CfmVitForRegionClassification
    from hub_mim_cfm_vit.regions import category_embeddings

    towers = whole.cfm_vit.eval()
    names = category_embeddings(towers, processor, WORDS["shape"], ["a {}"], "the floor")
    test, large = Boxes(processor, splits["test"]), Boxes(processor, splits["test"], 2)
    learnt = Boxes(processor, splits["train"][:800])
    shapes = test.labels[test.labels >= 0]
    found = {"regions, most frequent shape": float(torch.bincount(shapes).max() / len(shapes))}
    for frozen in (True, False):
        torch.manual_seed(seed)
        config = copy.deepcopy(whole.config)
        config.num_labels, config.freeze_backbone, config.vlm_temperature = 5, frozen, 0.07
        head = CfmVitForRegionClassification(config)
        head.cfm_vit.vision.load_state_dict(towers.vision.state_dict())
        head.set_categories(names)
        if frozen:
            found |= {
                "regions, names alone": test.accuracy(head),
                "regions, names alone, twice as large": large.accuracy(head),
            }
        optimizer = torch.optim.AdamW([w for w in head.train().parameters() if w.requires_grad], lr=5e-4)
        source = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            chosen = torch.randint(len(learnt.pixels), (32,), generator=source)
            loss = head.train()(learnt.pixels[chosen], learnt.boxes[chosen], learnt.labels[chosen]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        kind = "tower frozen" if frozen else "tower trained too"
        found[f"regions, learnt from boxes, {kind}"] = test.accuracy(head)
        found[f"regions, learnt from boxes, {kind}, twice as large"] = large.accuracy(head)
    return found


def ridge(train_rows: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return recalls of ridge regression from pixels (16 by 16) to counts of words and pairs of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import Ridge

    counter = CountVectorizer(ngram_range=(1, 2), min_df=5)
    words = counter.fit_transform(map(caption, train_rows)).toarray()
    told = counter.transform(map(caption, rows)).toarray()

    def pixels(part: list[dict[str, Any]]) -> np.ndarray:
        return (
            np.stack([np.asarray(row["image"].convert("RGB").resize((16, 16)), np.float32).ravel() for row in part])
            / 255
        )

    near = Ridge(alpha=30.0).fit(pixels(train_rows), words).predict(pixels(rows)) - words.mean(0)
    other = told - words.mean(0)
    near, other = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9) for x in (near, other))
    return recalls(torch.from_numpy(near @ other.T), torch.arange(len(rows)))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--method", choices=tuple(VARIANTS), required=True)
    parser.add_argument("--variant", nargs="+", help="default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--suffix", default="", help="behind the variants' names in the csv")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=1e-2)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--set", nargs="*", default=[], help="name=JSON of the configuration")
    parser.add_argument("--reference", help="of curation: folder")
    parser.add_argument("--init", help="folder of a model to go on from; what it lacks begins anew")
    parser.add_argument("--keep", type=Path, help="folder for the first model")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not options.out.is_file():
        options.out.write_text(",".join(FIELDS) + "\n")
    done = {(row["method"], row["variant"], row["seed"]) for row in csv.DictReader(options.out.open())}
    torch.set_num_threads(1)
    method = plugins.get_method(options.method)
    splits = {
        name: [dict(row) for row in load_rows(options.data, split=name)] for name in ("train", "validation", "test")
    }

    def write(variant: str, seed: int, measure: str, value: float, spent: float) -> None:
        with options.out.open("a") as file:
            row = [options.method, variant, seed, measure, f"{value:.4f}", f"{spent:.0f}"]
            csv.writer(file, lineterminator="\n").writerow(row)
        print(options.method, variant, seed, measure, f"{value:.4f}", f"{spent:.0f}", flush=True)

    for seed in options.seeds:
        for part, variant in ((each, each + options.suffix) for each in options.variant or VARIANTS[options.method]):
            if (options.method, variant, str(seed)) in done:
                continue
            started = time.process_time()
            own = {name: json.loads(value) for name, value in (each.split("=", 1) for each in options.set)}
            fields = {**method.presets["nano"], **VARIANTS[options.method][part], **own}
            if options.reference:
                fields["curation_reference"] = options.reference
            processor, model = begin(method, fields, options, seed)
            pairs = Pairs(processor, splits["train"])
            judged = partial(validation, processor=processor, rows=splits["validation"])
            step = resolve(method.on_step) if method.on_step else None
            best, step_of = train(model, pairs, judged, options, seed, step)
            spent = time.process_time() - started
            write(variant, seed, "validation recall@1 (mean of both)", best, spent)
            write(variant, seed, "best step", step_of, spent)
            test = splits["test"]
            for name, value in retrieval(model, processor, test).items():
                write(variant, seed, name, value, spent)
            for name, value in (controls(model, processor, test) | exchanged(model, processor, test)).items():
                write(variant, seed, name, value, spent)
            write(variant, seed, "dense mIoU", dense(model, processor, test), spent)
            for name, value in dense_learnt(model, processor, splits, seed).items():
                write(variant, seed, name, value, spent)
            if options.method == "cfm_vit":
                for name, value in regions(model, processor, splits, seed).items():
                    write(variant, seed, name, value, spent)
            if options.keep is not None:
                sharing.save(options.keep, model, processor, overwrite=True)
                options.keep = None
    if (options.method, "ridge from pixels", "0") not in done:
        for name, value in ridge(splits["train"], splits["test"]).items():
            write("ridge from pixels", 0, name, value, 0)


if __name__ == "__main__":
    main()
