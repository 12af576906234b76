"""Probes: what can be read off frozen features by something simple. Arrays in, figures out; no model is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes

if TYPE_CHECKING:
    import numpy as np

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
ENOUGH = 4000  # rows to choose a penalty by
# what every probe takes, see `checking`
PROBE = {"train": "number finite filled N D", "labels": "label finite N", "test": "number finite M D", "seed": ">=0"}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@takes(labels="label finite filled N", share=">0 <1", seed=">=0")
def stratified_split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of rows to learn from and to judge on; of every class (where labels are classes) a share.

    Args:
        labels: (N,), whole numbers or text for classes, floats for quantities.
        share: to judge on, in (0, 1).
        seed: decides which.
    """
    import numpy as np

    source = np.random.default_rng(seed)
    if labels.dtype.kind == "f":
        order = source.permutation(len(labels))
        count = max(1, round(share * len(labels)))
        return np.sort(order[count:]), np.sort(order[:count])
    test = []
    for value in np.unique(labels):
        members = source.permutation(np.flatnonzero(labels == value))
        test.append(members[: max(1, round(share * len(members)))] if len(members) > 1 else members[:0])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


@takes(**PROBE)
def linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Predict by logistic (classes) or ridge regression (floats) on standardised features.

    The penalty is chosen from `PENALTIES` on a fifth of the training rows, learning from at most 4000 of the others;
    nothing is learnt from `test`.

    Args:
        train, labels: (N, D) and (N,) to learn from. test: (M, D).
        seed: decides the fifth.
    Returns:
        Predictions (M,).
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    quantities = labels.dtype.kind == "f"

    def make(penalty: float) -> Any:
        kind = Ridge(alpha=penalty * len(labels)) if quantities else LogisticRegression(C=1 / penalty, max_iter=1000)
        return make_pipeline(StandardScaler(), kind)

    inner, held = stratified_split(labels, 0.2, seed)
    if len(inner) > ENOUGH:
        inner = np.sort(np.random.default_rng(seed).choice(inner, ENOUGH, replace=False))
    scores = {}
    for penalty in PENALTIES:
        if len(held) == 0 or len(np.unique(labels[inner])) < 2:
            scores[penalty] = 0.0
            continue
        scores[penalty] = score(labels[held], make(penalty).fit(train[inner], labels[inner]).predict(train[held]))
    best = max(scores, key=lambda penalty: (scores[penalty], penalty))
    predictions: np.ndarray = make(best).fit(train, labels).predict(test)
    return predictions


@takes(
    **PROBE,
    epochs=">=1",
    batch_size=">=1",
    rates=">0 filled ...",
)
def batched_linear(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
    epochs: int = 90,
    batch_size: int = 512,
    rates: Sequence[float] = RATES,
) -> np.ndarray:
    """Predict by linear probes of all learning rates trained at once; the best on a fifth of the training rows is kept.

    Features are normalised without learnt scales, as by the BatchNorm of MAE's probe; SGD with momentum 0.9, cosine
    schedule, no weight decay.

    Source: He et al. 2022 (arXiv:2111.06377), appendix A.1, Table 10; a sweep instead of LARS with one rate.
    """
    import numpy as np
    import torch

    classes, numbers = np.unique(labels, return_inverse=True)
    mean, spread = train.mean(0), train.std(0)
    scaled = [torch.from_numpy(((part - mean) / np.maximum(spread, 1e-6)).astype(np.float32)) for part in (train, test)]
    targets = torch.from_numpy(numbers)
    inner, held = (torch.from_numpy(part) for part in stratified_split(labels, 0.2, seed))
    chosen = _train_probes(scaled[0][inner], targets[inner], len(classes), seed, epochs, batch_size, rates)
    right = [
        float((scaled[0][held] @ weight + bias).argmax(1).eq(targets[held]).float().mean())
        for weight, bias in zip(*chosen, strict=True)
    ]
    best = rates[max(range(len(rates)), key=lambda number: right[number])]
    weight, bias = _train_probes(scaled[0], targets, len(classes), seed, epochs, batch_size, [best])
    predictions: np.ndarray = classes[(scaled[1] @ weight[0] + bias[0]).argmax(1).numpy()]
    return predictions


