"""What hub-mim knows of the methods that transformers carries: strings only."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

_MODELS = "transformers.models"
_PICTURES = {
    "pil": f"{_MODELS}.vit.image_processing_pil_vit:ViTImageProcessorPil",
    "torchvision": f"{_MODELS}.vit.image_processing_vit:ViTImageProcessor",
}
_CLIPS = {  # the class for torchvision cannot even be imported without it
    "pil": f"{_MODELS}.videomae.image_processing_pil_videomae:VideoMAEImageProcessorPil",
}
_ADAMW: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.05,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 100,
}
_FOR_PICTURES: dict[str, Any] = {
    "sample_data": "hub_mim_native.example:sample_pictures",
    "picture": "hub_mim_native.drawing:draw",
}
_SMALL: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "image_size": 32,
    "patch_size": 4,
}
_DECODER: dict[str, Any] = {
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}

_BEIT: dict[str, Any] = {
    "use_mask_token": True,
    "use_shared_relative_position_bias": True,
    "layer_scale_init_value": 0.1,
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare MAE, SimMIM on two encoders, BEiT, Hiera and VideoMAE."""
    return [
        Method(
            name="mae",
            title="MAE: masked autoencoders are scalable vision learners",
            paper="https://arxiv.org/abs/2111.06377",
            licence="apache-2.0",
            modalities=("image",),
            native=True,
            model_type="vit_mae",
            config=f"{_MODELS}.vit_mae.configuration_vit_mae:ViTMAEConfig",
            auto={
                "AutoModel": f"{_MODELS}.vit_mae.modeling_vit_mae:ViTMAEModel",
                "AutoModelForPreTraining": f"{_MODELS}.vit_mae.modeling_vit_mae:ViTMAEForPreTraining",
                "AutoModelForImageClassification": f"{_MODELS}.vit.modeling_vit:ViTForImageClassification",
                "AutoImageProcessor": _PICTURES,
            },
            presets={
                "tiny": {**_SMALL, **_DECODER, "norm_pix_loss": True, "layer_norm_eps": 1e-6},
                "base": {
                    "norm_pix_loss": True,
                    "layer_norm_eps": 1e-6,
                },  # the authors' eps; transformers' default is 1e-12
                "large": {
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "intermediate_size": 4096,
                    "norm_pix_loss": True,
                    "layer_norm_eps": 1e-6,
                },
            },
            # Table 8; its rate is for a batch of 4096
            recipe={**_ADAMW, "learning_rate": 1.5e-4, "warmup_steps": 0.05},
            augments={"crop": (0.2, 1.0), "flip": 0.5},  # main_pretrain.py of the authors
            draws="hub_mim_native.draws:noise",
            conversion="hub_mim_native.conversion_mae:CONVERSION",
            on_create="hub_mim_native.repairs:fill_position_tables",
            quicken="hub_mim_native.quick_mae:quicken",
            example="hub_mim_native.example:pictures_of_mae",
            **_FOR_PICTURES,
        ),
        Method(
            name="simmim-vit",
            title="SimMIM: a simple framework for masked image modelling, on a ViT",
            paper="https://arxiv.org/abs/2111.09886",
            licence="apache-2.0",
            modalities=("image",),
            native=True,
            model_type="vit",
            config=f"{_MODELS}.vit.configuration_vit:ViTConfig",
            auto={
                "AutoModel": f"{_MODELS}.vit.modeling_vit:ViTModel",
                "AutoModelForPreTraining": f"{_MODELS}.vit.modeling_vit:ViTForMaskedImageModeling",
                "AutoImageProcessor": _PICTURES,
            },
            presets={"tiny": {**_SMALL, "encoder_stride": 4}, "base": {"encoder_stride": 16}},
            recipe={**_ADAMW, "learning_rate": 1e-4, "warmup_steps": 0.1, "adam_beta2": 0.999},
            augments={"crop": (0.67, 1.0), "flip": 0.5},  # section 4.1
            draws="hub_mim_native.draws:block_mask",
            lora_targets=("q_proj", "v_proj"),
            example="hub_mim_native.example:pictures_of_vit",
            **_FOR_PICTURES,
        ),
        Method(
            name="simmim-swin",
            title="SimMIM: a simple framework for masked image modelling, on a Swin Transformer",
            paper="https://arxiv.org/abs/2111.09886",
            licence="apache-2.0",
            modalities=("image",),
            native=True,
            model_type="swin",
            config=f"{_MODELS}.swin.configuration_swin:SwinConfig",
            auto={
                "AutoModel": f"{_MODELS}.swin.modeling_swin:SwinModel",
                "AutoModelForPreTraining": f"{_MODELS}.swin.modeling_swin:SwinForMaskedImageModeling",
                "AutoImageProcessor": _PICTURES,
            },
            presets={
                "tiny": {
                    "image_size": 32,
                    "patch_size": 2,
                    "embed_dim": 32,
                    "depths": [2, 2, 2],
                    "num_heads": [2, 4, 8],
                    "window_size": 4,
                    "encoder_stride": 8,
                },
                "base": {
                    "image_size": 192,
                    "embed_dim": 128,
                    "depths": [2, 2, 18, 2],
                    "num_heads": [4, 8, 16, 32],
                    "window_size": 6,
                    "encoder_stride": 32,
                },
            },
            recipe={**_ADAMW, "learning_rate": 1e-4, "warmup_steps": 0.1, "adam_beta2": 0.999},
            augments={"crop": (0.67, 1.0), "flip": 0.5},  # section 4.1
            draws="hub_mim_native.draws:block_mask",
            example="hub_mim_native.example:pictures_of_swin",
            **_FOR_PICTURES,
        ),
        Method(
            name="beit",
            title="BEiT: BERT pre-training of image transformers",
            paper="https://arxiv.org/abs/2106.08254",
            licence="apache-2.0",
            modalities=("image",),
            native=True,
            model_type="beit",
            config=f"{_MODELS}.beit.configuration_beit:BeitConfig",
            auto={
                "AutoModel": f"{_MODELS}.beit.modeling_beit:BeitModel",
                "AutoModelForPreTraining": f"{_MODELS}.beit.modeling_beit:BeitForMaskedImageModeling",
                "AutoModelForImageClassification": f"{_MODELS}.beit.modeling_beit:BeitForImageClassification",
                "AutoImageProcessor": _PICTURES,
            },
            presets={
                "tiny": {**_SMALL, **_BEIT, "vocab_size": 512, "codebook": "random-projection"},
                "base": {**_BEIT, "codebook": "facebook/flava-image-codebook"},
                "large": {
                    **_BEIT,
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "intermediate_size": 4096,
                    "layer_scale_init_value": 1e-5,
                    "codebook": "facebook/flava-image-codebook",
                },
            },
            # appendix, Table 9; its rate is for a batch of 2048
            recipe={
                **_ADAMW,
                "learning_rate": 1.5e-3,
                "warmup_steps": 0.0125,
                "adam_beta2": 0.999,
                "max_grad_norm": 3.0,
            },
            augments={"crop": (0.08, 1.0), "flip": 0.5},  # the authors' code, without its colour jitter
            draws="hub_mim_native.codes:codes",
            lora_targets=("q_proj", "v_proj"),
            example="hub_mim_native.example:pictures_of_beit",
            sample_data="hub_mim_native.example:sample_pictures",
        ),
        Method(
            name="hiera",
            title="Hiera: a hierarchical vision transformer without the bells-and-whistles, pre-trained as MAE",
            paper="https://arxiv.org/abs/2306.00989",
            licence="apache-2.0",
            modalities=("image",),
            native=True,
            model_type="hiera",
            config=f"{_MODELS}.hiera.configuration_hiera:HieraConfig",
            auto={
                "AutoModel": f"{_MODELS}.hiera.modeling_hiera:HieraModel",
                "AutoModelForPreTraining": f"{_MODELS}.hiera.modeling_hiera:HieraForPreTraining",
                "AutoModelForImageClassification": f"{_MODELS}.hiera.modeling_hiera:HieraForImageClassification",
                "AutoImageProcessor": _PICTURES,
            },
            presets={
                "tiny": {
                    "image_size": [32, 32],
                    "patch_size": [3, 3],
                    "patch_stride": [2, 2],
                    "patch_padding": [1, 1],
                    "embed_dim": 32,
                    "depths": [1, 1, 2],
                    "num_heads": [1, 2, 4],
                    "masked_unit_size": [4, 4],
                    "masked_unit_attention": [True, True, False],
                    "num_query_pool": 2,
                    "decoder_hidden_size": 64,
                    "decoder_depth": 2,
                    "decoder_num_heads": 4,
                },
                "base": {"decoder_hidden_size": 512, "decoder_depth": 8, "decoder_num_heads": 16},
            },
            # appendix A; its rate is for a batch of 4096
            recipe={**_ADAMW, "learning_rate": 8e-4, "warmup_steps": 0.1},
            augments={"crop": (0.2, 1.0), "flip": 0.5},  # as MAE's
            draws="hub_mim_native.draws:unit_noise",
            example="hub_mim_native.example:pictures_of_hiera",
            **_FOR_PICTURES,
        ),
        Method(
            name="videomae",
            title="VideoMAE: masked autoencoders are data-efficient learners for video",
            paper="https://arxiv.org/abs/2203.12602",
            licence="apache-2.0",
            modalities=("video",),
            native=True,
            model_type="videomae",
            config=f"{_MODELS}.videomae.configuration_videomae:VideoMAEConfig",
            auto={
                "AutoModel": f"{_MODELS}.videomae.modeling_videomae:VideoMAEModel",
                "AutoModelForPreTraining": f"{_MODELS}.videomae.modeling_videomae:VideoMAEForPreTraining",
                "AutoImageProcessor": _CLIPS,
            },
            presets={
                "tiny": {**_SMALL, **_DECODER, "num_frames": 8, "tubelet_size": 2, "layer_norm_eps": 1e-6},
                "base": {"layer_norm_eps": 1e-6},
            },
            recipe={**_ADAMW, "learning_rate": 1.5e-4, "warmup_steps": 0.05, "per_device_train_batch_size": 16},
            draws="hub_mim_native.draws:tube_mask",
            example="hub_mim_native.example:clips",
            sample_data="hub_mim_native.example:sample_clips",
            picture="hub_mim_native.drawing:draw_clips",
        ),
    ]
