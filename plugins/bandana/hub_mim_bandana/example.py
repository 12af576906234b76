"""Small generated graphs: rings with chords, whose features tell degrees and places, for the checks and to try out."""

import random
from typing import Any

import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_bandana.configuration_bandana import BandanaConfig
from hub_mim_bandana.processing_bandana import BandanaProcessor


def rows(count: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Return graphs of 6 to 9 nodes with `edges`, `features` and `label`: 1 where the chords make a triangle."""
    source = random.Random(seed)
    made = []
    for _ in range(count):
        number, closed = source.randrange(6, 10), source.random() < 0.5
        edges = [(node, (node + 1) % number) for node in range(number)]
        edges.append((0, 2 if closed else 3))
        degree = [sum(node in edge for edge in edges) for node in range(number)]
        features = [[d - 2.0, 0.2 * node - 0.8, source.gauss(0, 1), 1.0] for node, d in enumerate(degree)]
        made.append({"edges": [list(edge) for edge in edges], "features": features, "label": int(closed)})
    return made


def sample(count: int = 256, seed: int = 0, groups: int = 4) -> list[dict[str, Any]]:
    """Return one graph of `count` nodes in groups: within one, edges are twenty times as likely; features tell it badly."""
    source = torch.Generator().manual_seed(seed)
    group = torch.arange(count) % groups
    likely = torch.where(group[:, None] == group, 24.0 / count, 1.2 / count)
    there = (torch.rand(count, count, generator=source) < likely).triu(1)
    features = torch.randn(count, 16, generator=source) + 0.7 * torch.nn.functional.one_hot(group, 16)
    return [{"edges": there.nonzero().tolist(), "features": features.tolist(), "node_labels": group.tolist()}]


def example() -> Example:
    """Return the example of the plugin's checks: hidden features, since a bandwidth hides nothing whole."""
    config = BandanaConfig(
        num_features=4,
        hidden_size=12,
        num_hidden_layers=2,
        decoder_hidden_size=10,
        decoder_num_layers=3,
        hidden_dropout_prob=0.1,
        decoder_dropout_prob=0.1,
        hidden_act="gelu",
        decoder_act="tanh",
        normalization="layer",
        layer_norm_eps=1e-6,
        num_node_embeddings=12,
        node_embedding_size=3,
        masking="features",
        temperatures=[0.5, 1.5],
        normalize="send",
        mask_ratio=0.4,
        negatives_per_edge=2.0,
        edges_per_step=8,
        split_edges=True,
        feature_loss_gamma=1.5,
        readout="last",
        normalize_embeddings=False,
        link_decoder="mlp",
        initializer_range=0.05,
        loss_weights={"features": 0.5},
    )
    return Example(
        config=config,
        rows=[{name: row[name] for name in ("edges", "features")} for row in rows()],
        processor=BandanaProcessor(edge_order="both").fit(rows()),
        corrupt=corrupt,
        fixed=("legacy_alignment",),
        hidden=hidden,
        odd_rows=odd_rows(),
        suite_overrides={
            "test_attention_outputs": "a graph network has no attention",
            "test_retain_grad_hidden_states_attentions": "the first hidden states are the features, which need no gradient",
            "test_hidden_states_output": "the first hidden states are the features, of another width",
        },
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many nodes of each graph are hidden: two of five."""
    count = (batch["attention_mask"].sum(1) * 0.4).round().long()
    return count, count


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace features of hidden nodes by noise."""
    noise = torch.randn(batch["node_features"].shape, generator=torch.Generator().manual_seed(1))
    return batch | {"node_features": torch.where(mask[..., None], noise, batch["node_features"])}


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return graphs at the edge of what users have."""
    one = [0.0, 1.0, 0.0, 1.0]
    return {
        "one node": [{"features": [one], "edges": []}],
        "no edge": [{"features": [one] * 3, "edges": []}],
        "all edges": [{"features": [one] * 3, "edges": [(0, 1), (1, 2), (0, 2)]}],
        "a loop": [{"features": [one] * 2, "edges": [(0, 0), (0, 1)]}],
        "an edge to nowhere": [{"features": [one], "edges": [(0, 5)]}],
        "no features": [{"edges": [(0, 1)]}],
        "a missing feature": [{"features": [[None, 1.0, 0.0, 1.0]], "edges": []}],
    }