def _train_probes(
    values: Any, targets: Any, count: int, seed: int, epochs: int, batch_size: int, rates: Sequence[float]
) -> tuple[Any, Any]:
    """Return weights (rates, D, C) and biases (rates, C); gradients are written out, one product for all rates."""
    import math

    import torch
    from torch.nn.functional import one_hot

    source = torch.Generator().manual_seed(seed)
    weight = torch.zeros(len(rates), values.shape[1], count)
    bias = torch.zeros(len(rates), count)
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rate = torch.tensor(list(rates))
    per_epoch = math.ceil(len(values) / batch_size)
    wanted = one_hot(targets, count).float()
    for epoch in range(epochs):
        order = torch.randperm(len(values), generator=source)
        for number, chosen in enumerate(order.split(batch_size)):
            x, y = values[chosen], wanted[chosen]
            error = (torch.einsum("bd,ldc->lbc", x, weight) + bias[:, None]).softmax(-1).sub_(y).div_(len(x))
            step = rate * 0.5 * (1 + math.cos(math.pi * (epoch + number / per_epoch) / epochs))
            for held, speed, gradient in (
                (weight, speeds[0], torch.einsum("bd,lbc->ldc", x, error)),
                (bias, speeds[1], error.sum(1)),
            ):
                speed.mul_(0.9).add_(gradient)
                held.sub_(speed * step.view(-1, *[1] * (held.dim() - 1)))
    return weight, bias


@takes(
    **PROBE,
    epochs=">=1",
    batch_size=">=1",
    patience=">=1",
)
def hidden_layer(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
    epochs: int = 500,
    batch_size: int = 1024,
    patience: int = 20,
) -> np.ndarray:
    """Predict by a layer of 1024 units with BatchNorm, dropout 0.1 and ReLU: Adam at 1e-4, stopped on a fifth of the rows.

    Source: Turian et al. 2022 (arXiv:2203.03022), section 4.2, as MW-MAE's evaluation has it.
    """
    from torch import nn

    def network(width: int, count: int) -> nn.Module:
        layers = nn.Linear(width, 1024), nn.BatchNorm1d(1024), nn.Dropout(0.1), nn.ReLU(), nn.Linear(1024, count)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
        return nn.Sequential(*layers)

    return _train_network(network, train, labels, test, seed, epochs, batch_size, 1e-4, 0.0, 3, patience)


@takes(
    **PROBE,
    epochs=">=1",
    batch_size=">=1",
    weight_decay=">=0",
    held="int filled >=0 <N H",
)
def small_linear(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
    epochs: int = 100,
    batch_size: int = 512,
    weight_decay: float = 1e-3,
    held: np.ndarray | None = None,
    unit: bool = True,
) -> np.ndarray:
    """Predict by one linear layer on rows of length one: Adam at 0.01, the epoch that is best on a fifth of the rows.

    Args:
        train, labels: (N, D) and (N,) to learn from. test: (M, D).
        held: numbers of those rows of `train` that the epoch is chosen by, and that nothing is learnt from; default a fifth.
        unit: scale rows to length one.

    Source: the node classification of Bandana's code.
    """
    import numpy as np
    from torch import nn

    def network(width: int, count: int) -> nn.Module:
        layer = nn.Linear(width, count)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    if unit:
        train, test = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (train, test))
    return _train_network(network, train, labels, test, seed, epochs, batch_size, 0.01, weight_decay, 1, None, held)


