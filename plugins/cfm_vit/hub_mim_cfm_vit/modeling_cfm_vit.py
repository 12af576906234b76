"""CFM-ViT (Kim, Angelova, Kuo, ICCV 2023, arXiv:2309.00775): pictures and texts contrasted, hidden patches reconstructed.

Part of the patches of a picture is hidden. The visible ones are encoded, and a decoder predicts of each hidden one the vector
in the space that pictures and texts share. The hidden ones are encoded as well, apart: their mean is contrasted with the text,
and each of their vectors is what the decoder has to predict. No code of the authors exists: this follows the paper.

Shapes: B rows, N patches of a picture, V visible ones, T words, D channels of a tower, E channels of the joint space.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from hub_mim.blocks import Attention, attention_only, init_linear_norm
from hub_mim.checking import takes
from hub_mim.losses import masked_mean, normalize_patches, token_mse, weighted_sum
from hub_mim.masking import Kept, random_mask, restore
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.decoder import CfmVitDecoder
from hub_mim_cfm_vit.losses import contrast, token_cosine, unit
from hub_mim_cfm_vit.positions import Positions, draw_crops, draw_kept
from hub_mim_cfm_vit.regions import region_weights
from hub_mim_cfm_vit.towers import (
    CfmVitLayer,
    CfmVitTextEmbeddings,
    CfmVitTextLayer,
    CfmVitTextTower,
    CfmVitVisionTower,
    Encoded,
    PatchEmbedding,
    valid_mean,
)

PAIR = {  # what both forwards check, see `hub_mim.checking`
    "pixel_values": "float filled B ...",
    "input_ids": "int filled >=0 <vocab_size S T",
    "attention_mask": "mask S T",
    "mask": "mask B *",
    "pe_keep": "any B",
    "pe_crop": "float B 4",
}
BATCH_FACTS = ("token_type_ids", "num_items_in_batch")  # what a batch may bring and no tower reads


@dataclass
class CfmVitModelOutput(ModelOutput):
    """What the two towers return, of a picture and of a text; of texts alone the first three fields are of the text.

    last_hidden_state: (B, V, D), after the last norm. pooler_output: (B, D), the mean over valid tokens, which the projection
    maps to the joint space. valid: bool (B, V), False at padding. places: int64 (B, V), of each patch.
    image_embeds, text_embeds: unit vectors (B, E). text_last_hidden_state: (B, T, D).
    logits_per_image, logits_per_text: (B, B), cosines by the learned temperature, where both are given.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_last_hidden_state: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    text_hidden_states: tuple[Tensor, ...] | None = None
    text_attentions: tuple[Tensor, ...] | None = None


@dataclass
class CfmVitForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: "contrastive", "reconstruction", unweighted scalars.
    mask: bool (B, N), hidden from the encoder of the reconstruction. scored: the same, where its loss is taken.
    predictions: (B, N, E), or pixels (B, N, C * P * P). last_hidden_state: (B, V, D), of the visible patches.
    With `output_targets`, what the losses saw of hidden patches: targets (as predictions, 0 where nothing was encoded),
    image_embeds, text_embeds (B, E), logits_per_image (B, B).
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None
    targets: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CfmVitPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: CfmVitConfig
    base_model_prefix = "cfm_vit"
    model_tags = ["hub-mim", "cfm_vit"]
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["CfmVitLayer", "CfmVitTextLayer", "CfmVitDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": CfmVitLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="vision.layers"),
    }
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        spread = self.config.initializer_range
        if isinstance(module, PatchEmbedding):
            bound = (6 / (module.weight.shape[0] + module.weight[0].numel())) ** 0.5  # Xavier, as a linear layer
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=spread)
        elif isinstance(module, CfmVitTextEmbeddings):
            init.normal_(module.pos_embed, std=spread)
        elif isinstance(module, CfmVitDecoder):
            module.reset(spread)
        elif isinstance(module, Positions):
            module.reset()
        elif isinstance(module, CfmVitModel):
            init.constant_(module.log_inv_temperature, -math.log(self.config.init_temperature))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters for the optimiser: no decay of biases, norms, the mask token and the temperature."""
        weights = list(self.parameters())
        return [
            {"params": [weight for weight in weights if weight.dim() > 1]},
            {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
        ]


class CfmVitVisionModel(CfmVitPreTrainedModel):
    """The tower of pictures alone.

    Args:
        config: of the model. project: whether to have the projection into the joint space.
    """

    input_modalities = ["image"]
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"(^|\.)text\.", r"log_inv_temperature$"]

    def __init__(self, config: CfmVitConfig, project: bool = True):
        super().__init__(config)
        self.vision = CfmVitVisionTower(config, project)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of patches."""
        return self.vision.patch_embed

    @takes(pixel_values="float filled B ...", mask="mask B *")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor, mask: Tensor | None = None, num_visible: int | None = None, **kwargs: Any
    ) -> CfmVitModelOutput:
        """Encode pictures (B, C, H, W); see `CfmVitModel.forward`."""
        encoded = self.vision(pixel_values, mask, num_visible=num_visible, **for_towers(kwargs))
        return as_output(encoded)


