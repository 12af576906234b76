"""What hub-mim knows of ReMasker before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method


def _size(width: int, depth: int, decoder_depth: int) -> dict[str, Any]:
    """Return the arguments of one of the authors' sizes: one width for encoder and decoder, MLPs four times as wide."""
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 4 * width}
    sizes |= {"decoder_hidden_size": width, "decoder_num_hidden_layers": decoder_depth}
    return sizes | {"decoder_intermediate_size": 4 * width}


# what the ablation in the card earned: see `IMPUTATION` for how it is trained
OURS: dict[str, Any] = {
    "value_embedding": "column",
    "output": "linear",
    "linear_skip": "blend",
    "mask_ratio": 0.1,
    "mask_ratio_max": 0.8,
    "masking": "observed",
    "layer_norm_eps": 1e-6,
}

# how `ReMaskerImputer` trains and predicts unless told otherwise
IMPUTATION: dict[str, Any] = {
    "scaling": "standard",
    "mask_samples": 1,
    "steps": (400, 1200),  # least and most; in between a quarter of the table's cells
    "arguments": {
        "per_device_train_batch_size": 64,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 3e-5},
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "max_grad_norm": 0.0,
    },
}


CITATION = """
@inproceedings{du2024remasker,
  title     = {ReMasker: Imputing Tabular Data with Masked Autoencoding},
  author    = {Du, Tianyu and Melis, Luca and Wang, Ting},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
}
"""


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare ReMasker."""
    return [
        Method(
            name="remasker",
            title="ReMasker: imputing tabular data with masked autoencoding",
            paper="https://arxiv.org/abs/2309.13793",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("table",),
            config="hub_mim_remasker.configuration_remasker:ReMaskerConfig",
            auto={
                "AutoModel": "hub_mim_remasker.modeling_remasker:ReMaskerModel",
                "AutoModelForPreTraining": "hub_mim_remasker.modeling_remasker:ReMaskerForPreTraining",
                "AutoProcessor": "hub_mim_remasker.processing_remasker:ReMaskerProcessor",
            },
            example="hub_mim_remasker.example:example",
            presets={
                "tiny": _size(16, 2, 1) | OURS,
                "default": _size(32, 3, 2) | OURS,
                "legacy": _size(32, 6, 4) | {"legacy": True},
                # the authors' table sizes (their configs.py)
                "legacy-iris": _size(32, 4, 2) | {"legacy": True},
                "legacy-bike": _size(32, 8, 4) | {"legacy": True},
                "legacy-raisin": _size(64, 8, 4) | {"legacy": True},
                "legacy-wine": _size(64, 8, 6) | {"legacy": True},
            },
            parameters={
                "legacy": 128_385,
                "legacy-iris": 77_569,
                "legacy-bike": 153_793,
                "legacy-raisin": 604_545,
                "legacy-wine": 704_513,
            },
            recipe={
                "per_device_train_batch_size": 64,
                "num_train_epochs": 600,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr": 1e-5},
                "warmup_steps": 40 / 600,
                "weight_decay": 0.01,
                "adam_beta1": 0.9,
                "adam_beta2": 0.95,
                "max_grad_norm": 0.0,
            },
            evaluators={"imputation": "hub_mim_remasker.evaluation:imputation"},
            on_finish="hub_mim_remasker.blending:on_finish",
            picture="hub_mim_remasker.evaluation:picture",
            demo="hub_mim_remasker.demo:demo",
            flops="hub_mim_remasker.flops:forward_flops",
            conversion="hub_mim_remasker.conversion_remasker:conversion",
            parity="hub_mim_remasker.parity:predict",
            lora_targets=("q_proj", "v_proj"),
            tags=("imputation", "tabular"),
        )
    ]


@hookimpl
def hub_mim_commands(app: Any) -> None:
    """Add `hub-mim impute`."""
    from hub_mim_remasker.commands import register

    register(app)