def _train_network(
    network: Any,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    seed: int,
    epochs: int,
    batch_size: int,
    rate: float,
    weight_decay: float,
    every: int,
    patience: int | None,
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Predict by a network as it was at the epoch that was best on a fifth of the training rows.

    Args:
        network: (width, outputs) -> module. every: epochs between two looks at the fifth.
        patience: looks without a gain after which training stops; None never stops early.
        chosen: rows to look at instead of the fifth.
    """
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy, mse_loss

    quantities = labels.dtype.kind == "f"
    classes, numbers = (None, labels) if quantities else np.unique(labels, return_inverse=True)
    middle, span = (float(labels.mean()), float(labels.std()) or 1.0) if quantities else (0.0, 1.0)
    target = torch.from_numpy(np.ascontiguousarray((numbers - middle) / span if quantities else numbers))
    x, queries = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in (train, test))
    parts = stratified_split(labels, 0.2, seed)
    if chosen is not None:
        parts = np.setdiff1d(np.arange(len(labels)), chosen), chosen
    inner, held = map(torch.from_numpy, parts)
    held = held if len(held) else inner
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(x.shape[1], 1 if classes is None else len(classes))
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=weight_decay)

        def loss(rows: Any) -> Any:
            out = model(x[rows])
            return mse_loss(out[:, 0], target[rows].float()) if classes is None else cross_entropy(out, target[rows])

        def gain() -> float:
            model.eval()
            with torch.inference_mode():
                return (
                    -float(loss(held))
                    if quantities
                    else float((model(x[held]).argmax(1) == target[held]).float().mean())
                )

        best, kept, waited = -np.inf, {}, 0
        for epoch in range(epochs):
            model.train()
            for part in inner[torch.randperm(len(inner))].split(batch_size):
                if len(part) == 1 and len(inner) > 1:
                    continue  # no batch statistics of one row
                optimizer.zero_grad()
                loss(part).backward()
                optimizer.step()
            if epoch % every == every - 1 or epoch == epochs - 1:
                now = gain()
                waited = 0 if now > best else waited + 1
                if now >= best:
                    best, kept = now, {name: value.clone() for name, value in model.state_dict().items()}
                if patience is not None and waited >= patience:
                    break
        model.load_state_dict(kept)
        model.eval()
        with torch.inference_mode():
            out = model(queries)
    predictions: np.ndarray = out[:, 0].numpy() * span + middle if classes is None else classes[out.argmax(1).numpy()]
    return predictions


@takes(values="number finite filled N D", edges="int filled >=0 <N E 2", others="int filled >=0 <N O 2")
def links(values: np.ndarray, edges: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return how well the dot product of two nodes' features tells edges from pairs that are none.

    Args:
        values: (N, D). edges, others: (E, 2) numbers of nodes: pairs that are joined, pairs that are not.
    Returns:
        Area under the ROC curve and average precision.
    """
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores = np.concatenate([(values[pairs[:, 0]] * values[pairs[:, 1]]).sum(1) for pairs in (edges, others)])
    truth = np.concatenate([np.ones(len(edges)), np.zeros(len(others))])
    return {"auc": float(roc_auc_score(truth, scores)), "ap": float(average_precision_score(truth, scores))}


@takes(**PROBE, temperature=">0")
def nearest(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, k: int = 20, temperature: float = 0.07, seed: int = 0
) -> np.ndarray:
    """Predict by the `k` nearest rows by cosine, weighted by exp(cosine / temperature).

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4; k and temperature as DINO's evaluation has them.

    Raises:
        ValueError: there are fewer rows than neighbours.
    """
    import numpy as np
    import torch
    from torch.nn.functional import normalize, one_hot

    if k > len(train) or k < 1:
        raise ValueError(f"k is {k}, but there are {len(train)} rows to be neighbours; it must lie between 1 and that")
    bank, queries = (normalize(torch.from_numpy(part).float(), dim=1) for part in (train, test))
    quantities = labels.dtype.kind == "f"
    classes, numbers = (labels, labels) if quantities else np.unique(labels, return_inverse=True)
    known = torch.from_numpy(np.ascontiguousarray(numbers))
    found = []
    for part in queries.split(1024):
        near, where = (part @ bank.T).topk(k, dim=1)
        weight = (near / temperature).sub_(near.amax(1, keepdim=True) / temperature).exp()
        if quantities:
            found.append(((weight * known[where]).sum(1) / weight.sum(1)).numpy())
        else:
            votes = (weight[..., None] * one_hot(known[where], len(classes))).sum(1)
            found.append(classes[votes.argmax(1).numpy()])
    return np.concatenate(found)


@takes(truth="label finite filled N", predicted="label finite N")
def score(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of right classes, or R2 where the truth is floats."""
    from sklearn.metrics import accuracy_score, r2_score

    return float((r2_score if truth.dtype.kind == "f" else accuracy_score)(truth, predicted))


@takes(values="number finite filled N D", epsilon=">0")
def rankme(values: np.ndarray, epsilon: float = 1e-7) -> float:
    """Return the effective rank of features: the exponential of the entropy of their singular values.

    Source: Garrido et al. 2023 (arXiv:2210.02885), eq. 1.
    """
    import numpy as np

    singular = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    share = singular / max(singular.sum(), epsilon) + epsilon
    return float(np.exp(-(share * np.log(share)).sum()))


@takes(values="number finite filled N D", labels="label finite N")
def retrieval(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return how well rows find others of their class by cosine: recall at 1 and 5, mean average precision.

    Every row that is not alone in its class asks all others.
    """
    import numpy as np
    import torch
    from torch.nn.functional import normalize

    unit = normalize(torch.from_numpy(values).float(), dim=1)
    _, numbers = np.unique(labels, return_inverse=True)
    known = torch.from_numpy(numbers)
    hits: dict[str, list[Any]] = {"recall@1": [], "recall@5": [], "map": []}
    for rows in torch.arange(len(unit)).split(512):
        near = unit[rows] @ unit.T
        near[torch.arange(len(rows)), rows] = -torch.inf
        right = known[near.argsort(1, descending=True)[:, :-1]].eq(known[rows, None]).float()
        right = right[right.sum(1) > 0]
        precision = right.cumsum(1) / torch.arange(1, right.shape[1] + 1)
        hits["recall@1"].append(right[:, 0])
        hits["recall@5"].append(right[:, :5].amax(1))
        hits["map"].append((precision * right).sum(1) / right.sum(1))
    return {name: float(torch.cat(parts).mean()) for name, parts in hits.items()}


@takes(values="filled ...")
def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean and its 95 % confidence interval by Student's t; None for the interval of one value."""
    import numpy as np
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, (mean - half, mean + half)
