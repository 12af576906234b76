"""From graphs to nodes: values (B, N, C) features, coordinates (B, N, P) places in the graph, attention_mask (B, N)."""

import random
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

EXAMPLE = {"walk_length": 4}
FIXED = ("num_channels",)  # configuration fields that follow from the processor alone


class MyMethodProcessor(ProcessorMixin):
    """Describe where a node is by its degree and by how likely random walks come back to it.

    Features enter by `values` alone, so that the neighbours of a hidden node do not give it away.

    Args:
        walk_length: steps of the longest walk (Dwivedi et al. 2022, arXiv:2110.07875, section 3).
    """

    def __init__(self, walk_length: int = 8, **kwargs: Any):
        super().__init__(**kwargs)
        self.walk_length = walk_length

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def __call__(self, rows: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows with `features` (N x C numbers) and `edges` (pairs of node numbers, undirected)."""
        features = [torch.tensor(row["features"], dtype=torch.float32) for row in rows]
        for each in features:
            if each.dim() != 2:
                raise ValueError(f"features have the shape {tuple(each.shape)}; they must be (nodes, channels)")
        places = [self._places(row["edges"], len(each)) for row, each in zip(rows, features, strict=True)]
        count = torch.tensor([len(each) for each in features])
        pad = torch.nn.utils.rnn.pad_sequence
        there = torch.arange(int(count.max())) < count[:, None]
        return BatchFeature(
            {
                "values": pad(features, batch_first=True),
                "coordinates": pad(places, batch_first=True),
                "attention_mask": there,
            }
        )

    def _places(self, edges: Any, number: int) -> torch.Tensor:
        matrix = torch.zeros(number, number)
        for first, second in edges:
            if not (0 <= first < number and 0 <= second < number):
                raise ValueError(f"edge ({first}, {second}) names a node beyond the {number} that have features")
            matrix[first, second] = matrix[second, first] = 1.0
        degree = matrix.sum(1)
        step = matrix / degree.clamp(min=1)[:, None]
        walk, back = torch.eye(number), []
        for _ in range(self.walk_length):
            walk = walk @ step
            back.append(walk.diagonal())
        return torch.stack([degree.log1p(), *back], 1)


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return rings with chords, whose features tell the degree."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        number = source.randrange(6, 10)
        edges = [(node, (node + 1) % number) for node in range(number)]
        edges += [(0, source.randrange(2, number - 1)) for _ in range(2)]
        degree = [sum(node in edge for edge in set(edges)) for node in range(number)]
        rows.append({"features": [[d - 2.0, 0.5 * d, 1.0] for d in degree], "edges": edges})
    return rows


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return graphs at the edge of what users have."""
    return {
        "one node": [{"features": [[0.0, 1.0, 1.0]], "edges": []}],
        "no edge": [{"features": [[0.0, 1.0, 1.0]] * 3, "edges": []}],
        "an edge to nowhere": [{"features": [[0.0, 1.0, 1.0]], "edges": [(0, 5)]}],
    }
