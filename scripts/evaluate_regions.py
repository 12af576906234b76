"""What UNITER's and LXMERT's pre-training is worth on rendered scenes: questions about them, beside from scratch.

Regions are the scenes' true boxes, their features the crops. Pre-training sees captions of the training scenes; the model is
then fine-tuned on their questions, and so is one of the same size from scratch: same steps, rate, order. The best step is
chosen on the validation split, the test split is judged once. Controls: regions of other scenes; the most frequent answer
of each kind of question. Matching is judged on true captions and on those of other scenes. Appends to a csv; what is there is
not run again.

    python scripts/evaluate_regions.py DATA --method uniter --seeds 0 1 --out uniter.csv
"""

import argparse
import collections
import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import plugins
from hub_mim.data import load_rows
from hub_mim.method import resolve

FIELDS = ("method", "weights", "seed", "measure", "value", "cpu_seconds")
BATCH, RATE = 64, 5e-4
HEADS = {
    "uniter": "hub_mim_uniter.modeling_uniter_heads:UniterForQuestionAnswering",
    "lxmert": "hub_mim_lxmert.modeling_lxmert_mim_heads:LxmertMimForQuestionAnswering",
}
REGIONS = ("visual_feats", "visual_pos", "visual_attention_mask", "soft_labels")
REGIONS += ("object_labels", "object_confidence", "attribute_labels", "attribute_confidence")


class Scenes:
    """A split: regions of every scene, its captions and questions as tensors."""

    def __init__(self, rows: list[dict[str, Any]], processor: Any, answers: list[str]):
        made = [dict(processor(rows=rows[start : start + 400])) for start in range(0, len(rows), 400)]
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
    """Pre-train on captions."""
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    model.train()
    for step in range(steps):
        schedule(optimizer, step, steps)
        chosen = torch.randint(len(scenes.captions["scene"]), (BATCH,), generator=source)
        options = {"step_seed": seed * 100_000 + step} if model.config.model_type == "uniter" else {}
        seeds = torch.randint(2**60, (BATCH,), generator=source)
        loss = model(**scenes.batch(scenes.captions, chosen), row_seed=seeds, **options).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()


def tune(model: Any, train: Scenes, validation: Scenes, steps: int, seed: int) -> tuple[float, dict[int, float]]:
    """Fine-tune on questions; the weights of the best step on validation are put back; returns accuracy by step."""
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    best, kept, seen = -1.0, {}, {}
    for step in range(1, steps + 1):
        model.train()
        schedule(optimizer, step, steps)
        chosen = torch.randint(len(train.answers), (BATCH,), generator=source)
        out = model(**train.batch(train.questions, chosen))
        loss = torch.nn.functional.cross_entropy(out.logits, train.answers[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % (steps // 8) == 0:
            seen[step] = accuracy(model, validation)["all"]
            if seen[step] > best:
                best, kept = seen[step], {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return best, seen


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


def frequent(train: Scenes, test: Scenes) -> float:
    """Return what the most frequent answer of each kind of question gets."""
    by_kind: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for kind, answer in zip(train.kinds, train.answers.tolist(), strict=True):
        by_kind[kind][answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in by_kind.items()}
    pairs = zip(test.kinds, test.answers.tolist(), strict=True)
    return sum(best[kind] == answer for kind, answer in pairs) / len(test.kinds)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--method", choices=tuple(HEADS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--set", nargs="*", default=[], help="name=value of the configuration, such as masking=joint")
    parser.add_argument("--label", default="pre-trained")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not options.out.is_file():
        options.out.write_text(",".join(FIELDS) + "\n")
    done = {(row["method"], row["weights"], row["seed"]) for row in csv.DictReader(options.out.open())}
    torch.set_num_threads(1)
    method = plugins.get_method(options.method)
    splits = {
        name: [dict(row) for row in load_rows(options.data, split=name)] for name in ("train", "validation", "test")
    }
    asked = [{"text": q["question"], "answer": q["answer"]} for row in splits["train"] for q in row["questions"]]
    texts = [{"text": text} for row in splits["train"] for text in row["captions"]]
    processor = resolve(str(method.auto["AutoProcessor"]))()
    first = [row | {"text": row["captions"][0]} for row in splits["train"]]
    processor.fit([*first, *(first[0] | each for each in [*texts, *asked])])
    sets = {
        name: Scenes([row | {"text": ""} for row in rows], processor, processor.answers)
        for name, rows in splits.items()
    }
    own = dict(each.split("=", 1) for each in options.set)
    config_class, told = resolve(method.config), processor.config_arguments()
    told.pop("num_answers", None)
    told.pop("num_qa_labels", None)
    if options.method == "uniter":
        told |= {"num_region_classes": 1 + len(processor.classes), "num_answers": len(processor.answers)}
        told |= {"tasks": {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "mrckl": 1.0}}
    else:
        told |= {"num_qa_labels": len(processor.answers), "task_qa": False}
    config = {**method.presets["nano"], **told, **own}

    def write(weights: str, seed: int, measure: str, value: float, spent: float) -> None:
        with options.out.open("a") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [options.method, weights, seed, measure, f"{value:.4f}", f"{spent:.0f}"]
            )
        print(options.method, weights, seed, measure, f"{value:.4f}", f"{spent:.0f}", flush=True)

    for seed in options.seeds:
        for weights in (options.label, "from scratch"):
            if (options.method, weights, str(seed)) in done:
                continue
            started = time.process_time()
            torch.manual_seed(seed)
            head = resolve(HEADS[options.method])(config_class(**config))
            if weights != "from scratch":
                whole = resolve(str(method.auto["AutoModelForPreTraining"]))(config_class(**config))
                pretrain(whole, sets["train"], options.pretrain_steps, seed)
                spent = time.process_time() - started
                write(weights, seed, "matching", matching(whole, sets["test"]), spent)
                base = head.base_model_prefix
                getattr(head, base).load_state_dict(getattr(whole, base).state_dict())
                whole.save_pretrained(options.out.with_suffix("") / f"{options.method}-{seed}")
                processor.save_pretrained(options.out.with_suffix("") / f"{options.method}-{seed}")
            _, seen = tune(head, sets["train"], sets["validation"], options.steps, seed)
            spent = time.process_time() - started
            for step, value in seen.items():
                write(weights, seed, f"validation after {step} steps", value, spent)
            for name, value in accuracy(head, sets["test"]).items():
                write(weights, seed, name, value, spent)
            write(weights, seed, "regions of other scenes", accuracy(head, sets["test"], shuffled=True)["all"], spent)
            write("most frequent answer of each kind", seed, "all", frequent(sets["train"], sets["test"]), 0)


if __name__ == "__main__":
    main()
