"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition).

Messages are sums over edges, not products, and are not counted; nor are zeros of sparse features left out.
"""

import itertools
from typing import Any

from hub_mim_bandana.configuration_bandana import BandanaConfig


def forward_flops(config: BandanaConfig, batch: dict[str, Any]) -> int:
    """Return the operations for a batch without the loss: encoder, and decoder of the last layer."""
    nodes = int(batch["attention_mask"].sum())
    first = config.num_features + (config.node_embedding_size if config.num_node_embeddings else 0)
    widths = [first] + [config.hidden_size] * config.num_hidden_layers
    encoder = 2 * nodes * sum(a * b for a, b in itertools.pairwise(widths))
    if config.masking == "features":
        return encoder + 2 * nodes * config.hidden_size * (config.hidden_size + config.num_features)
    edges = int((batch["edge_index"] >= 0).all(-1).sum())
    edges = min(edges, config.edges_per_step * len(batch["edge_index"])) if config.edges_per_step else edges
    inner = [config.hidden_size] + [config.decoder_hidden_size] * (config.decoder_num_layers - 1) + [2]
    return encoder + 2 * edges * sum(a * b for a, b in itertools.pairwise(inner))
