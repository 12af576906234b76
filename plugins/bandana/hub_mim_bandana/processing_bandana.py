"""From graphs to Bandana's tensors: one order of the edges, both directions, features or what stands in for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from hub_mim_bandana.reading import Graph, as_graph
from hub_mim_bandana.sampling import KINDS, expand

ORDERS = ("sorted", "both")
FEATURES = ("given", "degree", "constant")
FEW = 64  # graphs; so many are encoded once and kept


class BandanaProcessor(ProcessorMixin):
    """Encode graphs: rows (see `reading.as_graph`), PyG `Data`, networkx graphs, sparse matrices.

    Args:
        num_features: of each node; learnt by `fit`.
        features: "given"; or, where graphs have none, "degree" (one-hot, the highest together) or "constant".
        max_degree: the highest degree with a place of its own; learnt by `fit`.
        normalize_features: divide each node's features by their sum.
        directed: keep directions: a message goes from the first to the second node of an edge. Otherwise every edge goes both
            ways.
        edge_order: "sorted", by receiver and sender; "both": all edges one way, then all the other way, as PyG's
            `RandomLinkSplit` has them and the authors' code gets them (for `legacy_alignment`).
        sampling: of one large graph, in training: "none", "neighbours" or "clusters"; see `sampling.SubGraphs`.
        parts, fanout, rounds: of the sampling.
        encode_once: keep the tensors for the whole training; None: where there are at most 64 graphs.
    """

    def __init__(
        self,
        num_features: int = 0,
        features: str = "given",
        max_degree: int = 0,
        normalize_features: bool = False,
        directed: bool = False,
        edge_order: str = "sorted",
        sampling: str = "none",
        parts: int = 10,
        fanout: Sequence[int] = (10, 10),
        rounds: int = 10,
        encode_once: bool | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        choices = ("features", features, FEATURES), ("edge_order", edge_order, ORDERS), ("sampling", sampling, KINDS)
        for name, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {allowed}")
        self.num_features, self.features, self.max_degree = num_features, features, max_degree
        self.normalize_features, self.directed, self.edge_order = normalize_features, directed, edge_order
        self.sampling, self.parts, self.fanout, self.rounds = sampling, parts, list(fanout), rounds
        self.encode_once = encode_once

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        return ["node_features", "edge_index", "attention_mask"]

    def fit(self, rows: Any) -> "BandanaProcessor":
        """Learn how many features nodes have; where they have none, their degrees stand in.

        Raises:
            ValueError: graphs differ in the number of features, or some have none.
        """
        graphs = [as_graph(row) for row in _each(rows)]
        if not graphs:
            raise ValueError("there is no graph to learn from")
        widths = sorted({0 if graph.features is None else graph.features.shape[1] for graph in graphs})
        if len(widths) > 1:
            raise ValueError(
                f"the graphs' nodes have {widths[0]} to {widths[-1]} features; all must have the same number"
            )
        if self.features == "given" and widths[0] == 0:
            self.features = "degree"
        if self.features == "degree":
            self.max_degree = self.max_degree or min(
                64, max(int(self._degrees(*self._edges(graph)[:1], graph.number).max(initial=0)) for graph in graphs)
            )
            self.num_features = self.max_degree + 1
        else:
            self.num_features = 1 if self.features == "constant" else widths[0]
        if self.encode_once is None:
            self.encode_once = len(graphs) <= FEW and self.sampling == "none"
        return self

    def expand(self, rows: Any, seed: int = 0) -> Any:
        """Return the rows of a training: many small graphs of one large one, where `sampling` says so."""
        if self.sampling == "none":
            return rows
        return expand(rows, self.sampling, self.parts, self.fanout, self.rounds, seed)

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the graphs decide."""
        return {"num_features": self.num_features}

    def __call__(self, rows: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode graphs.

        Args:
            rows: a graph or a list of graphs.
        Returns:
            node_features float (B, N, F), edge_index int64 (B, E, 2) (receiver, sender; -1 = padding), attention_mask bool
            (B, N); edge_weight (B, E) where a graph has weights; targets int64 (B, P, 2) where one has edges to predict.
        Raises:
            ValueError: another number of features than was learnt, an edge to nowhere, values that are no numbers.
        """
        graphs = [as_graph(row) for row in _each(rows)]
        if not graphs:
            raise ValueError("there is no graph to encode")
        edges = [self._edges(graph) for graph in graphs]
        made: dict[str, Any] = {
            "node_features": _pad(
                [self._features(graph, each) for graph, (each, _) in zip(graphs, edges, strict=True)], 0.0
            ),
            "edge_index": _pad([torch.from_numpy(each) for each, _ in edges], -1),
            "attention_mask": _pad([torch.ones(graph.number, dtype=torch.bool) for graph in graphs], False),
        }
        if any(weight is not None for _, weight in edges):
            weights = [np.ones(len(each), np.float32) if weight is None else weight for each, weight in edges]
            made["edge_weight"] = _pad([torch.from_numpy(weight) for weight in weights], 1.0)
        if any(graph.targets is not None for graph in graphs):
            targets = [np.zeros((0, 2), np.int64) if graph.targets is None else graph.targets for graph in graphs]
            made["targets"] = _pad([torch.from_numpy(each) for each in targets], -1)
        return BatchFeature(made)

    def _edges(self, graph: Graph) -> tuple[np.ndarray, np.ndarray | None]:
        """Return edges (E, 2) as (receiver, sender) in the processor's order, and their weights."""
        kept = graph.edges[:, 0] != graph.edges[:, 1]  # every node has a loop of weight 1 anyway
        pairs = graph.edges[kept][:, ::-1]
        weight = None if graph.weight is None else graph.weight[kept]
        if self.directed:
            pairs, weight = _unique(pairs, weight, graph.number)
            return pairs, weight
        low = np.sort(pairs, axis=1)
        low, weight = _unique(low, weight, graph.number, both=True)
        both = np.concatenate([low, low[:, ::-1]])
        weights = None if weight is None else np.concatenate([weight, weight])
        if self.edge_order == "both":
            return both, weights
        order = np.lexsort((both[:, 1], both[:, 0]))
        return np.ascontiguousarray(both[order]), None if weights is None else weights[order]

    def _features(self, graph: Graph, edges: np.ndarray) -> Tensor:
        if self.features == "constant":
            return torch.ones(graph.number, 1)
        if self.features == "degree":
            degree = self._degrees(edges, graph.number).clip(max=self.max_degree)
            return torch.nn.functional.one_hot(torch.from_numpy(degree), self.max_degree + 1).float()
        width = 0 if graph.features is None else graph.features.shape[1]
        if self.num_features and width != self.num_features:
            raise ValueError(
                f"a graph's nodes have {width} features; those of the graphs learnt from have {self.num_features}"
            )
        if graph.features is None:
            raise ValueError("a graph has no features; fit the processor to graphs like it, so that degrees stand in")
        values = torch.from_numpy(graph.features)
        if self.normalize_features:
            values = values / values.sum(1, keepdim=True).clamp(min=1e-12)
        return values

    @staticmethod
    def _degrees(edges: np.ndarray, number: int) -> np.ndarray:
        return np.bincount(edges[:, 0], minlength=number).astype(np.int64)


def _each(rows: Any) -> list[Any]:
    """Return graphs as a list; one graph alone is a list of one."""
    if isinstance(rows, Mapping) or not isinstance(rows, Sequence | np.ndarray):
        single = isinstance(rows, Mapping) or not hasattr(rows, "__len__") or not hasattr(rows, "column_names")
        if single:
            return [rows]
        rows = (
            rows.with_format("numpy") if hasattr(rows, "with_format") else rows
        )  # lists of millions of edges are slow
        return [rows[place] for place in range(len(rows))]
    return list(rows)


def _unique(
    pairs: np.ndarray, weight: np.ndarray | None, number: int, both: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Leave one of each edge, sorted; of several weights the mean where they are two directions of one, else the sum."""
    codes, place = np.unique(pairs[:, 0] * max(1, number) + pairs[:, 1], return_inverse=True)
    found = np.stack([codes // max(1, number), codes % max(1, number)], 1).astype(np.int64)
    if weight is None:
        return found, None
    total = np.bincount(place, weight, len(codes))
    count = np.bincount(place, minlength=len(codes)) if both else 1
    return found, (total / count).astype(np.float32)


def _pad(parts: Sequence[Tensor], fill: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill)
