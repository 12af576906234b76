"""What hub-mim knows of the toy before anything of it is imported."""

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare the toy."""
    return [
        Method(
            name="toy",
            title="A toy masked autoencoder of vectors",
            paper="https://arxiv.org/abs/2111.06377",
            licence="apache-2.0",
            modalities=("vector",),
            model_type="toy_mim",
            config="hub_mim_toy.configuration_toy:ToyMimConfig",
            auto={
                "AutoModel": "hub_mim_toy.modeling_toy:ToyMimModel",
                "AutoModelForPreTraining": "hub_mim_toy.modeling_toy:ToyMimForPreTraining",
                "AutoModelForSequenceClassification": "hub_mim_toy.modeling_toy:ToyMimForSequenceClassification",
                "AutoProcessor": "hub_mim_toy.processing_toy:ToyMimProcessor",
            },
            example="hub_mim_toy.example:example",
            presets={"tiny": {}, "wide": {"hidden_size": 32, "intermediate_size": 64}},
            recipe={
                "per_device_train_batch_size": 8,
                "num_train_epochs": 3,
                "learning_rate": 3e-3,
                "weight_decay": 0.01,
            },
            conversion="hub_mim_toy.conversion_toy:conversion",
            parity="hub_mim_toy.parity:predict",
            sample_data="hub_mim_toy.example:sample",
            evaluators={"mean-error": "hub_mim_toy.example:mean_error"},
            lora_targets=("q_proj", "v_proj"),
        )
    ]
