"""CFM-ViT with a head: which class a picture has, which class each region has.

Shapes: B pictures, R boxes of each, C classes, D channels of the tower, E channels of the joint space.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.losses import unit
from hub_mim_cfm_vit.modeling_cfm_vit import CfmVitPreTrainedModel, CfmVitVisionModel
from hub_mim_cfm_vit.regions import region_weights

PICTURES_ONLY = [r"^decoder\.", r"(^|\.)text\.", r"log_inv_temperature$"]


class CfmVitForImageClassification(CfmVitPreTrainedModel):
    """Name the class of a picture from the mean of its tokens."""

    input_modalities = ["image"]
    _keys_to_ignore_on_load_unexpected = [*PICTURES_ONLY, r"vision\.proj\."]

    def __init__(self, config: CfmVitConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cfm_vit = CfmVitVisionModel(config, project=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of patches."""
        return self.cfm_vit.get_input_embeddings()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Return logits (B, C) of pictures (B, 3, H, W), and the loss where there are labels int64 (B,)."""
        out = self.cfm_vit(pixel_values, **{"return_dict": True} | kwargs)
        logits = self.classifier(out.pooler_output)
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )


@dataclass
class CfmVitRegionClassifierOutput(ModelOutput):
    """What the classification of regions returns.

    loss: scalar, where there are labels. logits: (B, R, C), cosines by the temperature. region_embeds: unit vectors (B, R, E).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    region_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ZeroLinear(nn.Linear):
    """A linear layer that gives 0 until it is trained; a class of its own, since a module's parent may not be initialised."""


class RegionHead(nn.Module):
    """Move the vectors of regions towards those of their names; at the start it leaves them where they are."""

    def __init__(self, config: CfmVitConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.joint_dim, 4 * config.joint_dim)
        self.act = nn.GELU()
        self.fc2 = ZeroLinear(4 * config.joint_dim, config.joint_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map unit vectors (..., E) to unit vectors (..., E)."""
        return unit(x + self.fc2(self.act(self.fc1(x.to(self.fc1.weight.dtype)))))


class CfmVitForRegionClassification(CfmVitPreTrainedModel):
    """Name the class of regions by the nearest of the classes' vectors, which come from their names: others can be given later.

    Untrained it scores as `CfmVitModel.region_features` and `regions.vlm_scores` do. With `config.freeze_backbone` the head alone
    is trained; else the tower of pictures too. `config.num_labels` counts the background, class 0.
    """

    input_modalities = ["image"]
    _keys_to_ignore_on_load_unexpected = PICTURES_ONLY

    def __init__(self, config: CfmVitConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cfm_vit = CfmVitVisionModel(config)
        self.head = RegionHead(config)
        self.register_buffer("class_embeddings", torch.empty(config.num_labels, config.joint_dim))
        self.post_init()
        self.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, CfmVitForRegionClassification):
            init.normal_(module.class_embeddings)

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of patches."""
        return self.cfm_vit.get_input_embeddings()

    def train(self, mode: bool = True) -> "CfmVitForRegionClassification":
        """Switch to training; a frozen backbone stays as in evaluation, without gradients."""
        super().train(mode)
        if self.config.freeze_backbone:
            self.cfm_vit.eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def set_categories(self, embeddings: Tensor) -> None:
        """Set the vectors of the classes (C, E), see `regions.category_embeddings`; saved with the model.

        Raises:
            ValueError: another number of classes than `config.num_labels`, or another width.
        """
        if tuple(embeddings.shape) != tuple(self.class_embeddings.shape):
            raise ValueError(
                f"the vectors of classes have the shape {tuple(embeddings.shape)}; it must be "
                f"{tuple(self.class_embeddings.shape)}: set num_labels to the number of names and 1 for the background"
            )
        self.class_embeddings.copy_(unit(embeddings))

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        boxes: Tensor,
        labels: Tensor | None = None,
        class_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> CfmVitRegionClassifierOutput:
        """Name regions.

        Args:
            pixel_values: (B, 3, H, W). boxes: (B, R, 4), corners in pixels of these pictures; padding may hold anything.
            labels: int64 (B, R), 0 the background, -100 at padding and where nothing is known.
            class_embeds: vectors of other classes (C, E), instead of the model's own.
            kwargs: passed to the attention.
        Returns:
            `CfmVitRegionClassifierOutput`.
        """
        config = self.config
        grad = torch.is_grad_enabled() and not config.freeze_backbone
        with torch.set_grad_enabled(grad):
            out = self.cfm_vit(pixel_values, **{"return_dict": True} | kwargs)
            features = self.cfm_vit.vision.proj(out.last_hidden_state)
            grid = pixel_values.shape[2] // config.patch_size, pixel_values.shape[3] // config.patch_size
            weights = region_weights(boxes, grid, config.patch_size, config.roi_size, config.roi_samples)
            regions = unit(weights.to(features.dtype) @ features)
        regions = self.head(regions)
        classes = unit(self.class_embeddings if class_embeds is None else class_embeds)
        logits = regions @ classes.T.to(regions.dtype) / config.vlm_temperature
        loss = None
        if labels is not None:
            each = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
            loss = each / (labels != -100).sum().clamp(min=1)
        return CfmVitRegionClassifierOutput(
            loss=loss,
            logits=logits,
            region_embeds=regions,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
