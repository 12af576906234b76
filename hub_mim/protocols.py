"""Named ways to judge frozen features: which probe, on how much, beside what. The figures are `Result`s.

Each protocol judges three things on the same rows: the checkpoint, a model of the same architecture with random weights,
and the input itself; where there are classes, the most frequent one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_mim import probes
from hub_mim.checking import takes
from hub_mim.features import features, raw_features, untrained
from hub_mim.method import resolve, suggest

if TYPE_CHECKING:
    import numpy as np

SHARES = ("accuracy", "miou", "recall@1", "recall@5", "recall@10", "map")  # figures between 0 and 1
LABELS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class Protocol:
    """A way to judge.

    Attributes:
        told: one line for people.
        labels: whether rows need a label.
        predict: (train, labels, test, seed=) -> predictions, see `probes`; None where features are judged as a whole.
        whole: (features, labels) -> figures by name.
        judge: `"module:function"` that takes the place of `judge` here, for what does not look at one vector a row.
        test_share: of the rows, where no rows to learn from are given.
        per_class: labelled rows of each class to learn from; None for all.
        options: what a user may set, with the usual values.
        task_type: the Hub's name of the task.
        learns: whether some of the rows are learnt from.
    """

    told: str
    labels: bool = True
    predict: Callable[..., Any] | None = None
    whole: Callable[..., dict[str, float]] | None = None
    judge: str | None = None
    test_share: float = 0.2
    per_class: int | None = None
    options: Mapping[str, Any] | None = None
    task_type: str = "feature-extraction"
    learns: bool = True


def _retrieval(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return probes.retrieval(values, labels)


def _rankme(values: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    return {"rankme": probes.rankme(values)}


PROTOCOLS: dict[str, Protocol] = {
    "linear": Protocol("logistic or ridge regression, penalty chosen on training rows", predict=probes.linear),
    "mae-linear": Protocol(
        "MAE's linear probe: normalised features, SGD, 90 epochs, best of seven rates",
        predict=probes.batched_linear,
        options={"epochs": 90, "batch_size": 512},
    ),
    "knn": Protocol(
        "nearest neighbours by cosine, weighted", predict=probes.nearest, options={"k": 20, "temperature": 0.07}
    ),
    "few-label": Protocol("linear, from ten labelled rows a class", predict=probes.linear, per_class=10),
    "hear": Protocol(
        "HEAR's probe: one hidden layer of 1024, Adam, early stopping on a fifth of the rows to learn from",
        predict=probes.hidden_layer,
        options={"epochs": 500, "batch_size": 1024, "patience": 20},
    ),
    "planetoid-probe": Protocol(
        "Planetoid's amount of labels, 20 rows a class: linear layer, Adam, 100 epochs, best on a fifth of them",
        predict=probes.small_linear,
        per_class=20,
        options={"epochs": 100, "weight_decay": 1e-3},
    ),
    "dense": Protocol(
        "a linear probe for every token, SGD, best of seven rates",
        judge="hub_mim.dense:judge",
        options={"tokens": 64, "epochs": 30, "batch_size": 4096},
        task_type="image-segmentation",
    ),
    "zero-shot": Protocol(
        "the class whose name in a sentence is nearest by cosine",
        judge="hub_mim.zero_shot:judge",
        options={"template": "a photo of a {}."},
        learns=False,
        task_type="zero-shot-image-classification",
    ),
    "image-text-retrieval": Protocol(
        "a picture's text among all texts, a text's picture among all pictures, by cosine",
        labels=False,
        judge="hub_mim.pairs:judge",
        options={"captions": "first"},
        learns=False,
        task_type="zero-shot-retrieval",
    ),
    "finetune": Protocol(
        "fine-tuned from ten labelled rows a class, judged on the others, beside the same from scratch",
        judge="hub_mim.few_label:judge",
        options={"labels_per_class": 10, "steps": 200, "learning_rate": 5e-4, "batch_size": 32},
        task_type="image-classification",
    ),
    "retrieval": Protocol("rows of the same class among all others", whole=_retrieval, learns=False),
    "rankme": Protocol("effective rank of the features, without labels", labels=False, whole=_rankme, learns=False),
}


def judge(
    name: str,
    model: Any,
    processor: Any,
    rows: Any,
    *,
    source: Any = None,
    train: Any = None,
    label: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Any] | None = None,
    **extraction: Any,
) -> list[dict[str, Any]]:
    """Return the figures of a protocol: fields of `Result` without those that tell where the rows are from.

    Args:
        name: one of `PROTOCOLS`.
        model: an encoder. processor: see `data.encode`.
        rows: to judge on. source: where the checkpoint is, for protocols that train it further.
        train: to learn from; without them `rows` are split, anew for each seed.
        label: column; default the first of `LABELS` that is there.
        seeds: of the split, the probe and the random model; the interval is over these.
        options: of the protocol, see its own.
        extraction: see `features.iterate_features` and `batch_features`.
    Raises:
        ValueError: no such protocol or option, no label, one class, too few rows.
    """
    protocol = PROTOCOLS[name]
    if protocol.judge is not None:
        own = resolve(protocol.judge)
        figures: list[dict[str, Any]] = own(
            name,
            model,
            processor,
            rows,
            source=source,
            train=train,
            label=label,
            seeds=seeds,
            options=options,
            **extraction,
        )
        return figures
    chosen = chosen_options(name, protocol, options or {})
    labels = read_labels(rows, label) if protocol.labels else None
    known = None if train is None or labels is None else read_labels(train, label)
    if known is not None and labels is not None and known.dtype.kind != labels.dtype.kind:
        raise ValueError("the labels to learn from and those to judge on are of different kinds")
    sources = {
        "": lambda part, seed: features(model, processor, part, **extraction),
        "untrained": lambda part, seed: features(untrained(model, seed), processor, part, **extraction),
        "raw input": lambda part, seed: raw_features(processor, part),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for source, extract in sources.items():
        cache: dict[int, tuple[Any, Any]] = {}
        for seed in seeds:
            key = seed if source == "untrained" else 0
            if key not in cache:
                cache = {key: (extract(rows, seed), None if train is None else extract(train, seed))}
            values, learnt = cache[key]
            for metric, value in _measure(protocol, values, labels, learnt, known, seed, chosen).items():
                found.setdefault(metric, {}).setdefault(source, []).append(value)
    if labels is not None and protocol.predict is not None and labels.dtype.kind != "f":
        (metric,) = found
        found[metric]["most frequent class"] = [_frequent(protocol, labels, known, seed) for seed in seeds]
    return [
        figure(name, protocol, metric, source, values, seeds)
        for metric, by_source in found.items()
        for source, values in by_source.items()
    ]


def chosen_options(name: str, protocol: Protocol, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol's options with those that were given.

    Raises:
        ValueError: it has no such option.
    """
    usual = dict(protocol.options or {})
    for key in given:
        if key not in usual:
            raise ValueError(f"{name} has no option {key!r}{suggest(key, usual)}; it has {', '.join(usual) or 'none'}")
    return usual | dict(given)


