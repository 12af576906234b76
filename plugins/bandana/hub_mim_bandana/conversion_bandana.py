"""From the authors' state dict to ours and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion
from hub_mim_bandana.configuration_bandana import BandanaConfig


def rules(config: BandanaConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from the authors' names to ours: one a tensor, since convolutions and norms lie side by side there."""
    made: list[WeightRenaming | WeightConverter] = [
        WeightRenaming("^encoder.node_emb.weight", "bandana.node_embeddings.weight"),
    ]
    for layer in range(config.num_hidden_layers):
        ours = f"bandana.layers.{layer}"
        made += [
            WeightRenaming(f"^encoder.convs.{layer}.lin.weight", f"{ours}.convolution.linear.weight"),
            WeightRenaming(f"^encoder.convs.{layer}.bias", f"{ours}.convolution.bias"),
        ]
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        made += [WeightRenaming(f"^encoder.bns.{layer}.{part}", f"{ours}.norm.{part}") for part in parts]
    for layer in range(config.decoder_num_layers):
        for part in ("weight", "bias"):
            made.append(WeightRenaming(f"^decoder.mlps.{layer}.{part}", f"decoder.layers.{layer}.{part}"))
    return made


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> BandanaConfig:
    """Read the configuration off the weights; temperatures and dropout are given as fields."""
    depth = len({name.split(".")[2] for name in weights if name.startswith("encoder.convs.")})
    mlps = len({name.split(".")[2] for name in weights if name.startswith("decoder.mlps.")})
    first = weights["encoder.convs.0.lin.weight"]
    own = weights.get("encoder.node_emb.weight")
    told: dict[str, Any] = {
        "num_features": first.shape[1] - (0 if own is None else own.shape[1]),
        "hidden_size": first.shape[0],
        "num_hidden_layers": depth,
        "decoder_num_layers": mlps,
        "normalization": "batch" if "encoder.bns.0.weight" in weights else "none",
    }
    if mlps > 1:
        told["decoder_hidden_size"] = weights["decoder.mlps.0.weight"].shape[0]
    if own is not None:
        told |= {"num_node_embeddings": own.shape[0], "node_embedding_size": own.shape[1]}
    return BandanaConfig(**told | fields)


conversion = Conversion(rules=rules, config=config_from)
