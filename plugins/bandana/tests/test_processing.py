"""Graphs from what users have: rows, PyG, networkx, scipy, npz, tables; and what is said where they do not fit."""

from pathlib import Path

import networkx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch_geometric.data import Data

from hub_mim_bandana import BandanaProcessor
from hub_mim_bandana.example import rows, sample
from hub_mim_bandana.reading import as_graph, from_tables, load, read_npz
from hub_mim_bandana.sampling import SubGraphs

EDGES = [(0, 1), (1, 2), (2, 0), (2, 3)]
BOTH = sorted([(a, b) for a, b in EDGES] + [(b, a) for a, b in EDGES])
X = np.arange(8, dtype=np.float32).reshape(4, 2)


def encoded(graph, **options):
    return BandanaProcessor(**options).fit([graph])(rows=[graph])


def pairs(batch):
    return [tuple(pair) for pair in batch["edge_index"][0].tolist()]


def as_pyg():
    return Data(x=torch.from_numpy(X), edge_index=torch.tensor(EDGES).T)


def as_networkx():
    graph = networkx.Graph(EDGES)
    for node, values in enumerate(X):
        graph.nodes[node]["x"] = values.tolist()
    return graph


@pytest.mark.parametrize("graph", [{"edges": EDGES, "features": X.tolist()}, as_pyg(), as_networkx()])
def test_all_kinds_of_graphs_give_the_same_tensors(graph):
    batch = encoded(graph)
    assert pairs(batch) == BOTH
    assert torch.equal(batch["node_features"][0], torch.from_numpy(X))


def test_a_sparse_matrix_is_a_graph_with_weights():
    matrix = scipy.sparse.coo_matrix(([2.0, 1.0], ([0, 1], [1, 2])), shape=(3, 3))
    batch = encoded(matrix)
    assert pairs(batch) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert batch["edge_weight"][0].tolist() == [2.0, 2.0, 1.0, 1.0]
    assert batch["node_features"].shape == (1, 3, 3)  # one-hot degrees 0 to 2


def test_directed_edges_go_from_the_first_to_the_second_node():
    batch = encoded({"edges": EDGES, "features": X.tolist()}, directed=True)
    assert pairs(batch) == sorted((b, a) for a, b in EDGES)


def test_the_authors_order_has_one_way_first():
    batch = encoded({"edges": EDGES, "features": X.tolist()}, edge_order="both")
    one, other = pairs(batch)[:4], pairs(batch)[4:]
    assert one == [(b, a) for a, b in other]
    assert sorted(pairs(batch)) == BOTH


def test_loops_and_repetitions_are_left_out():
    batch = encoded({"edges": [(0, 1), (1, 0), (0, 1), (1, 1)], "features": X[:2].tolist()})
    assert pairs(batch) == [(0, 1), (1, 0)]


def test_degrees_and_constants_stand_in_for_features():
    assert encoded({"edges": EDGES})["node_features"][0].argmax(1).tolist() == [2, 2, 3, 1]
    assert encoded({"edges": EDGES}, features="constant")["node_features"].shape == (1, 4, 1)
    far = BandanaProcessor(features="degree", max_degree=1).fit([{"edges": EDGES}])
    assert far(rows=[{"edges": EDGES}])["node_features"][0].argmax(1).tolist() == [1, 1, 1, 1]


def test_features_can_be_normalised():
    batch = encoded({"edges": EDGES, "features": X.tolist()}, normalize_features=True)
    assert torch.allclose(batch["node_features"][0].sum(1), torch.ones(4))


def test_a_table_of_edges_becomes_one_graph(tmp_path):
    pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"], "weight": [1.0, 3.0]}).to_csv(
        tmp_path / "e.csv", index=False
    )
    pd.DataFrame({"id": ["c", "a", "b"], "f": [0.5, 1.5, 2.5], "label": [1, 0, 1]}).to_parquet(tmp_path / "f.parquet")
    (row,) = load(tmp_path / "e.csv", features=tmp_path / "f.parquet")
    assert row["ids"] == ["c", "a", "b"]
    assert row["edges"] == [[1, 2], [2, 0]]
    assert row["features"] == [[0.5], [1.5], [2.5]]
    assert (row["node_labels"], row["edge_weight"]) == ([1, 0, 1], [1.0, 3.0])
    (plain,) = load(tmp_path / "e.csv")
    assert plain["ids"] == ["a", "b", "c"]