def figure(
    name: str, protocol: Protocol, metric: str, source: str, values: list[float], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return the fields of a `Result` for one metric of one source over all seeds."""
    # one value, however often it was computed, has no spread
    same = len(set(values)) == 1
    mean, interval = probes.mean_interval(values[:1] if same else values)
    if interval is not None and metric.partition(" ")[0] in SHARES:
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return {
        "metric_type": f"{metric} ({source})" if source else metric,
        "metric_name": f"{metric}, {source or 'frozen features'}; {protocol.told}",
        "metric_value": mean,
        "interval": interval,
        "seeds": tuple(seeds),
        "protocol": name,
        "task_type": protocol.task_type,
    }


def _measure(
    protocol: Protocol, values: Any, labels: Any, learnt: Any, known: Any, seed: int, options: dict[str, Any]
) -> dict[str, float]:
    """Return the figures of one set of features under one seed."""
    if protocol.whole is not None:
        return protocol.whole(values, labels)
    assert protocol.predict is not None
    train, truth, test, answers = _parts(protocol, values, labels, learnt, known, seed)
    predicted = protocol.predict(train, truth, test, seed=seed, **options)
    return {"r2" if answers.dtype.kind == "f" else "accuracy": probes.score(answers, predicted)}


def _parts(protocol: Protocol, values: Any, labels: Any, learnt: Any, known: Any, seed: int) -> tuple[Any, ...]:
    """Return rows to learn from with their labels, and rows to judge on with theirs."""
    if learnt is None:
        inner, held = probes.stratified_split(labels, protocol.test_share, seed)
        train, truth, test, answers = values[inner], labels[inner], values[held], labels[held]
    else:
        train, truth, test, answers = learnt, known, values, labels
    if protocol.per_class is not None:
        chosen = few(truth, protocol.per_class, seed)
        train, truth = train[chosen], truth[chosen]
    return train, truth, test, answers


@takes(labels="label finite filled N", count=">=1", seed=">=0")
def few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return at most so many rows of each class."""
    import numpy as np

    if labels.dtype.kind == "f":
        raise ValueError("few labels a class need classes, and these labels are quantities")
    source = np.random.default_rng(seed)
    members = [source.permutation(np.flatnonzero(labels == value))[:count] for value in np.unique(labels)]
    return np.sort(np.concatenate(members))


def _frequent(protocol: Protocol, labels: np.ndarray, known: Any, seed: int) -> float:
    import numpy as np

    if known is None:
        inner, held = probes.stratified_split(labels, protocol.test_share, seed)
        known, labels = labels[inner], labels[held]
    values, counts = np.unique(known, return_counts=True)
    return float((labels == values[counts.argmax()]).mean())


def label_column(rows: Any, label: str | None = None) -> str:
    """Return the column of the labels: the one that is named, else the first of `LABELS` that is there.

    Raises:
        ValueError: there is none.
    """
    from hub_mim.data import column_names

    names = column_names(rows)
    chosen = label or next((name for name in LABELS if name in names), None)
    if chosen is None:
        raise ValueError(f"no column of labels among {', '.join(names)}; name it (--label)")
    if chosen not in names:
        raise ValueError(f"no column {chosen!r}{suggest(chosen, names)}; there are {', '.join(names)}")
    return chosen


def read_labels(rows: Any, label: str | None = None) -> np.ndarray:
    """Return the labels of rows: classes as whole numbers or text, quantities as floats.

    Raises:
        ValueError: no such column, missing labels, one class only.
    """
    import numpy as np

    chosen = label_column(rows, label)
    column = [row[chosen] for row in rows] if not hasattr(rows, "column_names") else rows[chosen]
    values = np.asarray(list(column))
    if values.dtype.kind not in "iufbUS" or values.ndim != 1:
        raise ValueError(f"the labels in {chosen!r} are no classes and no numbers, or some are missing")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} labels in {chosen!r} are missing or infinite")
        whole = values == np.round(values)
        if whole.all() and len(np.unique(values)) <= max(2, len(values) // 10):
            values = values.astype(np.int64)  # classes that a table keeps as floats
    if len(np.unique(values)) < 2:
        raise ValueError(
            f"all {len(values)} labels in {chosen!r} are {values[0].item()!r}; two classes at least are needed"
        )
    return values
