"""What `hub-mim evaluate` and `hub-mim embed` do with graphs: links, classes of nodes, a vector for every node."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.data import encode, split_rows
from hub_mim.features import untrained
from hub_mim.probes import links as rank_links
from hub_mim.probes import mean_interval, small_linear
from hub_mim.results import Result
from hub_mim_bandana.reading import as_graph


def hold_out(rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Part graphs into those to learn from and the others; of one graph alone, a share of its edges is held out.

    The second row is then the same graph without these edges, with them as `targets`.

    Raises:
        ValueError: the share is out of range, or the one graph has fewer than two edges.
    """
    if not hasattr(rows, "__len__") or len(rows) != 1 or not 0 < share < 1:
        return split_rows(rows, share, seed)
    from datasets import Dataset

    train, held = part_edges(dict(rows[0]), share, seed)
    return Dataset.from_list([train]), Dataset.from_list([held])


def part_edges(row: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a graph's row without a share of its edges, both directions of one together, and the same with `targets`."""
    graph = as_graph(row)
    low, high = graph.edges.min(1), graph.edges.max(1)
    codes, number = np.unique(low * graph.number + high, return_inverse=True)
    if len(codes) < 2:
        raise ValueError(
            f"the graph has {len(codes)} edges; at least 2 are needed to hold one out, or use --validation 0"
        )
    count = min(len(codes) - 1, max(1, round(share * len(codes))))
    chosen = np.zeros(len(codes), bool)
    chosen[np.random.default_rng(seed).permutation(len(codes))[:count]] = True
    gone = chosen[number]
    rest = {name: value for name, value in row.items() if name not in ("edge_index", "edges", "edge_weight")}
    train = rest | {"edges": graph.edges[~gone].tolist(), "num_nodes": graph.number}
    if graph.weight is not None:
        train["edge_weight"] = graph.weight[~gone].tolist()
    pairs = codes[chosen]
    return train, train | {"targets": np.stack([pairs // graph.number, pairs % graph.number], 1).tolist()}


def embed_nodes(
    model: Any, processor: Any, row: dict[str, Any], *, batch_size: int = 64, dtype: Any = None
) -> Iterator[tuple[list[Any], np.ndarray]]:
    """Yield the names and the embeddings of all nodes of a graph: its `ids`, else their numbers."""
    values = node_embeddings(model, processor, row, dtype)
    ids = row.get("ids")
    yield (list(ids) if ids is not None else list(range(len(values)))), values


def node_embeddings(model: Any, processor: Any, row: dict[str, Any], dtype: Any = None) -> np.ndarray:
    """Return the embeddings of a graph's nodes (N, D)."""
    batch = {name: value.to(model.device) for name, value in encode(processor, [row]).items()}
    with torch.inference_mode(), torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        output = model.eval()(**batch)
    values: np.ndarray = output.node_embeddings[0].float().cpu().numpy()
    return values


def links(model: Any, processor: Any, rows: list[dict[str, Any]], *, seed: int = 0, share: float = 0.1) -> list[Result]:
    """Judge how well the dot product of nodes' last layer tells held-out edges from pairs that are none.

    Args:
        model: pre-trained. processor: its processor. seed: of the pairs, and of the random model.
        rows: graphs. Where they have `targets` (a run's held-out edges), these are judged; else a share of the edges, which
            the model may have been trained on.
    """
    found = [row if row.get("targets") is not None else part_edges(row, share, seed)[1] for row in rows]
    results = []
    for name, encoder in (("", model.bandana), ("untrained", untrained(model, seed).bandana)):
        scores = [_rank(encoder, processor, row, seed) for row in found]
        for metric in ("auc", "ap"):
            value, _ = mean_interval([each[metric] for each in scores])
            told = {"auc": "area under the ROC curve", "ap": "average precision"}[metric]
            results.append(
                _result(metric, name, f"{told} of held-out edges by the dot product", value, "link-prediction")
            )
    return results


def _rank(encoder: Any, processor: Any, row: dict[str, Any], seed: int) -> dict[str, float]:
    batch = {name: value.to(encoder.device) for name, value in encode(processor, [row]).items()}
    targets: Tensor = batch["targets"]
    from hub_mim_bandana.graphs import non_edges

    graphs = encoder.pack(
        batch["node_features"], batch["edge_index"], batch["attention_mask"], batch.get("edge_weight")
    )
    others = non_edges(
        graphs, torch.tensor([targets.shape[1]], device=targets.device), targets, row_seed=torch.tensor([seed])
    )
    with torch.inference_mode():
        nodes = encoder.eval()(**batch).last_hidden_state[0]
    return rank_links(nodes.float().cpu().numpy(), targets[0].cpu().numpy(), others[0].cpu().numpy())


def nodes(
    model: Any, processor: Any, rows: list[dict[str, Any]], *, seed: int = 0, weight_decay: float = 5e-3
) -> list[Result]:
    """Judge a linear probe of the nodes' embeddings on `node_labels` of one graph, beside random weights and raw features.

    Learnt from `train_idx`, the epoch chosen on `val_idx`, judged on `test_idx`, where the row has these; else from a
    tenth, on a tenth, on the rest, by the seed.

    Raises:
        ValueError: several graphs, or no labels.
    """
    if len(rows) != 1 or rows[0].get("node_labels") is None:
        raise ValueError("the nodes of one graph are judged, and it needs 'node_labels'")
    row = rows[0]
    labels = np.asarray(row["node_labels"])
    parts = _split(row, len(labels), seed)
    learnt, held = np.concatenate(parts[:2]), np.arange(len(parts[0]), len(parts[0]) + len(parts[1]))
    sources = {
        "": node_embeddings(model.bandana, processor, row),
        "untrained": node_embeddings(untrained(model, seed).bandana, processor, row),
        "raw input": encode(processor, [row])["node_features"][0].numpy(),
    }
    results = []
    for name, values in sources.items():
        told = small_linear(
            values[learnt], labels[learnt], values[parts[2]], seed=seed, weight_decay=weight_decay, held=held
        )
        right = float((told == labels[parts[2]]).mean())
        results.append(_result("accuracy", name, "accuracy of a linear probe on nodes", right, "node-classification"))
    return results


def _split(row: dict[str, Any], count: int, seed: int) -> list[np.ndarray]:
    names = ("train_idx", "val_idx", "test_idx")
    if all(row.get(name) is not None for name in names):
        return [np.asarray(row[name]) for name in names]
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, [max(1, count // 10), max(2, count // 5)])


def _result(metric: str, source: str, told: str, value: float, task: str) -> Result:
    return Result(
        metric_type=f"{metric} ({source})" if source else metric,
        metric_name=f"{told}, {source or 'trained'}",
        metric_value=value,
        dataset_name="rows",
        task_type=task,
    )
