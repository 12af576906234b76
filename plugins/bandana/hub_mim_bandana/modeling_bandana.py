"""Bandana (Zhao et al., WWW 2024): no edge is hidden, each passes only a share of the messages, and shares are predicted.

Before every step each node's incoming messages get random bandwidths that sum to 1; after every layer the decoder tells
edges, weighted by their bandwidths, from pairs that are none. Hiding edges (as MaskGAE) or features (as GraphMAE) are
options of the same model.

Shapes: B graphs, N nodes, E directed edges, F features, L layers, D channels; see `graphs.py` for the packed ones.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim.checking import check_tensors, takes
from hub_mim.losses import joint_mean, masked_mean, weighted_sum
from hub_mim.masking import hide_highest, noise
from hub_mim_bandana.configuration_bandana import BandanaConfig
from hub_mim_bandana.graphs import (
    Dropout,
    Graphs,
    Messages,
    SparseFeatures,
    bandwidths,
    both_ways,
    hide_edges,
    messages,
    non_edges,
    normal_noise,
    pack,
    sparse_or_dense,
)
from hub_mim_bandana.pairs import pair_linear


@dataclass
class BandanaModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, N, D), the last layer. node_embeddings: (B, N, L * D), all layers, or as `readout` says.
    pooler_output: (B, L * D), the mean of a graph's node embeddings. valid: bool (B, N), False at padding.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    node_embeddings: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class BandanaForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: named unweighted scalars.
    mask: bool, what is hidden: edges (B, E), or nodes (B, N) with masking "features". scored: bool, where the loss is
    taken: edges to predict (B, P), or nodes. predictions: logits (B, P, 2) of the edges after the last layer, "edge" first;
    or features (B, N, F). bandwidths: (B, L, E), 1 where nothing is held back.
    negatives: int64 (B, Q, 2), the pairs that are no edges, -1 = padding. last_hidden_state: of the masked encoder.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    predictions: Tensor | None = None
    bandwidths: Tensor | None = None
    negatives: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def activation(name: str) -> nn.Module:
    """Return an activation by name: transformers', and ELU, which it does not list."""
    made: nn.Module = nn.ELU() if name == "elu" else ACT2FN[name]
    return made


