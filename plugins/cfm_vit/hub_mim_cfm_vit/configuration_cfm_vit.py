"""Configuration of CFM-ViT (Kim, Angelova, Kuo, ICCV 2023): a tower of pictures, one of texts, a decoder of hidden patches.

The paper's code was never released. What could not be read in it stands in the docstring as "ours".
"""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

LOSSES = ("contrastive", "reconstruction")


@strict
class CfmVitConfig(PreTrainedConfig):
    """Describe a CFM-ViT model; the defaults are the base size.

    Args:
        image_size: of the pictures that the position tables are made for, a side or [height, width]; others get the tables
            resized.
        patch_size: side of a patch. num_channels: of a picture.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the tower of pictures.
        vocab_size, max_position_embeddings: words, and the longest text. pad_token_id: never attended to, not in the mean.
        text_hidden_size, text_num_hidden_layers, text_num_attention_heads, text_intermediate_size: of the tower of texts.
        joint_dim: width of the space that pictures, patches and texts share; ours.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size: of the decoder;
            two layers as in the paper, the width is ours.
        hidden_act: activation of the MLPs. layer_norm_eps: of every norm.
        hidden_dropout_prob: after attention and MLP of both towers, in training. drop_path_rate: of the last block of the
            tower of pictures, rising from 0.
        initializer_range: standard deviation of word and position vectors and of the mask token.
        mask_ratio: share of patches that the reconstruction hides.
        contrastive_on: what of a picture is compared with its text: "masked", the patches that the reconstruction does not
            see (the paper's shorter way: each patch is encoded once), or "full".
        pe_drop: chance of a picture to lose its whole table of positions in training; ours: drawn for each picture.
        cropped_positions: in training, give each picture a random part of the table, enlarged, as of RO-ViT (arXiv:2305.07011).
        crop_scale, crop_ratio: least and greatest area and ratio of width to height of that part. crop_grid: side that the
            table is enlarged to before.
        reconstruction_target: "embedding", a patch's vector in the joint space, or "pixels", standardised (the ablation).
        stop_gradient_target: whether vectors that are targets are constants; ours.
        contrastive_loss: "softmax" (as in CLIP) or "focal" (RO-ViT). focal_alpha, focal_gamma: weight and exponent of the latter.
        init_temperature: first value of the learned temperature.
        loss_weights: of "contrastive" and "reconstruction"; missing = 1.
        vlm_temperature: of the scores of regions. ensemble_alpha, ensemble_beta: share of a detector's score for names that it
            was trained on, and for others.
        roi_size, roi_samples: bins a side of a region, samples a side of each bin.
        freeze_backbone: of `CfmVitForRegionClassification`: train its head alone.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "cfm_vit"

    image_size: int | list[int] = 224
    patch_size: int = between(1)(16)
    num_channels: int = between(1)(3)
    hidden_size: int = between(1)(768)
    num_hidden_layers: int = between(0)(12)
    num_attention_heads: int = between(1)(12)
    intermediate_size: int = between(1)(3072)
    vocab_size: int = between(1)(32_000)
    max_position_embeddings: int = between(1)(64)
    pad_token_id: int | None = 0
    text_hidden_size: int = between(1)(768)
    text_num_hidden_layers: int = between(0)(12)
    text_num_attention_heads: int = between(1)(12)
    text_intermediate_size: int = between(1)(3072)
    joint_dim: int = between(1)(768)
    decoder_hidden_size: int = between(1)(512)
    decoder_num_hidden_layers: int = between(0)(2)
    decoder_num_attention_heads: int = between(1)(16)
    decoder_intermediate_size: int = between(1)(2048)
    hidden_act: str = "gelu"
    layer_norm_eps: float = between(0)(1e-6)
    hidden_dropout_prob: float = between(0, 1, below=True)(0.0)
    drop_path_rate: float = between(0, 1, below=True)(0.0)
    initializer_range: float = between(0)(0.02)
    mask_ratio: float = between(0, 1, below=True)(0.75)
    contrastive_on: str = "masked"
    pe_drop: float = between(0, 1)(0.5)
    cropped_positions: bool = False
    crop_scale: list[float] = field(default_factory=lambda: [0.1, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.5, 2.0])
    crop_grid: int = between(1)(64)
    reconstruction_target: str = "embedding"
    stop_gradient_target: bool = True
    contrastive_loss: str = "softmax"
    focal_alpha: float = between(0, 1)(0.5)
    focal_gamma: float = between(0)(1.0)
    init_temperature: float = between(1e-3)(0.07)
    loss_weights: dict[str, float] = field(default_factory=lambda: {"reconstruction": 2.0})
    vlm_temperature: float = between(1e-3)(0.01)
    ensemble_alpha: float = between(0, 1)(0.65)
    ensemble_beta: float = between(0, 1)(0.3)
    roi_size: int = between(1)(7)
    roi_samples: int = between(1)(2)
    freeze_backbone: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the position tables are made for."""
        high, wide = self.sides
        return high // self.patch_size, wide // self.patch_size

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the pictures that the position tables are made for."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def decoder_outputs(self) -> int:
        """Numbers that the decoder predicts for each patch."""
        return self.joint_dim if self.reconstruction_target == "embedding" else self.num_channels * self.patch_size**2

    def validate_sizes(self) -> None:
        """Check widths, heads and patches."""
        for prefix in ("", "text_", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            four = 4 if prefix != "text_" else 1  # sines and cosines of two coordinates
            if width % heads or width % four:
                raise ValueError(
                    f"{prefix}hidden_size {width} must be a multiple of {prefix}num_attention_heads {heads}"
                    + (" and of 4" if four == 4 else "")
                )
        sides = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        if len(sides) not in (1, 2) or any(side < 1 or side % self.patch_size for side in sides):
            raise ValueError(
                f"image_size is {self.image_size}; it must be a side, or [height, width], of multiples of patch_size "
                f"{self.patch_size}"
            )

    def validate_choices(self) -> None:
        """Check the named options and the pairs of bounds."""
        choices = {
            "contrastive_on": ("masked", "full"),
            "reconstruction_target": ("embedding", "pixels"),
            "contrastive_loss": ("softmax", "focal"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        for name, most in (("crop_scale", 1.0), ("crop_ratio", float("inf"))):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                told = ", up to 1" if most == 1 else ""
                raise ValueError(f"{name} is {bounds}; it must be two numbers above 0, the lesser first{told}")
        strange = sorted(set(self.loss_weights) - set(LOSSES))
        if strange:
            raise ValueError(f"loss_weights names {strange}; the losses are {LOSSES}")
