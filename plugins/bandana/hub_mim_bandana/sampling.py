"""Many small graphs of a large one: sampled neighbourhoods, or clusters; for graphs that do not fit one step.

No compiled extras: neighbours are drawn with numpy on a compressed adjacency, clusters are stretches of the reverse
Cuthill-McKee order (scipy), in which neighbours stand near each other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hub_mim_bandana.reading import Graph, as_graph

KINDS = ("none", "neighbours", "clusters")


class SubGraphs:
    """Rows made of one graph when they are asked for; the same row at every call, so that a run can be resumed.

    What a row costs grows with the row, not with the graph.

    Args:
        graph: the large one.
        kind: "neighbours": some nodes, neighbours drawn for each, hop by hop, and the edges along which they were drawn;
            "clusters": stretches of nodes, and all edges within them.
        parts: into how many sets of nodes it is cut.
        fanout: neighbours drawn for each node, a number a hop; of "neighbours".
        rounds: how often the nodes are cut and the neighbours drawn anew; of "neighbours".
        seed: decides the draws.
    Raises:
        ValueError: fewer than one part, or more parts than nodes.
    """

    def __init__(
        self, graph: Graph, kind: str, parts: int, fanout: Sequence[int] = (10, 10), rounds: int = 10, seed: int = 0
    ):
        from scipy.sparse import csr_matrix

        if not 1 <= parts <= graph.number:
            raise ValueError(f"a graph of {graph.number} nodes cannot be cut into {parts} parts")
        self.graph, self.kind, self.parts, self.fanout, self.seed = graph, kind, parts, tuple(fanout), seed
        self.rounds = rounds if kind == "neighbours" else 1
        ends = graph.edges[graph.edges[:, 0] != graph.edges[:, 1]]
        weight = None if graph.weight is None else graph.weight[graph.edges[:, 0] != graph.edges[:, 1]]
        values = np.ones(len(ends), np.float32) if weight is None else weight
        half = csr_matrix((values, (ends[:, 0], ends[:, 1])), shape=(graph.number, graph.number))
        self.near = half.maximum(half.T).tocsr()
        self.place = np.full(graph.number, -1)  # of the nodes of one row in it; cleaned after each
        self.order = None
        if kind == "clusters":
            from scipy.sparse.csgraph import reverse_cuthill_mckee

            self.order = reverse_cuthill_mckee(self.near, symmetric_mode=True)

    def __len__(self) -> int:
        return self.parts * self.rounds

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if isinstance(index, list | np.ndarray):
            return [self[int(place)] for place in index]
        if not 0 <= index < len(self):
            raise IndexError(index)
        turn, part = divmod(int(index), self.parts)
        if self.order is not None:
            nodes = np.array_split(self.order, self.parts)[part]
            return self.row(nodes, *self._all(nodes))
        source = np.random.default_rng([self.seed, turn, part + 1])
        seeds = self._seeds(turn, part)
        return self.row(*self.around(seeds, source))

    def _seeds(self, turn: int, part: int) -> np.ndarray:
        """Return the nodes that a row is about: those that a permutation of all, written as a function, puts in its part."""
        size = -(-self.graph.number // self.parts)
        places = np.arange(part * size, min((part + 1) * size, self.graph.number))
        return _permuted(places, self.graph.number, np.random.default_rng([self.seed, turn]))

    def around(self, seeds: np.ndarray, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return some nodes with neighbours drawn for each, hop by hop, and the edges along which: nodes, ends (E, 2), places
        in the compressed adjacency (E,).

        Source: Hamilton et al. 2017 (arXiv:1706.02216).
        """
        found, frontier = [seeds], seeds
        first, second, edges = [], [], []
        for count in self.fanout:
            owner, places = self._drawn(frontier, count, source)
            ends = self.near.indices[places]
            first.append(owner)
            second.append(ends)
            edges.append(places)
            known = np.concatenate(found)
            frontier = np.setdiff1d(ends, known)
            found.append(frontier)
        pairs = np.stack([np.concatenate(first), np.concatenate(second)], 1)
        return np.concatenate(found), pairs, np.concatenate(edges)

    def _drawn(self, nodes: np.ndarray, count: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return for each node all its edges, or about `count` drawn ones where it has more."""
        starts = self.near.indptr[nodes].astype(np.int64)
        degree = self.near.indptr[nodes + 1] - starts
        few = degree <= count
        owner = np.repeat(nodes[few], degree[few])
        places = _ranges(starts[few], degree[few])
        many = ~few
        offsets = (source.random((int(many.sum()), count)) * degree[many][:, None]).astype(np.int64)
        drawn = np.unique((starts[many][:, None] + offsets).ravel())
        rank = np.argsort(starts[many])
        owners = nodes[many][rank][np.searchsorted(starts[many][rank], drawn, side="right") - 1]
        return np.concatenate([owner, owners]), np.concatenate([places, drawn])

    def _all(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all edges between some nodes, and their places in the compressed adjacency."""
        starts = self.near.indptr[nodes].astype(np.int64)
        degree = self.near.indptr[nodes + 1] - starts
        places = _ranges(starts, degree)
        owner, ends = np.repeat(nodes, degree), self.near.indices[places]
        self.place[nodes] = 0
        kept = self.place[ends] >= 0
        self.place[nodes] = -1
        return np.stack([owner[kept], ends[kept]], 1), places[kept]

    def row(self, nodes: np.ndarray, ends: np.ndarray, places: np.ndarray) -> dict[str, Any]:
        """Return the graph of some nodes with some edges, as a row."""
        self.place[nodes] = np.arange(len(nodes))
        made: dict[str, Any] = {"edges": self.place[ends], "num_nodes": len(nodes), "ids": nodes}
        self.place[nodes] = -1
        if self.graph.features is not None:
            made["features"] = self.graph.features[nodes]
        if self.graph.weight is not None:
            made["edge_weight"] = self.near.data[places]
        return made


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return start, start + 1, ... of every range, one after another."""
    total = lengths.cumsum()
    return np.arange(total[-1] if len(total) else 0) - np.repeat(total - lengths, lengths) + np.repeat(starts, lengths)


def _permuted(places: np.ndarray, count: int, source: np.random.Generator, turns: int = 4) -> np.ndarray:
    """Return where a random permutation of `count` numbers takes some: a Feistel network, walked until it stays inside."""
    half = max(1, (int(count - 1).bit_length() + 1) // 2)
    keys = source.integers(1, 2**31, turns)
    mask = (1 << half) - 1

    def step(values: np.ndarray) -> np.ndarray:
        left, right = values >> half, values & mask
        for key in keys:
            mixed = (right * 0x9E3779B1 + int(key)) & 0xFFFFFFFF
            left, right = right, left ^ ((mixed ^ (mixed >> 15)) * 0x85EBCA6B >> 7 & mask)
        return (left << half) | right

    values = step(places.astype(np.int64))
    outside = values >= count
    while outside.any():
        values[outside] = step(values[outside])
        outside = values >= count
    return values


def expand(rows: Any, kind: str, parts: int, fanout: Sequence[int], rounds: int, seed: int) -> Any:
    """Return rows of small graphs instead of one large graph.

    Raises:
        ValueError: there are several graphs, which are batched as they are.
    """
    if len(rows) != 1:
        raise ValueError(f"sampling parts one large graph, and there are {len(rows)} graphs; leave sampling out")
    rows = rows.with_format("numpy") if hasattr(rows, "with_format") else rows
    return SubGraphs(as_graph(rows[0]), kind, parts, fanout, rounds, seed)
