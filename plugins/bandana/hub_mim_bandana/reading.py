"""Graphs from what users have: rows, PyG `Data`, networkx, sparse matrices, npz files, tables of edges.

A row is one graph: `edge_index` ([senders, receivers], as PyG has it) or `edges` (pairs), `features` (N x F) or `x`, or
sparse ones as `feature_columns` (for each node the columns that are 1) with `num_features`; `edge_weight`, `num_nodes`,
`ids` (names of the nodes), `node_labels`, `targets` (edges to predict) are optional.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub_mim import unpacking

ENDS = (("source", "target"), ("src", "dst"), ("from", "to"), ("u", "v"), ("head", "tail"), ("node1", "node2"))
LARGEST = 2**33  # numbers in dense features
IDS = ("id", "node", "node_id", "name", "index")


@dataclass
class Graph:
    """One graph in arrays: number of nodes, edges int64 (E, 2) as (sender, receiver), the rest None where it has none."""

    number: int
    edges: np.ndarray
    features: np.ndarray | None = None
    weight: np.ndarray | None = None
    targets: np.ndarray | None = None


def as_graph(given: Any) -> Graph:
    """Return any graph in arrays.

    Raises:
        ValueError: it has no edges to read, an edge names a node that is not there, or numbers are missing.
    """
    row = given if isinstance(given, Mapping) and not hasattr(given, "edge_stores") else as_row(given)
    edges = _edges(row)
    features = _features(row)
    highest = int(edges.max()) + 1 if len(edges) else 0
    number = _told_number(row)
    if number is None:
        number = highest if features is None else len(features)
    if highest > number or (len(edges) and int(edges.min()) < 0):
        wrong = int(edges.max()) if highest > number else int(edges.min())
        raise ValueError(f"an edge names node {wrong}, and the graph has {number} nodes (0 to {number - 1})")
    if features is not None and len(features) != number:
        raise ValueError(f"{len(features)} nodes have features, and the graph has {number} nodes")
    if number == 0:
        raise ValueError("a graph has no nodes")
    weight = row.get("edge_weight")
    if weight is not None:
        weight = _numbers(row, "edge_weight", np.float32).reshape(-1)
        if len(weight) != len(edges):
            raise ValueError(f"{len(weight)} edges have a weight, and the graph has {len(edges)} edges")
        if not (weight > 0).all():
            raise ValueError(f"an edge has the weight {weight[~(weight > 0)][0]}; weights must be above 0")
    targets = row.get("targets")
    targets = None if targets is None else _numbers(row, "targets", np.int64).reshape(-1, 2)
    return Graph(number, edges, features, weight, targets)


def _told_number(row: Mapping[str, Any]) -> int | None:
    """Return how many nodes a graph says that it has."""
    if row.get("num_nodes") is None:
        return None
    number = _numbers(row, "num_nodes", np.int64)
    if number.size != 1:
        raise ValueError(f"num_nodes of a graph has the shape {number.shape}; it must be one number")
    return int(number.item())


def _numbers(row: Mapping[str, Any], name: str, kind: Any) -> np.ndarray:
    """Return a part of a row as an array.

    Raises:
        ValueError: it holds what is no number, or is ragged.
    """
    try:
        return np.asarray(row[name], kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} of a graph must be numbers in equal rows: {error}") from error


def _edges(row: Mapping[str, Any]) -> np.ndarray:
    if row.get("edge_index") is not None:
        edges = _numbers(row, "edge_index", np.int64)
        if edges.ndim == 2 and len(edges) == 2:
            return edges.T
        if edges.size == 0:
            return np.zeros((0, 2), np.int64)
        raise ValueError(f"edge_index has the shape {edges.shape}; it must be (2, edges): senders, then receivers")
    if row.get("edges") is not None:
        edges = _numbers(row, "edges", None)
        if edges.size == 0:
            return np.zeros((0, 2), np.int64)
        if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iuf":
            raise ValueError(f"edges have the shape {edges.shape}; they must be pairs of numbers of nodes")
        return edges.astype(np.int64)
    raise ValueError(f"a graph needs 'edge_index' or 'edges'; this row has {', '.join(map(str, row)) or 'nothing'}")


def _dense(columns: Any, width: Any) -> np.ndarray:
    """Return 0 and 1 of the columns that are 1 in each node's row.

    Raises:
        ValueError: the width is missing or asks for more than LARGEST numbers, or a column lies outside of it.
    """
    if not isinstance(width, int | np.integer) or not 0 < width * max(1, len(columns)) <= LARGEST:
        raise ValueError(
            f"num_features is {width} for {len(columns)} nodes; it must be above 0, and their product at most {LARGEST}"
        )
    made = np.zeros((len(columns), int(width)), np.float32)
    for place, each in enumerate(columns):
        ones = _numbers({"feature_columns": each}, "feature_columns", np.int64)
        if ones.size and not 0 <= ones.min() <= ones.max() < width:
            raise ValueError(
                f"feature_columns of node {place} reach from {ones.min()} to {ones.max()}, not within 0 to {width - 1}"
            )
        made[place, ones] = 1.0
    return made


def _features(row: Mapping[str, Any]) -> np.ndarray | None:
    if row.get("feature_columns") is not None:
        return _dense(row["feature_columns"], row.get("num_features"))
    values = row.get("features", row.get("x"))
    if values is None:
        return None
    made = _numbers({"features": values}, "features", np.float32)
    if made.ndim != 2:
        raise ValueError(f"features have the shape {made.shape}; they must be (nodes, features)")
    if not np.isfinite(made).all():
        raise ValueError(f"{int((~np.isfinite(made)).sum())} features are missing or infinite; fill them first")
    return made


def as_row(given: Any) -> dict[str, Any]:
    """Turn a PyG `Data`, a networkx graph or a sparse matrix into a row.

    Raises:
        TypeError: it is none of these.
    """
    if hasattr(given, "edge_stores"):
        return _from_pyg(given)
    if hasattr(given, "adj") and hasattr(given, "nodes"):
        return _from_networkx(given)
    if hasattr(given, "tocoo"):
        matrix = given.tocoo()
        row: dict[str, Any] = {"edges": np.stack([matrix.row, matrix.col], 1), "num_nodes": matrix.shape[0]}
        return row if (matrix.data == 1).all() else row | {"edge_weight": matrix.data}
    raise TypeError(f"cannot read a graph from {type(given).__name__}; give a row, PyG Data, networkx or scipy.sparse")


def _from_pyg(data: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"edge_index": data.edge_index.numpy(), "num_nodes": data.num_nodes}
    if data.x is not None:
        row["features"] = (data.x.to_dense() if data.x.is_sparse else data.x).float().numpy()
    if data.get("edge_weight") is not None:
        row["edge_weight"] = data.edge_weight.numpy()
    labels = data.get("y")
    if labels is not None:
        row["node_labels" if len(labels) == data.num_nodes else "label"] = (
            labels.numpy() if len(labels) > 1 else labels.item()
        )
    return row


def _from_networkx(graph: Any) -> dict[str, Any]:
    place = {node: number for number, node in enumerate(graph.nodes)}
    edges = list(graph.edges(data="weight"))
    row: dict[str, Any] = {
        "edges": np.array([(place[a], place[b]) for a, b, _ in edges], np.int64).reshape(-1, 2),
        "num_nodes": len(place),
        "ids": [str(node) for node in graph.nodes],
    }
    if edges and all(weight is not None for *_, weight in edges):
        row["edge_weight"] = np.array([weight for *_, weight in edges], np.float32)
    values = [graph.nodes[node].get("features", graph.nodes[node].get("x")) for node in graph.nodes]
    return row | ({"features": np.array(values, np.float32)} if values and all(v is not None for v in values) else {})


def read_npz(path: str | Path) -> dict[str, Any]:
    """Read a graph from an npz file without pickles: `edge_index`, features `x` or CSR `x_indptr, x_indices, x_shape`, `y`.

    Splits (`train_idx`, `val_idx`, `test_idx`) come along.

    Raises:
        ValueError: it is no npz file, holds objects, or has no edges.
    """
    held = unpacking.read_npz(path)
    if "edge_index" not in held:
        raise ValueError(f"{path} has no 'edge_index'; it has {', '.join(held) or 'nothing'}")
    odd = [name for name, array in held.items() if array.dtype.kind not in "iufbU"]
    if odd:
        raise ValueError(f"{path}: {odd[0]} holds {held[odd[0]].dtype}, neither numbers nor words")
    row: dict[str, Any] = {"edge_index": _numbers(held, "edge_index", np.int64)}
    if "x_indptr" in held:
        row |= _sparse(held, path)
    elif "x" in held:
        row["features"] = _numbers(held, "x", np.float32)
    row |= {name: held[name] for name in ("edge_weight", "ids", "train_idx", "val_idx", "test_idx") if name in held}
    return row | ({"node_labels": held["y"]} if "y" in held else {})


def _sparse(held: Mapping[str, np.ndarray], path: Any) -> dict[str, Any]:
    """Return the parts of a row that CSR arrays tell.

    Raises:
        ValueError: they do not fit together.
    """
    parts = [held.get(name, np.zeros(0)) for name in ("x_indptr", "x_indices", "x_shape")]
    starts, columns, shape = parts
    whole = all(each.ndim == 1 and each.dtype.kind in "iu" for each in parts) and len(shape) == 2
    if not whole or len(starts) != shape[0] + 1 or (np.diff(starts) < 0).any() or starts[-1] != len(columns):
        raise ValueError(f"{path} holds no sparse features: x_indptr, x_indices and x_shape do not fit together")
    split = np.split(columns, starts[1:-1])
    return {"num_features": int(shape[1]), "feature_columns": split, "num_nodes": int(shape[0])}


def load(source: Any, *, features: Any = None, **options: Any) -> Any:
    """Load graphs for `hub-mim`: what the core reads, and npz files, GraphML, PyG, networkx, scipy, tables of edges.

    Args:
        source: see above; a table whose rows are edges becomes one graph.
        features: for a table of edges, a table of its nodes: a column of ids, the others numbers.
        options: see `hub_mim.data.load_rows`.
    Raises:
        ValueError: unreadable, or ids that the two tables do not share.
    """
    from hub_mim.data import column_names, load_rows

    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.suffix == ".npz":
        return _dataset([read_npz(path)])
    if path is not None and path.suffix == ".graphml":
        import networkx

        return _dataset([_from_networkx(networkx.read_graphml(path))])
    if path is None and (hasattr(source, "edge_stores") or hasattr(source, "tocoo") or hasattr(source, "adj")):
        return _dataset([as_row(source)])
    if isinstance(source, list | tuple) and source and not isinstance(source[0], Mapping):
        return _dataset([as_row(each) for each in source])
    rows = load_rows(source, **options)
    names = column_names(rows)
    if "edge_index" in names or "edges" in names:
        return rows
    return _dataset([from_tables(rows, None if features is None else load_rows(features))])


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import pyarrow
    from datasets import Dataset

    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return Dataset.from_dict({name: [_plain(row.get(name)) for row in rows] for name in names})
    except (pyarrow.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"a graph holds what is neither number nor word: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [each.tolist() for each in value]
    return value


def from_tables(edges: Any, nodes: Any = None) -> dict[str, Any]:
    """Make one graph of a table of edges (two columns of ids, perhaps a weight) and a table of nodes.

    Raises:
        ValueError: no two columns for the ends, features that are no numbers, an edge to a node without features.
    """
    from hub_mim.data import column_names

    names = column_names(edges)
    ends = next((pair for pair in ENDS if set(pair) <= set(names)), tuple(names[:2]) if len(names) >= 2 else None)
    if ends is None:
        raise ValueError(f"a table of edges needs two columns, such as source and target; it has {', '.join(names)}")
    frame = edges.to_pandas()
    known = frame[list(ends)].to_numpy().ravel()
    if frame[list(ends)].isna().to_numpy().any():
        raise ValueError(f"{int(frame[list(ends)].isna().any(axis=1).sum())} edges lack an end ({' or '.join(ends)})")
    made: dict[str, Any] = {}
    if nodes is None:
        ids, numbers = np.unique(known.astype(str) if known.dtype.kind == "O" else known, return_inverse=True)
    else:
        ids, made = _nodes(nodes)
        numbers = _places(known, ids)
    made |= {"edges": numbers.reshape(-1, 2), "num_nodes": len(ids), "ids": [str(each) for each in ids]}
    weight = next((name for name in ("weight", "edge_weight") if name in names and name not in ends), None)
    return made | ({} if weight is None else {"edge_weight": frame[weight].to_numpy(np.float32)})


def _nodes(nodes: Any) -> tuple[np.ndarray, dict[str, Any]]:
    frame = nodes.to_pandas()
    key = next((name for name in IDS if name in frame.columns), None)
    ids = np.arange(len(frame)) if key is None else frame[key].to_numpy()
    if len(np.unique(ids.astype(str))) != len(ids):
        raise ValueError(f"the table of nodes names some of them twice in {key!r}")
    labels = next((name for name in ("label", "labels", "class", "y") if name in frame.columns), None)
    rest = frame.drop(columns=[name for name in (key, labels) if name is not None])
    lists = (
        [not isinstance(cell, str) and hasattr(cell, "__len__") for cell in rest.iloc[:, 0]]
        if len(rest.columns) == 1
        else []
    )
    if lists and all(lists):
        values = np.stack(rest.iloc[:, 0].to_list()).astype(np.float32)
    else:
        words = [name for name in rest.columns if rest[name].dtype.kind not in "iufb"]
        if words:
            raise ValueError(
                f"the column {words[0]!r} of the table of nodes holds no numbers; encode it, or leave it out"
            )
        values = rest.to_numpy(np.float32)
    made: dict[str, Any] = {"features": values}
    if labels is not None:
        made["node_labels"] = frame[labels].tolist()
    return ids, made


def _places(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    place = {str(each): number for number, each in enumerate(ids)}
    found = [place.get(str(each), -1) for each in known]
    if -1 in found:
        lost = str(known[found.index(-1)])
        raise ValueError(f"an edge names node {lost!r}, which the table of nodes does not have")
    return np.array(found, np.int64)
