"""What UNITER's and LXMERT's pre-training is worth on rendered scenes: questions about them, beside from scratch.

Regions are the scenes' true boxes, their features the crops, or (`--regions cells`) the cells of a grid over the picture: no
boxes, pixels alone. Pre-training sees captions of the training scenes; the model is then fine-tuned on their questions, and so
is one of the same size from scratch: same steps, rate, order. The best step is chosen on validation, the test split is judged
once. Controls: regions of other scenes; the most frequent answer of each kind of question. After pre-training alone: whether
captions are told from those of other scenes, and which of 100 captions belongs to a scene, and the other way round. `--nlvr`
judges sentences of people instead (right or wrong of a picture). Appends to a csv; what is there is not run again.

    python scripts/evaluate_regions.py DATA --method uniter --seeds 0 1 --out uniter.csv
"""

import argparse
import collections
import csv
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import plugins, sharing
from hub_mim.bucketing import TokenBatches
from hub_mim.data import load_rows
from hub_mim.method import resolve
from hub_mim.pairs import recalls

FIELDS = ("method", "weights", "seed", "measure", "value", "cpu_seconds")
BATCH, RATE, TOKENS = 128, 5e-4, 4096
REACHED = 0.6  # of validation, whose time is told
CELLS = 6  # a side
HEADS = {
    "uniter": "hub_mim_uniter.modeling_uniter_heads:UniterForQuestionAnswering",
    "lxmert": "hub_mim_lxmert.modeling_lxmert_mim_heads:LxmertMimForQuestionAnswering",
}
REGIONS = ("visual_feats", "visual_pos", "visual_attention_mask", "soft_labels")
REGIONS += ("object_labels", "object_confidence", "attribute_labels", "attribute_confidence")


class Scenes:
    """A split: regions of every scene, its captions and questions as tensors."""

    def __init__(self, rows: list[dict[str, Any]], processor: Any, answers: list[str]):
        bare = [row | {"text": ""} for row in rows]
        made = [dict(processor(rows=bare[start : start + 400])) for start in range(0, len(rows), 400)]
        self.regions = {}
        for name in REGIONS:
            if name in made[0]:
                longest = max(part[name].shape[1] for part in made)
                parts = [
                    _long(part[name], longest, -100 if name.endswith("labels") and "soft" not in name else 0)
                    for part in made
                ]
                self.regions[name] = torch.cat(parts)
        place = {name: number for number, name in enumerate(answers)}
        captions = [(number, text) for number, row in enumerate(rows) for text in row["captions"]]
        questions = [(number, each) for number, row in enumerate(rows) for each in row["questions"]]
        self.captions = self._texts(processor, [text for _, text in captions], [number for number, _ in captions])
        self.questions = self._texts(
            processor, [q["question"] for _, q in questions], [number for number, _ in questions]
        )
        self.answers = torch.tensor([place.get(q["answer"], 0) for _, q in questions])
        self.kinds = [q["type"] for _, q in questions]

    @staticmethod
    def _texts(processor: Any, texts: list[str], scenes: list[int]) -> dict[str, Tensor]:
        found = processor._texts([{"text": text} for text in texts])
        return dict(found) | {"scene": torch.tensor(scenes)}

    def batch(self, texts: dict[str, Tensor], chosen: Tensor, scenes: Tensor | None = None) -> dict[str, Tensor]:
        """Return texts with the regions of their scenes, or of others."""
        own = texts["scene"][chosen] if scenes is None else scenes
        given = {name: value[chosen] for name, value in texts.items() if name != "scene"}
        width = int(given["attention_mask"].sum(1).max())
        given = {name: value[:, :width] for name, value in given.items()}
        return given | {name: value[own] for name, value in self.regions.items()}


def _long(values: Tensor, length: int, fill: float) -> Tensor:
    made = values.new_full((len(values), length, *values.shape[2:]), fill)
    made[:, : values.shape[1]] = values
    return made