class GraphConvolution(nn.Module):
    """Multiply by a matrix, pass messages, add a bias: Kipf and Welling 2017 (arXiv:1609.02907)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor | SparseFeatures, sent: Messages) -> Tensor:
        """Map nodes (n, inputs) to (n, outputs)."""
        if isinstance(x, SparseFeatures) and type(self.linear) is not nn.Linear:
            x = x.dense(self.linear.in_features)  # an adapter's layer
        values = x.linear(self.linear.weight) if isinstance(x, SparseFeatures) else self.linear(x)
        return sent.pass_on(values) + self.bias

    def reset(self) -> None:
        """Fill the weights as the authors do: Glorot uniform, zeros."""
        init.xavier_uniform_(self.linear.weight)
        init.zeros_(self.bias)


class NodeNorm(nn.BatchNorm1d):
    """Batch statistics over the nodes of all graphs; of one node there are none, so it gets the running ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise nodes (n, D)."""
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class BandanaLayer(GradientCheckpointingLayer):
    """A layer of the encoder: dropout, convolution, norm, activation."""

    def __init__(self, config: BandanaConfig, inputs: int):
        super().__init__()
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.convolution = GraphConvolution(inputs, config.hidden_size)
        norms = {"batch": NodeNorm, "layer": nn.LayerNorm}
        kind = norms.get(config.normalization)
        self.norm = nn.Identity() if kind is None else kind(config.hidden_size, eps=config.layer_norm_eps)
        self.act = activation(config.hidden_act)

    def forward(self, x: Tensor | SparseFeatures, sent: Messages) -> Tensor:
        """Map nodes (n, inputs) to (n, D)."""
        x = x.map(self.dropout) if isinstance(x, SparseFeatures) else self.dropout(x)
        return self.act(self.norm(self.convolution(x, sent)))


class BandanaPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: BandanaConfig
    base_model_prefix = "bandana"
    model_tags = ["hub-mim", "bandana"]
    main_input_name = "node_features"
    input_modalities = "graph"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BandanaLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^feature_decoder\.", r"mask_token$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GraphConvolution):
            module.reset()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            bound = module.in_features**-0.5  # torch's own, which the authors leave as it is
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
                    init.constant_(getattr(module, name), value)
        elif isinstance(module, nn.Embedding):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, BandanaForPreTraining | FeatureDecoder):
            module.reset(self.config.initializer_range)


class BandanaModel(BandanaPreTrainedModel):
    """The encoder: all edges, unit bandwidths."""

    def __init__(self, config: BandanaConfig):
        super().__init__(config)
        inputs = config.num_features + (config.node_embedding_size if config.num_node_embeddings else 0)
        widths = [inputs] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(BandanaLayer(config, width) for width in widths)
        self.gradient_checkpointing = False
        if config.num_node_embeddings:
            self.node_embeddings = nn.Embedding(config.num_node_embeddings, config.node_embedding_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that takes the features."""
        return self.get_submodule("layers.0.convolution.linear")

    @takes(
        node_features="float B N num_features",
        edge_index="int >=-1 B E 2",
        attention_mask="mask B N",
        edge_weight="float >0 B E",
    )
    @can_return_tuple
    def forward(
        self,
        node_features: Tensor,
        edge_index: Tensor,
        attention_mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BandanaModelOutput:
        """Encode every node.

        Args:
            node_features: float (B, N, F).
            edge_index: int64 (B, E, 2), (receiver, sender), both directions of an undirected edge, -1 = padding.
            attention_mask: bool (B, N), False at padding, which comes last; default all nodes are there.
            edge_weight: float (B, E), above 0; default 1.
            output_hidden_states: return the features and every layer.
            kwargs: what a processor's batch has besides, for the heads.
        Raises:
            ValueError: shapes do not fit.
        """
        node_features = node_features.to(self.dtype)
        graphs = self.pack(node_features, edge_index, attention_mask, edge_weight)
        sent = messages(graphs.receiver, graphs.sender, graphs.weight, len(graphs.row), node_features.dtype)
        layers = self.encode(self.inputs(graphs), [sent] * self.config.num_hidden_layers)
        embeddings = self.embed(layers)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        size = torch.bincount(graphs.row, minlength=graphs.shape[0]).clamp(min=1)
        total = embeddings.new_zeros(graphs.shape[0], embeddings.shape[1]).index_add(0, graphs.row, embeddings)
        return BandanaModelOutput(
            last_hidden_state=graphs.pad_nodes(layers[-1]),
            pooler_output=total / size[:, None],
            node_embeddings=graphs.pad_nodes(embeddings),
            valid=graphs.pad_nodes(torch.ones_like(graphs.row)).bool(),
            hidden_states=(node_features, *map(graphs.pad_nodes, layers)) if wanted else None,
        )

    def pack(self, features: Tensor, edges: Tensor, there: Tensor | None, weight: Tensor | None) -> Graphs:
        """Return the graphs in one numbering, after checking that they are what the model was made for."""
        if features.shape[-1] != self.config.num_features:
            raise ValueError(
                f"nodes have {features.shape[-1]} features, and this model takes {self.config.num_features}; use its processor"
            )
        return pack(features, edges, there, weight)

    def inputs(self, graphs: Graphs) -> Tensor | SparseFeatures:
        """Return what the first layer takes: the features, with the nodes' learned vectors where there are these.

        Raises:
            ValueError: a graph has more nodes than learned vectors.
        """
        if not self.config.num_node_embeddings:
            return sparse_or_dense(graphs.features)
        if graphs.shape[1] > self.config.num_node_embeddings:
            raise ValueError(
                f"a graph has features of {graphs.shape[1]} nodes, and the model has vectors for "
                f"{self.config.num_node_embeddings} (num_node_embeddings)"
            )
        own = self.node_embeddings(graphs.nodes % graphs.shape[1])
        return torch.cat([own, graphs.features], 1)

    def encode(self, x: Tensor | SparseFeatures, sent: list[Messages]) -> list[Tensor]:
        """Return all layers' nodes (n, D), each with messages of its own."""
        layers: list[Any] = []
        for layer, each in zip(self.layers, sent, strict=True):
            x = layer(x, each)
            layers.append(x)
        return layers

    def embed(self, layers: list[Tensor]) -> Tensor:
        """Return nodes' embeddings (n, width) from the layers."""
        values = torch.cat(layers, 1) if self.config.readout == "concat" else layers[-1]
        return F.normalize(values, dim=1) if self.config.normalize_embeddings else values


class EdgeDecoder(nn.Module):
    """Tell edges from pairs that are none by the product of their nodes: two logits, "edge" first."""

    def __init__(self, config: BandanaConfig):
        super().__init__()
        widths = [config.hidden_size] + [config.decoder_hidden_size] * (config.decoder_num_layers - 1) + [2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = Dropout(config.decoder_dropout_prob)
        self.act = activation(config.decoder_act)

    def forward(self, nodes: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Map nodes (n, D) and numbers of nodes (P,) to logits (P, 2)."""
        start, *rest = self.layers
        if type(start) is nn.Linear:
            x = pair_linear(nodes, first, second, start.weight, start.bias, self.dropout)
        else:  # an adapter's layer
            x = start(self.dropout(nodes.index_select(0, first) * nodes.index_select(0, second)))
        for layer in rest:
            x = layer(self.dropout(self.act(x)))
        return x


class FeatureDecoder(nn.Module):
    """Predict features of nodes: a matrix, hidden nodes masked once more, one convolution; GraphMAE, section 3.2."""

    def __init__(self, config: BandanaConfig):
        super().__init__()
        self.embed = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.empty(config.hidden_size))
        self.convolution = GraphConvolution(config.hidden_size, config.num_features)

    def forward(self, nodes: Tensor, hidden: Tensor, sent: Messages) -> Tensor:
        """Map nodes (n, D), of which some were hidden (n,), to features (n, F)."""
        x = self.embed(nodes)
        x = torch.where(hidden[:, None], self.mask_token.to(x.dtype), x)
        features: Tensor = self.convolution(x, sent)
        return features

    def reset(self, spread: float) -> None:
        """Fill the parameters of its own."""
        init.xavier_uniform_(self.embed.weight)
        init.normal_(self.mask_token, std=spread)


class BandanaForPreTraining(BandanaPreTrainedModel):
    """Encoder and decoder with the loss of Zhao et al. 2024, section 4.2, or of the options."""

    joint_loss = True

    def __init__(self, config: BandanaConfig):
        super().__init__(config)
        self.bandana = BandanaModel(config)
        if config.masking == "features":
            self.mask_token = nn.Parameter(torch.empty(config.num_features))
            self.feature_decoder = FeatureDecoder(config)
        else:
            self.decoder = EdgeDecoder(config)
        self.post_init()

    @property
    def splits_rows(self) -> bool:
        """Whether several processes may train on one graph, each on its share of the edges."""
        return self.config.split_edges

    def reset(self, spread: float) -> None:
        """Fill the parameters of its own."""
        if self.config.masking == "features":
            init.normal_(self.mask_token, std=spread)

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that takes the features."""
        return self.bandana.get_input_embeddings()

    @takes(
        node_features="float B N num_features",
        edge_index="int >=-1 B E 2",
        attention_mask="mask B N",
        edge_weight="float >0 B E",
        targets="int >=-1 <N B * 2",
        mask="bool B *",
        bandwidth_noise="float B * E",
        negatives="int >=-1 <N B * 2",
        chosen="int >=-1 B *",
        row_seed="int B",
    )
    @can_return_tuple
    def forward(
        self,
        node_features: Tensor,
        edge_index: Tensor,
        attention_mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        bandwidth_noise: Tensor | None = None,
        negatives: Tensor | None = None,
        chosen: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> BandanaForPreTrainingOutput:
        """Mask, encode, predict.

        Args:
            node_features, edge_index, attention_mask, edge_weight: as for `BandanaModel`.
            targets: int64 (B, P, 2), edges to predict, -1 = padding; default the graph's own: with masking "edges" those
                that are hidden. Held-out edges are predicted so.
            mask: bool, True = hidden: edges (B, E), which pass nothing; with masking "features" nodes (B, N). Default: drawn
                with masking "edges" and "features", nothing with the others.
            bandwidth_noise: (B, L, E), draws from a standard normal that decide the bandwidths; default drawn.
            negatives: int64 (B, Q, 2), pairs that are no edges; default drawn.
            chosen: int64 (B, C), places of the edges to predict, -1 = padding; default all, or drawn (`edges_per_step`).
            row_seed: int64 (B,), decides all draws; where a mask is given, the other draws are the same at every call.
            generator: decides them otherwise; else torch's global source.
            return_loss: compute the losses.
            kwargs: ignored.
        """
        config = self.config
        node_features = node_features.to(self.dtype)
        if mask is not None:
            check_tensors(
                {"mask": mask},
                mask=f"bool * {(node_features if config.masking == 'features' else edge_index).shape[1]}",
            )
            row_seed, generator = torch.zeros(len(node_features), dtype=torch.int64, device=node_features.device), None
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator, "device": node_features.device}
        if self.config.masking == "features":
            return self._features(node_features, edge_index, attention_mask, edge_weight, mask, return_loss, source)
        graphs = self.bandana.pack(node_features, edge_index, attention_mask, edge_weight)
        if mask is None and self.config.masking == "edges":
            mask = hide_edges(graphs, self.config.mask_ratio, **source)
        mask = (
            mask if mask is not None else torch.zeros(edge_index.shape[:2], dtype=torch.bool, device=edge_index.device)
        )
        widths = self._bandwidths(graphs, mask, bandwidth_noise, source)
        layers = self.bandana.encode(
            self.bandana.inputs(graphs), self._messages(graphs, mask, widths, node_features.dtype)
        )
        wanted, scored = self._targets(graphs, edge_index, mask, targets, chosen, source)
        number = graphs.number[torch.arange(len(wanted), device=wanted.device)[:, None, None], wanted.clamp(min=0)]
        share = _my_share() if self.training and config.split_edges else None
        taken = scored if share is None else _every(scored, *share)
        told = self._decoded(number[taken], layers if return_loss else layers[-1:], len(graphs.row))
        padded = told[-1].new_zeros(scored.numel(), 2)
        padded = padded.index_copy(0, taken.flatten().nonzero()[:, 0], told[-1]).view(*scored.shape, 2)
        losses = None
        if return_loss:
            shares = self._shares(graphs, widths, targets is not None)
            if negatives is None:
                count = (scored.sum(1) * self.config.negatives_per_edge).round().long()
                negatives = non_edges(graphs, count, targets, **source)
            others = (negatives >= 0).all(2)
            if share is not None:
                others = _every(others, *share)
            losses = self._losses(graphs, layers, told, taken, shares, negatives, others)
        return BandanaForPreTrainingOutput(
            loss=None if losses is None else weighted_sum(losses, self.config.loss_weights),
            losses=losses,
            mask=mask,
            scored=scored,
            predictions=padded,
            bandwidths=widths,
            negatives=negatives,
            last_hidden_state=graphs.pad_nodes(layers[-1]),
            hidden_states=tuple(map(graphs.pad_nodes, layers)),
        )

    def _bandwidths(self, graphs: Graphs, mask: Tensor, drawn: Tensor | None, source: dict[str, Any]) -> Tensor:
        """Return each edge's bandwidth in each layer (B, L, E): 1 without, 0 at hidden edges."""
        config, (batch, _, length) = self.config, graphs.shape
        shape = batch, config.num_hidden_layers, length
        if config.masking != "bandwidth":
            return torch.ones(shape, device=mask.device).masked_fill(mask[:, None], 0)
        if drawn is None:
            streams = [normal_noise((batch, length), stream=20 + layer, **source) for layer in range(shape[1])]
            drawn = torch.stack(streams, 1)
        hidden = mask.flatten()[graphs.edges]
        seen = graphs.without(hidden)
        count = len(graphs.row)
        # the authors' order of both directions; the draws belong to the sorted edges
        order = (seen.receiver * count + seen.sender).argsort() if config.legacy_alignment else None
        widths = []
        for layer, temperature in enumerate(config.layer_temperatures):
            normals = drawn[:, layer].flatten()[seen.edges].to(graphs.features.dtype)
            if order is None:
                values = bandwidths(normals, seen.receiver, temperature, count, seen.weight)
            else:
                values = bandwidths(normals, seen.receiver[order], temperature, count, seen.weight)
            widths.append(seen.pad_edges(values))
        return torch.stack(widths, 1)

    def _messages(self, graphs: Graphs, mask: Tensor, widths: Tensor, dtype: torch.dtype) -> list[Messages]:
        config = self.config
        seen = graphs.without(mask.flatten()[graphs.edges])
        receiver, sender, count = seen.receiver, seen.sender, len(graphs.row)
        if config.masking != "bandwidth":
            return [messages(receiver, sender, seen.weight, count, dtype)] * config.num_hidden_layers
        if config.legacy_alignment and config.normalize == "receive":
            order = (receiver * count + sender).argsort()
            receiver, sender = receiver[order], sender[order]
        if config.normalize == "send":
            receiver, sender = sender, receiver
        return [
            messages(receiver, sender, widths[:, layer].flatten()[seen.edges], count, dtype)
            for layer in range(config.num_hidden_layers)
        ]

    def _targets(
        self,
        graphs: Graphs,
        edge_index: Tensor,
        mask: Tensor,
        targets: Tensor | None,
        chosen: Tensor | None,
        source: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Return the edges to predict (B, P, 2) and which of them count (B, P)."""
        wanted = edge_index if targets is None else targets
        valid = (wanted >= 0).all(2)
        if targets is None and self.config.masking == "edges":
            valid = valid & mask
        if chosen is not None:
            count = torch.zeros_like(valid, dtype=torch.int64).scatter_add(1, chosen.clamp(min=0), (chosen >= 0).long())
            return wanted, valid & (count > 0)
        if self.config.edges_per_step and targets is None:
            draw = noise(tuple(valid.shape), stream=5, **source)
            return wanted, hide_highest(draw, self.config.edges_per_step, valid)
        return wanted, valid

    def _decoded(self, pairs: Tensor, layers: list[Tensor], count: int) -> list[Tensor]:
        """Return the decoder's logits of pairs (P, 2) after some layers; pairs that stand there both ways are decoded once."""
        found = both_ways(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), count)
        if found is None:
            return [self.decoder(nodes, pairs[:, 0], pairs[:, 1]) for nodes in layers]
        places, twin = found
        half = pairs[places]
        return [self.decoder(nodes, half[:, 0], half[:, 1]).index_select(0, twin) for nodes in layers]

    def _shares(self, graphs: Graphs, widths: Tensor, given: bool) -> list[Tensor | None]:
        """Return what each edge's loss is weighed by in each layer: its bandwidth; of given targets, the graph's mean one.

        Else a model that does as it was trained to would be judged by other shares of edges and other pairs.
        """
        if self.config.masking != "bandwidth":
            return [None] * widths.shape[1]
        if not given:
            return [width.flatten() for width in widths.unbind(1)]
        return [width.flatten()[graphs.edges].mean() for width in widths.unbind(1)]

    def _losses(
        self,
        graphs: Graphs,
        layers: list[Tensor],
        told: list[Tensor],
        scored: Tensor,
        shares: list[Tensor | None],
        negatives: Tensor,
        chosen: Tensor,
    ) -> dict[str, Tensor]:
        """Return the mean over layers of the loss of edges, weighted by their bandwidths, and of pairs that are none."""
        rows = torch.arange(len(negatives), device=negatives.device)[:, None, None]
        others = graphs.number[rows, negatives.clamp(min=0)][chosen]
        places = scored.flatten().nonzero()[:, 0]
        found, lost = [], []
        for nodes, logits, share in zip(layers, told, shares, strict=True):
            error = -logits.float().log_softmax(-1)[:, 0]
            found.append(joint_mean(error if share is None else error * (share[places] if share.dim() else share)))
            lost.append(joint_mean(-self.decoder(nodes, others[:, 0], others[:, 1]).float().log_softmax(-1)[:, 1]))
        return {"edges": torch.stack(found).mean(), "non_edges": torch.stack(lost).mean()}

    def _features(
        self,
        features: Tensor,
        edge_index: Tensor,
        there: Tensor | None,
        weight: Tensor | None,
        mask: Tensor | None,
        return_loss: bool,
        source: dict[str, Any],
    ) -> BandanaForPreTrainingOutput:
        """Hide features of some nodes and predict them: GraphMAE, with convolutions instead of attention."""
        config = self.config
        valid = (
            torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if there is None else there.bool()
        )
        if mask is None:
            budget = (valid.sum(1) * config.mask_ratio).round().long()
            mask = hide_highest(noise(tuple(valid.shape), **source), budget, valid)
        mask = mask & valid
        shown = torch.where(mask[..., None], self.mask_token.to(features.dtype), features)
        graphs = self.bandana.pack(shown, edge_index, there, weight)
        sent = messages(graphs.receiver, graphs.sender, graphs.weight, len(graphs.row), features.dtype)
        layers = self.bandana.encode(self.bandana.inputs(graphs), [sent] * config.num_hidden_layers)
        predicted = graphs.pad_nodes(self.feature_decoder(layers[-1], mask.flatten()[graphs.nodes], sent))
        losses = None
        if return_loss:
            near = F.cosine_similarity(predicted.float(), features.float(), dim=-1, eps=1e-6)
            error = (1 - near).clamp(min=0) ** config.feature_loss_gamma
            losses = {"features": masked_mean(error, mask)}
        return BandanaForPreTrainingOutput(
            loss=None if losses is None else weighted_sum(losses, config.loss_weights),
            losses=losses,
            mask=mask,
            scored=mask,
            predictions=predicted,
            last_hidden_state=graphs.pad_nodes(layers[-1]),
            hidden_states=tuple(map(graphs.pad_nodes, layers)),
        )


def _my_share() -> tuple[int, int] | None:
    """Return the number of this process and how many there are; None for one alone."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.get_rank(), dist.get_world_size()


def _every(chosen: Tensor, rank: int, world: int) -> Tensor:
    """Leave one of every `world` places that are chosen, another one on each rank."""
    return chosen & ((chosen.flatten().cumsum(0) - 1).view(chosen.shape) % world == rank)
