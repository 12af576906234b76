"""Named ways to judge frozen features: which probe, on how much, beside what. The figures are `Result`s.

Each protocol judges three things on the same rows: the checkpoint, a model of the same architecture with random weights,
and the input itself; where there are classes, the most frequent one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_mim import probes
from hub_mim.features import features, raw_features, untrained
from hub_mim.method import suggest

if TYPE_CHECKING:
    import numpy as np

SHARES = ("accuracy", "recall@1", "recall@5", "map")  # figures between 0 and 1
LABELS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class Protocol:
    """A way to judge.

    Attributes:
        told: one line for people.
        labels: whether rows need a label.
        predict: (train, labels, test, seed=) -> predictions, see `probes`; None where features are judged as a whole.
        whole: (features, labels) -> figures by name.
        test_share: of the rows, where no rows to learn from are given.
        per_class: labelled rows of each class to learn from; None for all.
        options: what a user may set, with the usual values.
        task_type: the Hub's name of the task.
    """

    told: str
    labels: bool = True
    predict: Callable[..., Any] | None = None
    whole: Callable[..., dict[str, float]] | None = None
    test_share: float = 0.2
    per_class: int | None = None
    options: Mapping[str, Any] | None = None
    task_type: str = "feature-extraction"


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
    "retrieval": Protocol("rows of the same class among all others", whole=_retrieval),
    "rankme": Protocol("effective rank of the features, without labels", labels=False, whole=_rankme),
}


def judge(
    name: str,
    model: Any,
    processor: Any,
    rows: Any,
    *,
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
        rows: to judge on. train: to learn from; without them `rows` are split, anew for each seed.
        label: column; default the first of `LABELS` that is there.
        seeds: of the split, the probe and the random model; the interval is over these.
        options: of the protocol, see its own.
        extraction: see `features.iterate_features` and `batch_features`.
    Raises:
        ValueError: no such protocol or option, no label, one class, too few rows.
    """
    protocol = PROTOCOLS[name]
    chosen = _options(name, protocol, options or {})
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
        _figure(name, protocol, metric, source, values, seeds)
        for metric, by_source in found.items()
        for source, values in by_source.items()
    ]


def _options(name: str, protocol: Protocol, given: Mapping[str, Any]) -> dict[str, Any]:
    usual = dict(protocol.options or {})
    for key in given:
        if key not in usual:
            raise ValueError(f"{name} has no option {key!r}{suggest(key, usual)}; it has {', '.join(usual) or 'none'}")
    return usual | dict(given)


def _figure(
    name: str, protocol: Protocol, metric: str, source: str, values: list[float], seeds: Sequence[int]
) -> dict[str, Any]:
    # one value, however often it was computed, has no spread
    same = len(set(values)) == 1
    mean, interval = probes.mean_interval(values[:1] if same else values)
    if interval is not None and metric in SHARES:
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
        chosen = _few(truth, protocol.per_class, seed)
        train, truth = train[chosen], truth[chosen]
    return train, truth, test, answers


def _few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
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


def read_labels(rows: Any, label: str | None = None) -> np.ndarray:
    """Return the labels of rows: classes as whole numbers or text, quantities as floats.

    Raises:
        ValueError: no such column, missing labels, one class only.
    """
    import numpy as np

    from hub_mim.data import column_names

    names = column_names(rows)
    chosen = label or next((name for name in LABELS if name in names), None)
    if chosen is None:
        raise ValueError(f"no column of labels among {', '.join(names)}; name it (--label)")
    if chosen not in names:
        raise ValueError(f"no column {chosen!r}{suggest(chosen, names)}; there are {', '.join(names)}")
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