class CfmVitTextModel(CfmVitPreTrainedModel):
    """The tower of texts alone."""

    main_input_name = "input_ids"
    input_modalities = ["text"]
    _can_record_outputs = {"hidden_states": CfmVitTextLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"(^|\.)vision\.", r"log_inv_temperature$"]

    def __init__(self, config: CfmVitConfig):
        super().__init__(config)
        self.text = CfmVitTextTower(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        return self.text.embeddings.token_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        self.text.embeddings.token_embed = value  # type: ignore[assignment]

    @takes(input_ids="int filled >=0 <vocab_size S T", attention_mask="mask S T")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> CfmVitModelOutput:
        """Encode texts, int64 (B, T); see `CfmVitModel.forward`."""
        x, valid = self.text(input_ids, attention_mask, **for_towers(kwargs))
        pooled = valid_mean(x, valid)
        return CfmVitModelOutput(
            last_hidden_state=x, pooler_output=pooled, valid=valid, text_embeds=unit(self.text.proj(pooled))
        )


class CfmVitModel(CfmVitPreTrainedModel):
    """Both towers: encodes pictures, texts, or pairs of them."""

    _can_record_outputs = {
        **CfmVitPreTrainedModel._can_record_outputs,
        "text_hidden_states": [OutputRecorder(CfmVitTextEmbeddings), OutputRecorder(CfmVitTextLayer)],
        "text_attentions": OutputRecorder(Attention, index=1, layer_name="text.layers"),
    }

    def __init__(self, config: CfmVitConfig):
        super().__init__(config)
        self.vision = CfmVitVisionTower(config)
        self.text = CfmVitTextTower(config)
        self.log_inv_temperature = nn.Parameter(torch.empty(()))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        return self.text.embeddings.token_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        self.text.embeddings.token_embed = value  # type: ignore[assignment]

    @takes(**PAIR)
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        pe_keep: Tensor | None = None,
        pe_crop: Tensor | None = None,
        num_visible: int | None = None,
        **kwargs: Any,
    ) -> CfmVitModelOutput:
        """Encode pictures, texts, or both.

        Args:
            pixel_values: (B, C, H, W), of any size that is a multiple of the patch size.
            input_ids: int64 (B, T). attention_mask: (B, T), 1 where a word is real; default: where it is no padding.
            mask: bool (B, N), True = hidden; default nothing.
            pe_keep, pe_crop, num_visible: see `CfmVitVisionTower.forward`.
            kwargs: passed to the attention.
        Returns:
            `CfmVitModelOutput`; hidden states and attentions are of the pictures, those of texts come with
            `output_text_hidden_states` and `output_text_attentions`.
        Raises:
            ValueError: neither pictures nor texts, or shapes that do not fit.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("there are neither pictures (pixel_values) nor texts (input_ids)")
        made: dict[str, Any] = {}
        options = for_towers(kwargs)
        if input_ids is not None:
            x, valid = self.text(input_ids, attention_mask, **attention_only(options))
            pooled = valid_mean(x, valid)
            made |= {"text_embeds": unit(self.text.proj(pooled)), "text_last_hidden_state": x}
            if pixel_values is None:
                made |= {"last_hidden_state": x, "pooler_output": pooled, "valid": valid}
        if pixel_values is not None:
            encoded = self.vision(pixel_values, mask, pe_keep, pe_crop, num_visible, **options)
            made |= dict(as_output(encoded))
            made["image_embeds"] = unit(self.vision.proj(made["pooler_output"]))
            if input_ids is not None:
                made["logits_per_image"] = self.scale * made["image_embeds"] @ made["text_embeds"].T
                made["logits_per_text"] = made["logits_per_image"].T
        return CfmVitModelOutput(**made)

    @property
    def scale(self) -> Tensor:
        """The inverse of the learned temperature."""
        return self.log_inv_temperature.to(torch.promote_types(self.dtype, torch.float32)).exp()

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pictures (B, C, H, W): `pooler_output` (B, E) is in the joint space, of any length."""
        out = self(pixel_values=pixel_values, **kwargs | {"return_dict": True})
        return BaseModelOutputWithPooling(
            last_hidden_state=out.last_hidden_state,
            pooler_output=self.vision.proj(out.pooler_output),
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode texts, int64 (B, T): `pooler_output` (B, E) is in the joint space, of any length."""
        for name in ("hidden_states", "attentions"):
            kwargs[f"output_text_{name}"] = kwargs.get(f"output_{name}", getattr(self.config, f"output_{name}", False))
        out = self(input_ids=input_ids, attention_mask=attention_mask, **kwargs | {"return_dict": True})
        return BaseModelOutputWithPooling(
            last_hidden_state=out.last_hidden_state,
            pooler_output=self.text.proj(out.pooler_output),
            hidden_states=out.text_hidden_states,
            attentions=out.text_attentions,
        )

    def patch_features(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return each patch's vector in the joint space, for maps of what a text is similar to.

        Args:
            pixel_values: (B, C, H, W). kwargs: passed to the attention.
        Returns:
            (B, N, E), of any length, row by row of the grid; bool (B, N), all True; rows and columns int64 (B, 2).
        """
        encoded = self.vision(pixel_values, **for_towers(kwargs))
        grid = torch.tensor([encoded.grid], device=pixel_values.device).expand(len(pixel_values), 2)
        return self.vision.proj(encoded.tokens), encoded.valid, grid

    def region_features(self, pixel_values: Tensor, boxes: Tensor, **kwargs: Any) -> Tensor:
        """Return unit vectors of regions in the joint space (B, R, E), to be compared with those of names.

        Args:
            pixel_values: (B, C, H, W), usually larger than in pre-training. boxes: (B, R, 4), corners in pixels of these.
            kwargs: passed to the attention.
        Source: section "open-vocabulary detection" of the paper; F-VLM (arXiv:2209.15639), section 3.3.
        """
        features, _, grid = self.patch_features(pixel_values, **kwargs)
        config = self.config
        rows, columns = (int(each) for each in grid[0])
        weights = region_weights(boxes, (rows, columns), config.patch_size, config.roi_size, config.roi_samples)
        return unit(weights.to(features.dtype) @ features)


def for_towers(given: dict[str, Any]) -> dict[str, Any]:
    """Return what of a call's arguments the towers pass on."""
    return {name: value for name, value in given.items() if name not in BATCH_FACTS}


def as_output(encoded: Encoded) -> CfmVitModelOutput:
    """Return what the tower of pictures gave, with the mean over its tokens."""
    return CfmVitModelOutput(
        last_hidden_state=encoded.tokens,
        pooler_output=valid_mean(encoded.tokens, encoded.valid),
        places=encoded.places,
        valid=encoded.valid,
    )


class CfmVitForPreTraining(CfmVitPreTrainedModel):
    """Both towers, the decoder, and the two losses."""

    loss_spans_rows = True

    def __init__(self, config: CfmVitConfig):
        super().__init__(config)
        self.cfm_vit = CfmVitModel(config)
        self.decoder = CfmVitDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        return self.cfm_vit.text.embeddings.token_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        self.cfm_vit.text.embeddings.token_embed = value  # type: ignore[assignment]

    @takes(**PAIR, row_seed="int B")
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        pe_keep: Tensor | None = None,
        pe_crop: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        output_targets: bool = False,
        **kwargs: Any,
    ) -> CfmVitForPreTrainingOutput:
        """Hide patches, predict what they are, and contrast pictures with texts by the hidden ones.

        Args:
            pixel_values, input_ids, attention_mask: see `CfmVitModel.forward`; row i of one belongs to row i of the other.
            mask: bool (B, N), True = hidden; drawn when absent. A row that hides nothing is contrasted as a whole.
            pe_keep: bool (B,), pictures that keep their positions in both passes of the encoder. pe_crop: (B, 4), part of the
                table for each picture. Both are drawn in training when the mask is; else all keep the whole table.
            row_seed: int64 (B,), decides each row's draws.
            generator: decides them where there is no `row_seed`.
            return_loss: whether to encode hidden patches and texts and to compute the losses.
            output_targets: return what the losses saw of these.
            kwargs: passed to the attention.
        Raises:
            ValueError: no pictures, no texts, or not as many as pictures.
        Source: section "contrastive feature masking" of the paper.
        """
        if pixel_values is None:
            raise ValueError("pre-training needs pictures (pixel_values)")
        known = None
        if mask is None:
            source = {"row_seed": row_seed, "generator": generator, "device": pixel_values.device}
            mask, known = self.draw_mask(pixel_values, **source)
            pe_keep, pe_crop = self._draw_positions(len(pixel_values), pe_keep, pe_crop, source)
        mask, options = mask.bool(), for_towers(kwargs)
        view: dict[str, Any] = {"pixel_values": pixel_values, "pe_keep": pe_keep, "pe_crop": pe_crop}
        visible = None if known is None else mask.shape[1] - known
        out = self.cfm_vit(mask=mask, num_visible=visible, **view, **options | {"return_dict": True})
        _, grid = self.cfm_vit.vision.cut(pixel_values)
        seen = Kept(out.last_hidden_state, out.places, out.valid)
        options = attention_only(options)
        predictions = self.decoder(seen, grid, **options)
        learnt: dict[str, Any] = {}
        if return_loss:
            texts = self._texts(len(pixel_values), input_ids, attention_mask, options)
            images, features = self.contrasted(mask, view, known, options)
            targets = self._targets(pixel_values, features)
            learnt = self._losses(images, texts, predictions, targets, mask)
            if output_targets:
                learnt |= {"targets": targets, "image_embeds": images, "text_embeds": texts}
                learnt["logits_per_image"] = self.cfm_vit.scale * images @ texts.T
        return CfmVitForPreTrainingOutput(
            mask=mask,
            scored=mask,
            predictions=predictions,
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            **learnt,
        )

    def draw_mask(
        self,
        pixel_values: Tensor,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
    ) -> tuple[Tensor, int]:
        """Draw which patches to hide, bool (B, N), the same number in every row, and return that number too."""
        side, ratio = self.config.patch_size, self.config.mask_ratio
        count = (pixel_values.shape[-2] // side) * (pixel_values.shape[-1] // side)
        shape = len(pixel_values), count
        mask = random_mask(shape, ratio, row_seed=row_seed, generator=generator, device=device)
        return mask, round(count * ratio)

    def _draw_positions(
        self, rows: int, pe_keep: Tensor | None, pe_crop: Tensor | None, source: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Draw, in training, which pictures keep their positions and which part of the table they get."""
        config = self.config
        if self.training and pe_keep is None and config.pe_drop > 0:
            pe_keep = draw_kept(rows, config.pe_drop, source)
        if self.training and pe_crop is None and config.cropped_positions:
            pe_crop = draw_crops(rows, config.crop_scale, config.crop_ratio, source)
        return pe_keep, pe_crop

    def _texts(
        self, rows: int, input_ids: Tensor | None, attention_mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Return unit vectors of texts (B, E), one for each picture."""
        if input_ids is None or len(input_ids) != rows:
            told = "no texts (input_ids)" if input_ids is None else f"{len(input_ids)} texts"
            raise ValueError(f"pre-training compares each picture with its text: {rows} pictures, {told}")
        tower = self.cfm_vit.text
        x, valid = tower(input_ids, attention_mask, **options)
        return unit(tower.proj(valid_mean(x, valid)))

    def _losses(
        self, images: Tensor, texts: Tensor, predictions: Tensor, targets: Tensor, scored: Tensor
    ) -> dict[str, Any]:
        """Return the losses by name, and their weighted sum."""
        config = self.config
        focal = {"kind": config.contrastive_loss, "alpha": config.focal_alpha, "gamma": config.focal_gamma}
        losses = {
            "contrastive": contrast(images, texts, self.cfm_vit.scale, **focal),
            "reconstruction": masked_mean(self._error(predictions, targets), scored),
        }
        return {"loss": weighted_sum(losses, config.loss_weights), "losses": losses}

    def contrasted(
        self, mask: Tensor, view: dict[str, Any], known: int | None, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Encode what is contrasted: the hidden patches of each row, or all.

        Args:
            mask: bool (B, N). view: pictures and their positions. known: how many each row hides, if known. options: of the
                attention.
        Returns:
            Unit vectors of pictures (B, E); of each patch (B, N, E), 0 where it is not encoded.
        """
        vision = self.cfm_vit.vision
        apart, number = None, None
        if self.config.contrastive_on == "masked":
            apart = ~(mask | ~mask.any(1, keepdim=True))
            number = None if known is None else known or mask.shape[1]
        encoded = vision(**view, hidden=apart, num_visible=number, **options)
        features = vision.proj(encoded.tokens)
        images = unit(valid_mean(features, encoded.valid))
        if apart is not None:
            features = restore(encoded.kept._replace(tokens=features), features.new_zeros(1), mask.shape[1])
        return images, features

    def _targets(self, pixel_values: Tensor, features: Tensor) -> Tensor:
        """Return what is to be predicted of each patch: its vector, or its standardised pixels."""
        if self.config.reconstruction_target == "pixels":
            return normalize_patches(self.cfm_vit.vision.cut(pixel_values)[0])
        return features.detach() if self.config.stop_gradient_target else features

    def _error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the error of each patch (B, N): 1 - cosine of vectors, the mean square of pixels."""
        measure = token_mse if self.config.reconstruction_target == "pixels" else token_cosine
        return measure(predictions, targets)