def schedule(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Warm up over a tenth, then fall by a cosine."""
    for group in optimizer.param_groups:
        group["lr"] = RATE * min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def pretrain(model: Any, scenes: Scenes, steps: int, seed: int) -> None:
    """Pre-train on captions, in batches of so many tokens."""
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    owner = scenes.captions["scene"]
    lengths = scenes.captions["attention_mask"].sum(1) + scenes.regions["visual_attention_mask"].sum(1)[owner]
    batches = TokenBatches(lengths.tolist(), TOKENS, seed=seed)
    drawn = itertools.chain.from_iterable(_epochs(batches))
    model.train()
    for step, chosen in enumerate(itertools.islice(drawn, steps)):
        schedule(optimizer, step, steps)
        options = {"step_seed": seed * 100_000 + step} if model.config.model_type == "uniter" else {}
        seeds = torch.randint(2**60, (len(chosen),), generator=source)
        _step(
            model(**scenes.batch(scenes.captions, torch.tensor(chosen)), row_seed=seeds, **options).loss,
            model,
            optimizer,
        )


def _epochs(batches: TokenBatches) -> Iterator[TokenBatches]:
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        yield batches


def _step(loss: Tensor, model: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()


def tune(model: Any, train: Scenes, validation: Scenes, steps: int, seed: int) -> dict[str, float]:
    """Fine-tune on questions; the weights of the best step on validation are put back.

    Returns:
        Validation accuracy by step, and the CPU seconds until it reached `REACHED` (without the time of looking).
    """
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    best, kept, seen, spent = -1.0, {}, {}, 0.0
    for step in range(1, steps + 1):
        started = time.process_time()
        model.train()
        schedule(optimizer, step, steps)
        chosen = torch.randint(len(train.answers), (BATCH,), generator=source)
        out = model(**train.batch(train.questions, chosen))
        _step(torch.nn.functional.cross_entropy(out.logits, train.answers[chosen]), model, optimizer)
        spent += time.process_time() - started
        if step % 100 == 0:
            value = accuracy(model, validation)["all"]
            seen[f"validation after {step} steps"] = value
            if value >= REACHED:
                seen.setdefault(f"fine-tuning seconds to {REACHED} of validation", spent)
            if value > best:
                best, kept = value, {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(kept)
    return seen


def accuracy(model: Any, scenes: Scenes, shuffled: bool = False) -> dict[str, float]:
    """Return the share of right answers, of all and by kind of question."""
    model.eval()
    right: dict[str, list[bool]] = collections.defaultdict(list)
    other = torch.randperm(len(scenes.regions["visual_feats"]), generator=torch.Generator().manual_seed(0))
    for part in torch.arange(len(scenes.answers)).split(256):
        own = scenes.questions["scene"][part]
        with torch.no_grad():
            told = model(**scenes.batch(scenes.questions, part, other[own] if shuffled else None)).logits.argmax(1)
        for number, good in zip(part.tolist(), told.eq(scenes.answers[part]).tolist(), strict=True):
            right["all"].append(good)
            right[scenes.kinds[number]].append(good)
    return {name: sum(values) / len(values) for name, values in right.items()}


def matching(model: Any, scenes: Scenes) -> float:
    """Return how often the model tells a scene's caption from another scene's; half of each."""
    model.eval()
    right = []
    count = len(scenes.regions["visual_feats"])
    for part in torch.arange(len(scenes.captions["scene"])).split(256):
        own = scenes.captions["scene"][part]
        label = part % 2
        where = torch.where(label == 1, own, (own + 1 + part // 2 % (count - 1)) % count)
        batch = scenes.batch(scenes.captions, part, where)
        nothing = {
            "text": torch.zeros_like(batch["input_ids"]).bool(),
            "regions": torch.zeros_like(batch["visual_attention_mask"]),
        }
        with torch.no_grad():
            told = model(**batch, mask=nothing, matched_label=label).matched_logits.argmax(1)
        right.append(told.eq(label).float())
    return float(torch.cat(right).mean())


def retrieval(model: Any, scenes: Scenes, count: int = 100) -> dict[str, float]:
    """Return the recalls of scenes and their first captions among each other, by the score of matching of every pair."""
    model.eval()
    first = {int(scene): place for place, scene in reversed(list(enumerate(scenes.captions["scene"])))}
    texts = torch.tensor([first[scene] for scene in range(count)])
    score = torch.empty(count, count)
    for scene in range(count):
        batch = scenes.batch(scenes.captions, texts, torch.full((count,), scene))
        nothing = {
            "text": torch.zeros_like(batch["input_ids"]).bool(),
            "regions": torch.zeros_like(batch["visual_attention_mask"]),
        }
        with torch.no_grad():
            out = model(**batch, mask=nothing, matched_label=torch.ones(count, dtype=torch.int64)).matched_logits
        score[scene] = out[:, 1] - out[:, 0]
    return {f"{name}, of {count}": value for name, value in recalls(score, torch.arange(count)).items()}


def frequent(train: Scenes, test: Scenes) -> float:
    """Return what the most frequent answer of each kind of question gets."""
    by_kind: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for kind, answer in zip(train.kinds, train.answers.tolist(), strict=True):
        by_kind[kind][answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in by_kind.items()}
    pairs = zip(test.kinds, test.answers.tolist(), strict=True)
    return sum(best[kind] == answer for kind, answer in pairs) / len(test.kinds)


def scene_splits(data: str) -> dict[str, list[dict[str, Any]]]:
    """Return rows with captions and questions."""
    return {name: [dict(row) for row in load_rows(data, split=name)] for name in ("train", "validation", "test")}


def sentence_splits(data: str) -> dict[str, list[dict[str, Any]]]:
    """Return pictures with one sentence each, whose truth is the question."""
    splits = scene_splits(data)
    for row in itertools.chain.from_iterable(splits.values()):
        row["captions"] = [row["sentence"]]
        row["questions"] = [
            {"type": "sentence", "question": row["sentence"], "answer": ("false", "true")[row["label"]]}
        ]
    return splits


def cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the cells of a grid for boxes, and without anything that tells of objects."""
    wide, high = row["image"].size
    places = [(x / CELLS, y / CELLS, (x + 1) / CELLS, (y + 1) / CELLS) for y in range(CELLS) for x in range(CELLS)]
    boxes = [[x1 * wide, y1 * high, x2 * wide, y2 * high] for x1, y1, x2, y2 in places]
    return {name: value for name, value in row.items() if name != "objects"} | {"boxes": boxes}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--method", choices=tuple(HEADS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--set", nargs="*", default=[], help="name=value of the configuration, such as masking=joint")
    parser.add_argument("--label", default="pre-trained")
    parser.add_argument("--regions", choices=("boxes", "cells"), default="boxes")
    parser.add_argument("--nlvr", action="store_true")
    parser.add_argument("--only", choices=("pre-trained", "scratch"), help="one of the two rows")
    parser.add_argument("--keep", type=Path, help="folder for the first seed's pre-trained model")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not options.out.is_file():
        options.out.write_text(",".join(FIELDS) + "\n")
    done = {(row["method"], row["weights"], row["seed"]) for row in csv.DictReader(options.out.open())}
    torch.set_num_threads(1)
    method = plugins.get_method(options.method)
    splits = (sentence_splits if options.nlvr else scene_splits)(options.data)
    if options.regions == "cells":
        splits = {name: [cells(row) for row in rows] for name, rows in splits.items()}
    processor = fitted(method, splits["train"])
    sets = {name: Scenes(rows, processor, processor.answers) for name, rows in splits.items()}
    config = {**method.presets["nano"], **_told(options.method, processor), **_assigned(options.set)}
    if options.regions == "cells":
        config |= {"tasks": {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0}} if options.method == "uniter" else {}

    def write(weights: str, seed: int, measure: str, value: float, spent: float) -> None:
        with options.out.open("a") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [options.method, weights, seed, measure, f"{value:.4f}", f"{spent:.0f}"]
            )
        print(options.method, weights, seed, measure, f"{value:.4f}", f"{spent:.0f}", flush=True)

    suffix = {"cells": ", cells of a grid", "boxes": ""}[options.regions] + (
        ", sentences of people" if options.nlvr else ""
    )
    names = {"pre-trained": options.label + suffix, "scratch": "from scratch" + suffix}
    for seed in options.seeds:
        for kind, weights in names.items():
            if (options.method, weights, str(seed)) in done or (options.only or kind) != kind:
                continue
            started = time.process_time()
            torch.manual_seed(seed)
            kept = options.keep if seed == options.seeds[0] else None
            head = resolve(HEADS[options.method])(resolve(method.config)(**config))
            if kind == "pre-trained":
                whole = resolve(str(method.auto["AutoModelForPreTraining"]))(resolve(method.config)(**config))
                pretrain(whole, sets["train"], options.pretrain_steps, seed)
                spent = time.process_time() - started
                write(weights, seed, "matching", matching(whole, sets["test"]), spent)
                for name, value in retrieval(whole, sets["test"]).items():
                    write(weights, seed, name, value, spent)
                base = head.base_model_prefix
                getattr(head, base).load_state_dict(getattr(whole, base).state_dict())
                if kept is not None:
                    sharing.save(kept, whole, processor, overwrite=True)
            for name, value in tune(head, sets["train"], sets["validation"], options.steps, seed).items():
                write(weights, seed, name, value, time.process_time() - started)
            spent = time.process_time() - started
            if kept is not None and kind == "pre-trained":
                sharing.save(kept.with_name(f"{kept.name}-answers"), head, processor, overwrite=True)
            for name, value in accuracy(head, sets["test"]).items():
                write(weights, seed, name, value, spent)
            write(weights, seed, "regions of other scenes", accuracy(head, sets["test"], shuffled=True)["all"], spent)
    write("most frequent answer of each kind" + suffix, 0, "all", frequent(sets["train"], sets["test"]), 0)


def fitted(method: Any, rows: list[dict[str, Any]]) -> Any:
    """Return the processor, with the words of captions and questions and all answers."""
    asked = [{"text": q["question"], "answer": q["answer"]} for row in rows for q in row["questions"]]
    texts = [{"text": text} for row in rows for text in row["captions"]]
    first = [row | {"text": row["captions"][0]} for row in rows]
    return resolve(str(method.auto["AutoProcessor"]))().fit([*first, *(first[0] | each for each in [*texts, *asked])])


def _told(name: str, processor: Any) -> dict[str, Any]:
    """Return what the configuration takes from the processor, with as many answers as there are."""
    told = processor.config_arguments()
    answers = len(processor.answers)
    if name == "uniter":
        told |= {"num_answers": answers, "tasks": {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "mrckl": 1.0}}
        return told | ({"num_region_classes": 1 + len(processor.classes)} if processor.classes else {})
    return told | {"num_qa_labels": answers, "task_qa": False}


def _assigned(items: list[str]) -> dict[str, Any]:
    return {name: _value(value) for name, value in (each.split("=", 1) for each in items)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
