"""Fine-tuning from a few labelled rows, from the checkpoint and from scratch: what pre-training is worth."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_mim.checking import takes
from hub_mim.method import suggest


def judge(
    name: str,
    model: Any,
    processor: Any,
    rows: Any,
    *,
    source: Any,
    train: Any = None,
    label: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Any] | None = None,
    **extraction: Any,
) -> list[dict[str, Any]]:
    """Return the accuracy after fine-tuning, beside the same from fresh weights and the most frequent class.

    For each seed a fifth of the rows is kept to judge on (or all, where `train` brings the others); of the others each
    class gives `labels_per_class` rows, a fifth of which choose the best step.

    Args:
        source: folder or Hub id of the checkpoint, which `finetuning.finetune` begins with.
        options: `labels_per_class` and arguments of `finetuning.finetune`.
        name, model, processor, rows, train, label, seeds, extraction: see `protocols.judge`.
    Raises:
        ValueError: no head for classes, labels that are quantities, too few rows of a class.
    """
    from hub_mim.data import load_rows
    from hub_mim.probes import stratified_split
    from hub_mim.protocols import PROTOCOLS, chosen_options, few, figure, label_column, read_labels

    protocol = PROTOCOLS[name]
    chosen = chosen_options(name, protocol, options or {})
    per_class = chosen.pop("labels_per_class")
    rows, others = load_rows(rows), None if train is None else load_rows(train)
    column = label_column(rows, label)
    labels = read_labels(rows, column)
    known = labels if others is None else read_labels(others, column)
    found: dict[str, list[float]] = {"": [], "from scratch": [], "most frequent class": []}
    for seed in seeds:
        inner, held = stratified_split(labels, protocol.test_share, seed)
        judged, learnt, truth = (
            (rows, others, known) if others is not None else (rows.select(held), rows.select(inner), labels[inner])
        )
        some = learnt.select(few(truth, per_class, seed))
        for what in ("", "from scratch"):
            found[what].append(_accuracy(source, some, judged, column, seed, bool(what), chosen))
        answers = labels if others is not None else labels[held]
        found["most frequent class"].append(max(float((answers == value).mean()) for value in set(answers.tolist())))
    return [figure(name, protocol, "accuracy", what, values, seeds) for what, values in found.items()]


def _accuracy(
    source: Any, some: Any, judged: Any, label: str, seed: int, scratch: bool, options: Mapping[str, Any]
) -> float:
    from hub_mim.finetuning import finetune
    from hub_mim.heads import load_head
    from hub_mim.loading import load_processor

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tuned"
        run = finetune(source, some, out, label=label, from_scratch=scratch, seed=seed, **options)
        model, processor = load_head(out, run.task["task"]), load_processor(out)
        return accuracy(model, processor, judged, label)


@takes(batch_size=">=1")
def accuracy(model: Any, processor: Any, rows: Any, label: str, batch_size: int = 64) -> float:
    """Return the share of rows whose class a model with a head names.

    Raises:
        ValueError: a class that the model does not know.
    """
    import torch

    from hub_mim.data import batches, encode

    model.eval()
    feature = rows.features[label]
    right = []
    for part in batches(rows, batch_size):
        encoded = encode(processor, part.without(label))
        batch = {name: value.to(model.device) for name, value in encoded.items()}
        with torch.no_grad():
            named = [model.config.id2label[number] for number in model(**batch).logits.argmax(-1).tolist()]
        for row, name in zip(part, named, strict=True):
            truth = feature.int2str(row[label]) if hasattr(feature, "int2str") else str(row[label])
            if truth not in model.config.label2id:
                known = model.config.label2id
                raise ValueError(f"no class {truth!r} in the model{suggest(truth, known)}; it has {', '.join(known)}")
            right.append(name == truth)
    return sum(right) / len(right)
