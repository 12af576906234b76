"""Pictures: where a model puts the nodes, what bandwidths it was given, and which edges it believes in."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hub_mim.data import encode
from hub_mim.masking import EVALUATION, row_seeds
from hub_mim_bandana.evaluation import node_embeddings

FEW = 60  # nodes; graphs of at most so many are drawn whole


def draw(
    model: Any, processor: Any, rows: list[dict[str, Any]], path: Path, *, start: int, seed: int, overwrite: bool
) -> Path:
    """Draw the first graph: small ones edge by edge, large ones as a map of nodes with two statistics of the bandwidths.

    Args:
        model: pre-trained. processor: its processor. rows: graphs. path: picture to write.
        start: number of the first row, which with `seed` decides the draws. overwrite: replace a picture that is there.
    """
    from hub_mim.pictures import masked_graph

    batch = encode(processor, rows[:1])
    with torch.no_grad():
        output = model(**batch, row_seed=row_seeds(seed, EVALUATION, torch.arange(start, start + 1)))
    edges = batch["edge_index"][0].numpy()
    values = node_embeddings(model.bandana, processor, rows[0])
    if model.config.masking == "features" or len(values) > FEW:
        return draw_nodes(values, edges, output, rows[0], path, overwrite)
    held_back = 1 - output.bandwidths[0].mean(0).numpy()
    likely = output.predictions[0].softmax(-1)[:, 0].numpy()
    if likely.shape != held_back.shape:  # held-out edges were predicted instead
        likely = np.ones_like(held_back)
    return masked_graph(_places(edges, len(values)), edges, held_back, likely, path, overwrite=overwrite)


def _places(edges: np.ndarray, count: int) -> np.ndarray:
    """Return places of nodes in the plane."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges.tolist())
    layout = networkx.spring_layout(graph, seed=0)
    return np.array([layout[node] for node in range(count)])


def draw_nodes(
    values: np.ndarray, edges: np.ndarray, output: Any, row: dict[str, Any], path: Path, overwrite: bool
) -> Path:
    """Draw nodes by two principal components, coloured by `node_labels`; bandwidths; how much nodes receive of each edge."""
    from sklearn.decomposition import PCA

    from hub_mim.pictures import map_and_statistics

    fitted = PCA(2, random_state=0).fit(values)
    labels = None if row.get("node_labels") is None else np.asarray(row["node_labels"])
    widths = None if output.bandwidths is None else output.bandwidths[0].numpy()
    degree = np.bincount(edges[:, 0], minlength=len(values))
    held_back = None
    if widths is not None:
        largest = np.zeros(len(values))
        np.maximum.at(largest, edges[:, 0], widths[-1])
        held_back = 1 - largest
    return map_and_statistics(
        fitted.transform(values),
        labels,
        None if widths is None else {f"layer {layer + 1}": each for layer, each in enumerate(widths)},
        degree,
        held_back,
        path,
        overwrite=overwrite,
    )
