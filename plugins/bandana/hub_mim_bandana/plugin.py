"""What hub-mim knows of Bandana before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{zhao2024bandana,
  title     = {Masked Graph Autoencoder with Non-discrete Bandwidths},
  author    = {Zhao, Ziwen and Li, Yuhua and Zou, Yixiong and Tang, Jiliang and Li, Ruixuan},
  booktitle = {Proceedings of the ACM Web Conference},
  year      = {2024},
}
"""


def _size(
    layers: int, width: int, decoder: int, dropout: float = 0.8, decoder_dropout: float = 0.0, temperature: float = 0.9
) -> dict[str, Any]:
    """Return the arguments of one of the authors' sizes."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "decoder_hidden_size": decoder,
        "hidden_dropout_prob": dropout,
        "decoder_dropout_prob": decoder_dropout,
        "temperatures": [temperature],
    }


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare Bandana."""
    package = "hub_mim_bandana"
    return [
        Method(
            name="bandana",
            title="Bandana: masked graph autoencoder with non-discrete bandwidths",
            paper="https://arxiv.org/abs/2402.03814",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("graph",),
            config=f"{package}.configuration_bandana:BandanaConfig",
            auto={
                "AutoModelForNodeClassification": f"{package}.modeling_bandana_heads:BandanaForNodeClassification",
                "AutoModelForLinkPrediction": f"{package}.modeling_bandana_heads:BandanaForLinkPrediction",
                "AutoModelForGraphClassification": f"{package}.modeling_bandana_heads:BandanaForGraphClassification",
                "AutoModel": f"{package}.modeling_bandana:BandanaModel",
                "AutoModelForPreTraining": f"{package}.modeling_bandana:BandanaForPreTraining",
                "AutoProcessor": f"{package}.processing_bandana:BandanaProcessor",
            },
            example=f"{package}.example:example",
            sample_data=f"{package}.example:sample",
            # the authors' configuration files; dropout of the decoder beside its widths
            presets={
                "node": {},
                "link": _size(2, 128, 64, decoder_dropout=0.2),
                "node-citeseer": _size(5, 256, 256, temperature=0.2) | {"num_features": 3703},
                "node-pubmed": _size(2, 64, 32, 0.6, 0.7, 0.2) | {"num_features": 500},
                "link-citeseer": _size(1, 128, 64, decoder_dropout=0.7, temperature=0.4) | {"num_features": 3703},
                "link-pubmed": _size(2, 256, 64, decoder_dropout=0.2, temperature=1.0) | {"num_features": 500},
                "maskgae-like": {"masking": "edges"},
                "graphmae-like": {
                    "masking": "features",
                    "mask_ratio": 0.5,
                    "feature_loss_gamma": 3.0,
                    "hidden_dropout_prob": 0.2,
                },
                "sampled": {"normalization": "layer"},
            },
            parameters={"node": 566_530, "link": 208_962},
            recipe={
                "per_device_train_batch_size": 1,
                "max_steps": 1000,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "constant",
                "weight_decay": 5e-5,
                "max_grad_norm": 1.0,
            },
            load=f"{package}.reading:load",
            hold_out=f"{package}.evaluation:hold_out",
            embeds={"node": f"{package}.evaluation:embed_nodes"},
            embed_per="node",
            evaluators={"links": f"{package}.evaluation:links", "nodes": f"{package}.evaluation:nodes"},
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            conversion=f"{package}.conversion_bandana:conversion",
            lora_targets=("linear",),
            parity=f"{package}.parity:predict",
        )
    ]
