"""What hub-mim knows of MyMethod before anything heavy is imported: strings only."""

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare MyMethod."""
    return [
        Method(
            name="mymethod",
            title="MyMethod: what it is, in one line",
            paper="https://arxiv.org/abs/2111.06377",
            licence="apache-2.0",
            modalities=("MODALITY",),
            config="hub_mim_mymethod.configuration_mymethod:MyMethodConfig",
            auto={
                "AutoModel": "hub_mim_mymethod.modeling_mymethod:MyMethodModel",
                "AutoModelForPreTraining": "hub_mim_mymethod.modeling_mymethod:MyMethodForPreTraining",
                "AutoProcessor": "hub_mim_mymethod.processing_mymethod:MyMethodProcessor",
            },
            example="hub_mim_mymethod.example:example",
            sample_data="hub_mim_mymethod.example:sample",
            presets={
                "tiny": {},
                "base": {
                    "hidden_size": 256,
                    "num_hidden_layers": 6,
                    "num_attention_heads": 8,
                    "intermediate_size": 1024,
                },
            },
            recipe={
                "per_device_train_batch_size": 32,
                "num_train_epochs": 20,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.05,
                "weight_decay": 0.05,
            },
            lora_targets=("q_proj", "v_proj"),
        )
    ]
