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

    Args:
        graph: the large one.
        kind: "neighbours" or "clusters".
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
        low, high = graph.edges.min(1), graph.edges.max(1)
        ends = np.concatenate([low, high]), np.concatenate([high, low])
        self.near = csr_matrix((np.ones(len(ends[0])), ends), shape=(graph.number, graph.number))
        self.near.sum_duplicates()
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
        return self.row(self.nodes(index))

    def nodes(self, index: int) -> np.ndarray:
        """Return the nodes of one row, those that it is about first."""
        turn, part = divmod(index, self.parts)
        if self.order is not None:
            return np.array_split(self.order, self.parts)[part]
        order = np.random.default_rng([self.seed, turn]).permutation(self.graph.number)
        return self.around(np.array_split(order, self.parts)[part], np.random.default_rng([self.seed, turn, part + 1]))

    def around(self, seeds: np.ndarray, source: np.random.Generator) -> np.ndarray:
        """Return some nodes and, hop by hop, neighbours drawn for each (Hamilton et al. 2017, arXiv:1706.02216)."""
        seen = np.zeros(self.graph.number, bool)
        seen[seeds] = True
        found, edge = [seeds], seeds
        for count in self.fanout:
            starts, ends = self.near.indptr[edge], self.near.indptr[edge + 1]
            degree = ends - starts
            owner = np.repeat(np.arange(len(edge)), degree)
            place = np.arange(degree.sum()) - np.repeat(degree.cumsum() - degree, degree) + np.repeat(starts, degree)
            order = np.lexsort((source.random(len(place)), owner))
            rank = np.arange(len(place)) - np.repeat(degree.cumsum() - degree, degree)
            drawn = np.unique(self.near.indices[place[order][rank < count]])
            edge = drawn[~seen[drawn]]
            seen[edge] = True
            found.append(edge)
        return np.concatenate(found)

    def row(self, nodes: np.ndarray) -> dict[str, Any]:
        """Return the graph of some nodes with all edges between them, as a row."""
        graph = self.graph
        place = np.full(graph.number, -1)
        place[nodes] = np.arange(len(nodes))
        ends = place[graph.edges]
        kept = (ends >= 0).all(1)
        made: dict[str, Any] = {"edges": ends[kept], "num_nodes": len(nodes), "ids": nodes}
        if graph.features is not None:
            made["features"] = graph.features[nodes]
        if graph.weight is not None:
            made["edge_weight"] = graph.weight[kept]
        return made


def expand(rows: Any, kind: str, parts: int, fanout: Sequence[int], rounds: int, seed: int) -> Any:
    """Return rows of small graphs instead of one large graph.

    Raises:
        ValueError: there are several graphs, which are batched as they are.
    """
    if len(rows) != 1:
        raise ValueError(f"sampling parts one large graph, and there are {len(rows)} graphs; leave sampling out")
    return SubGraphs(as_graph(rows[0]), kind, parts, fanout, rounds, seed)