def test_npz_and_graphml_are_read(tmp_path):
    matrix = scipy.sparse.csr_matrix((X > 3).astype(np.float32))
    np.savez(
        tmp_path / "g.npz",
        edge_index=np.array(EDGES).T,
        x_indptr=matrix.indptr,
        x_indices=matrix.indices,
        x_shape=np.array(matrix.shape),
        y=np.arange(4),
    )
    (row,) = load(tmp_path / "g.npz")
    assert np.array_equal(as_graph(row).features, (X > 3).astype(np.float32))
    assert row["node_labels"] == [0, 1, 2, 3]
    networkx.write_graphml(networkx.Graph(EDGES), tmp_path / "g.graphml")
    (row,) = load(tmp_path / "g.graphml")
    assert len(row["edges"]) == 4


def test_pickles_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", edge_index=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="without pickles"):
        read_npz(tmp_path / "bad.npz")
    Path(tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match="cannot read"):
        read_npz(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "needs 'edge_index' or 'edges'; this row has nothing"),
        ({"edges": [(0, 9)], "features": X.tolist()}, r"names node 9, and the graph has 4 nodes \(0 to 3\)"),
        ({"edges": [(0, -1)], "features": X.tolist()}, "names node -1"),
        ({"edges": [(0, 1, 2)]}, "must be pairs"),
        ({"edge_index": [[0], [1], [2]]}, r"must be \(2, edges\)"),
        ({"edges": [], "features": [[float("nan")]]}, "1 features are missing or infinite"),
        ({"edges": [], "num_nodes": 0}, "no nodes"),
        ({"edges": EDGES, "edge_weight": [1.0]}, "1 edges have a weight, and the graph has 4"),
        ({"edges": EDGES, "edge_weight": [1.0, 1.0, 0.0, 1.0]}, "weights must be above 0"),
        ({"edges": EDGES, "features": X[:2].tolist(), "num_nodes": 4}, "2 nodes have features"),
    ],
)
def test_what_cannot_be_read_is_told(row, message):
    with pytest.raises(ValueError, match=message):
        as_graph(row)


def test_other_features_than_were_learnt_are_told():
    processor = BandanaProcessor().fit([{"edges": EDGES, "features": X.tolist()}])
    with pytest.raises(ValueError, match="have 1 features; those of the graphs learnt from have 2"):
        processor(rows=[{"edges": EDGES, "features": X[:, :1].tolist()}])
    with pytest.raises(ValueError, match="1 to 2 features"):
        BandanaProcessor().fit([{"edges": [], "features": X.tolist()}, {"edges": [], "features": X[:, :1].tolist()}])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (pd.DataFrame({"id": ["a", "b"], "f": [1.0, 2.0]}), "names node 'c'"),
        (pd.DataFrame({"id": ["a", "a", "b"], "f": [1.0, 2.0, 3.0]}), "twice"),
        (pd.DataFrame({"id": ["a", "b", "c"], "f": ["x", "y", "z"]}), "'f' of the table of nodes holds no numbers"),
    ],
)
def test_tables_that_do_not_fit_are_told(nodes, message):
    from hub_mim.data import load_rows

    edges = load_rows(pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"]}))
    with pytest.raises(ValueError, match=message):
        from_tables(edges, load_rows(nodes))


@pytest.mark.parametrize("kind", ["neighbours", "clusters"])
def test_small_graphs_cover_the_large_one(kind):
    graph = as_graph(sample(80)[0])
    parts = SubGraphs(graph, kind, 5, fanout=(3, 2), rounds=2, seed=1)
    assert len(parts) == (10 if kind == "neighbours" else 5)
    seen = np.concatenate([row["ids"] for row in parts[:5]])
    assert set(seen) == set(range(80))
    for row in parts:
        small = as_graph(row)
        assert np.array_equal(small.features, graph.features[row["ids"]])
        there = {frozenset(pair) for pair in graph.edges.tolist()}
        assert {frozenset(row["ids"][pair].tolist()) for pair in small.edges} <= there
    again = SubGraphs(graph, kind, 5, fanout=(3, 2), rounds=2, seed=1)
    assert np.array_equal(again[3]["ids"], parts[3]["ids"])


def test_neighbours_are_drawn_within_the_fanout():
    star = as_graph({"edges": [(0, node) for node in range(1, 50)]})
    parts = SubGraphs(star, "neighbours", 50, fanout=(4,), rounds=1)
    sizes = [len(row["ids"]) for row in parts]
    assert sizes.count(2) >= 49  # a leaf and the middle
    assert 2 <= max(sizes) <= 5  # the middle and at most four leaves


def test_sampling_is_for_one_graph():
    with pytest.raises(ValueError, match="there are 6 graphs"):
        BandanaProcessor(sampling="clusters").expand(rows())
    with pytest.raises(ValueError, match="cannot be cut into 9 parts"):
        BandanaProcessor(sampling="clusters", parts=9).expand([{"edges": EDGES, "features": X.tolist()}])
