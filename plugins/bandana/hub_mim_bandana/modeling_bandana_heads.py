"""Bandana's encoder with a head: classes of nodes, links between nodes, classes or quantities of whole graphs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim.losses import masked_mean, token_cross_entropy
from hub_mim_bandana.configuration_bandana import BandanaConfig
from hub_mim_bandana.modeling_bandana import BandanaModel, BandanaPreTrainedModel, EdgeDecoder


@dataclass
class GraphHeadOutput(ModelOutput):
    """What a head returns.

    loss: scalar where labels are given. logits: of nodes (B, N, K), of pairs (B, P), of graphs (B, K).
    node_embeddings: (B, N, D).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    node_embeddings: Tensor | None = None


class _Head(BandanaPreTrainedModel):
    """The encoder, and one linear layer on what a subclass takes of it."""

    def __init__(self, config: BandanaConfig):
        super().__init__(config)
        self.bandana = BandanaModel(config)
        self.dropout = nn.Dropout(config.decoder_dropout_prob)
        self.classifier = nn.Linear(config.embedding_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that takes the features."""
        return self.bandana.get_input_embeddings()


class BandanaForNodeClassification(_Head):
    """A class for every node."""

    @can_return_tuple
    def forward(
        self,
        node_features: Tensor,
        edge_index: Tensor,
        attention_mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> GraphHeadOutput:
        """Encode and classify.

        Args:
            labels: int64 (B, N), -100 where unknown; for other arguments see `BandanaModel`.
        """
        nodes = self.bandana(node_features, edge_index, attention_mask, edge_weight).node_embeddings
        logits = self.classifier(self.dropout(nodes))
        loss = None if labels is None else masked_mean(token_cross_entropy(logits.float(), labels), labels != -100)
        return GraphHeadOutput(loss=loss, logits=logits, node_embeddings=nodes)


class BandanaForLinkPrediction(BandanaPreTrainedModel):
    """Scores of pairs of nodes: by the dot product of their last layer, or by the decoder of pre-training."""

    _keys_to_ignore_on_load_unexpected = [r"^feature_decoder\.", r"mask_token$", r"^decoder\."]

    def __init__(self, config: BandanaConfig):
        super().__init__(config)
        self.bandana = BandanaModel(config)
        if config.link_decoder == "mlp":
            self.decoder = EdgeDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that takes the features."""
        return self.bandana.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        node_features: Tensor,
        edge_index: Tensor,
        pairs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> GraphHeadOutput:
        """Encode and score pairs.

        Args:
            pairs: int64 (B, P, 2), -1 = padding; default the graph's edges.
            labels: (B, P), 1 where a pair is an edge, 0 where not, -100 where unknown.
        Returns:
            Logits, not probabilities: a sigmoid of large ones is 1 for all, and ranks nothing.
        """
        output = self.bandana(node_features, edge_index, attention_mask, edge_weight)
        nodes = output.last_hidden_state
        pairs = edge_index if pairs is None else pairs
        first, second = (_pick(nodes.shape[1], pairs[..., end]).flatten() for end in (0, 1))
        flat = nodes.flatten(0, 1)
        if self.config.link_decoder == "mlp":
            told = self.decoder(flat, first, second)
            scores = told[:, 0] - told[:, 1]
        else:
            scores = (flat.index_select(0, first) * flat.index_select(0, second)).sum(1)
        logits = scores.view(pairs.shape[:2])
        loss = None
        if labels is not None:
            known = (labels >= 0) & (pairs >= 0).all(2)
            error = F.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0).float(), reduction="none")
            loss = masked_mean(error, known)
        return GraphHeadOutput(loss=loss, logits=logits, node_embeddings=output.node_embeddings)


def _pick(length: int, numbers: Tensor) -> Tensor:
    """Return places in the flattened B x N of numbers of nodes (B, P); padding points at a graph's first node."""
    first = torch.arange(len(numbers), device=numbers.device)[:, None] * length
    return first + numbers.clamp(min=0)


class BandanaForGraphClassification(_Head):
    """Classes, or quantities where there is one label, of whole graphs: from the mean of their nodes' embeddings."""

    @can_return_tuple
    def forward(
        self,
        node_features: Tensor,
        edge_index: Tensor,
        attention_mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> GraphHeadOutput:
        """Encode and classify.

        Args:
            labels: int64 (B,) classes, or float (B,) quantities where `num_labels` is 1.
        """
        output = self.bandana(node_features, edge_index, attention_mask, edge_weight)
        logits = self.classifier(self.dropout(output.pooler_output))
        loss = None
        if labels is not None and self.config.num_labels == 1:
            loss = F.mse_loss(logits[:, 0].float(), labels.float())
        elif labels is not None:
            loss = F.cross_entropy(logits.float(), labels)
        return GraphHeadOutput(loss=loss, logits=logits, node_embeddings=output.node_embeddings)
