"""Configuration of Bandana (Zhao et al., WWW 2024): a graph autoencoder that masks by bandwidths."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

MASKINGS = ("bandwidth", "edges", "features", "none")


@strict
class BandanaConfig(PreTrainedConfig):
    """Describe a Bandana model; the defaults are the authors' for Cora's node classification.

    Args:
        num_features: of each node; the processor tells.
        hidden_size: width of every layer of the encoder.
        num_hidden_layers: graph convolutions of the encoder.
        decoder_hidden_size: width of the decoder of edges.
        decoder_num_layers: its linear layers, at least 1.
        hidden_dropout_prob: of each convolution's input, the raw features too, in [0, 1).
        decoder_dropout_prob: of each decoder layer's input, in [0, 1).
        hidden_act: after each convolution. decoder_act: between the decoder's layers.
        normalization: after each convolution: "batch" (the authors: statistics of all nodes of the batch), "layer" (of
            each node alone: for sampled subgraphs and unseen graphs), "none".
        layer_norm_eps: of either.
        num_node_embeddings: 0, or the number of nodes of the one graph that each get a learned vector beside their features.
        node_embedding_size: width of these vectors.
        masking: "bandwidth" (the paper); "edges": a share of the edges is hidden and predicted, as MaskGAE (Li et al. 2023,
            arXiv:2205.10053); "features": a share of the nodes has its features hidden and predicted, as GraphMAE (Hou et
            al. 2022, arXiv:2205.10803); "none": all edges are predicted from all edges.
        temperatures: of the bandwidths, above 0: one for all layers, or one a layer. Small ones choose one neighbour.
        normalize: "receive": the bandwidths of the messages that a node receives sum to 1 (the authors' sparse path, all
            published numbers); "send": of those that it sends (their dense path).
        mask_ratio: share of edges or nodes to hide with masking "edges" and "features", in [0, 1).
        negatives_per_edge: pairs that are no edge for each edge to predict.
        edges_per_step: predict only so many edges of each graph, drawn anew at every step; 0 for all.
        split_edges: in training on several processes that all have the same graph, let each predict its share of the edges
            and of the pairs that are none; together they take the step of one process.
        feature_loss_gamma: power of the scaled cosine error of hidden features, at least 1 (GraphMAE, eq. 2).
        readout: a node's embedding is "concat", all layers, or "last", the last one's.
        normalize_embeddings: scale each node's embedding to length 1.
        link_decoder: what `BandanaForLinkPrediction` scores pairs by: "dot" product or the "mlp" of pre-training.
        problem_type: of the labels of heads, as everywhere in transformers.
        initializer_range: standard deviation of mask tokens.
        loss_weights: of the terms "edges", "non_edges", "features".
        legacy_alignment: give edges the bandwidths of others, as the authors' code does where edges are not sorted: it
            sorts them to draw bandwidths and then reads these by the unsorted places.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "bandana"

    num_features: int = between(1)(1433)
    hidden_size: int = between(1)(256)
    num_hidden_layers: int = between(1)(3)
    decoder_hidden_size: int = between(1)(256)
    decoder_num_layers: int = between(1)(2)
    hidden_dropout_prob: float = between(0, 1, below=True)(0.8)
    decoder_dropout_prob: float = between(0, 1, below=True)(0.0)
    hidden_act: str = "elu"
    decoder_act: str = "relu"
    normalization: str = "batch"
    layer_norm_eps: float = between(0)(1e-5)
    num_node_embeddings: int = between(0)(0)
    node_embedding_size: int = between(1)(32)
    masking: str = "bandwidth"
    temperatures: list[float] = field(default_factory=lambda: [0.9])
    normalize: str = "receive"
    mask_ratio: float = between(0, 1, below=True)(0.7)
    negatives_per_edge: float = between(0)(1.0)
    edges_per_step: int = between(0)(0)
    split_edges: bool = False
    feature_loss_gamma: float = between(1)(2.0)
    readout: str = "concat"
    normalize_embeddings: bool = True
    link_decoder: str = "dot"
    initializer_range: float = between(0)(0.02)
    loss_weights: dict[str, float] = field(default_factory=dict)
    legacy_alignment: bool = False

    @property
    def embedding_size(self) -> int:
        """Width of a node's embedding."""
        return self.hidden_size * (self.num_hidden_layers if self.readout == "concat" else 1)

    @property
    def layer_temperatures(self) -> list[float]:
        """A temperature for every layer."""
        return self.temperatures * self.num_hidden_layers if len(self.temperatures) == 1 else self.temperatures

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        return ("features",) if self.masking == "features" else ("edges", "non_edges")

    def validate_choices(self) -> None:
        """Check the named options and the names of the losses."""
        choices = {
            "normalization": ("batch", "layer", "none"),
            "masking": MASKINGS,
            "normalize": ("receive", "send"),
            "readout": ("concat", "last"),
            "link_decoder": ("dot", "mlp"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        strange = set(self.loss_weights) - set(self.losses)
        if strange:
            raise ValueError(
                f"loss_weights names {sorted(strange)}; with masking {self.masking!r} there are {self.losses}"
            )

    def validate_temperatures(self) -> None:
        """Check the temperatures."""
        if len(self.temperatures) not in (1, self.num_hidden_layers):
            raise ValueError(
                f"temperatures has {len(self.temperatures)} entries for {self.num_hidden_layers} layers; give one, or one a layer"
            )
        if min(self.temperatures) <= 0:
            raise ValueError(f"temperatures has {min(self.temperatures)}; each must be above 0")
