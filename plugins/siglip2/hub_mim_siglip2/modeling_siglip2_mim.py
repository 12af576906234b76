"""SigLIP 2 for training: transformers' towers by their own names, with every loss of the recipe.

Pairs are told from others by the sigmoid loss, a decoder writes texts of the picture's features, and from a share of training
on the picture's tower learns from a slow copy of itself. Pairs and texts read the picture as it is; what is hidden is hidden
from the student of masked prediction alone, and only its output is returned unless more is asked for.

Shapes: B rows, N patches, W channels, L tokens, V small views, E channels of the joint space (= W).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim.checking import check_tensors, takes
from hub_mim.gathering import gather_rows, processes
from hub_mim.losses import joint_mean, weighted_sum
from hub_mim.outputs import in_order
from hub_mim_siglip2 import distillation
from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.contrast import pair_logits, sigmoid_loss, unit
from hub_mim_siglip2.curation import judge, select_learnable
from hub_mim_siglip2.decoder import CaptionDecoder
from hub_mim_siglip2.draws import Texts, draw_boxes, draw_mask, draw_texts
from hub_mim_siglip2.generation import WritesTexts
from hub_mim_siglip2.naflex import draw_length, shrink
from hub_mim_siglip2.packing import see_packed, worth_packing
from hub_mim_siglip2.towers import encode, encode_masked, patch_vectors, text_tower, vision_tower
from hub_mim_siglip2.views import crop
from hub_mim_siglip2.vocabulary import caption_loss, chunked_cross_entropy

PICTURE = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
RECORDED = ("output_hidden_states", "output_attentions")


@dataclass
class Siglip2MimModelOutput(ModelOutput):
    """What the two towers return.

    last_hidden_state: (B, N, W) of the picture after the last norm, of the text where there is no picture.
    pooler_output: (B, E), of the same. valid: bool (B, N), False at padding. text_hidden: (B, L, D).
    image_embeds, text_embeds: unit vectors (B, E). logits_per_image: (B, T), logits_per_text: (T, B).
    hidden_states, attentions: of that tower; text_hidden_states, text_attentions: of the text's, where both are there.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    valid: Tensor | None = None
    text_hidden: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    text_hidden_states: tuple[Tensor, ...] | None = None
    text_attentions: tuple[Tensor, ...] | None = None


@dataclass
class Siglip2MimForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: unweighted scalars by name; the self-supervised ones only from their start on.
    mask, scored: bool (B, N): patches hidden from the student; where they are predicted.
    last_hidden_state: (B, N, W), the student's features of the picture with hidden patches; predictions: the same, which the
        head turns into scores of prototypes where scored. None while the self-supervised losses are off.
    valid: bool (B, N), False at padding; of NaFlex. selected: int64, the rows that curation kept.
    With `return_pairs` also image_embeds, text_embeds (B, E), logits_per_image (B, B), caption_labels (B, L) and
    caption_logits (B, L, words), which read the whole picture.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    valid: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None
    selected: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    caption_labels: Tensor | None = None
    caption_logits: Tensor | None = None


class Siglip2MimPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, pictures and texts as vectors."""

    config: Siglip2MimConfig
    base_model_prefix = "siglip"
    model_tags = ["hub-mim", "siglip2"]
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer", "Siglip2EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [
        r"^decoder\.",
        r"^global_head\.",
        r"^patch_head\.",
        r"^mask_token$",
        r"^teacher\.",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, distillation.HeadLinear | CaptionDecoder):
            module.reset()
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, distillation.Teacher):
            init.zeros_(module.global_center)
            init.zeros_(module.patch_center)
        elif isinstance(module, Siglip2MimModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init)
            init.constant_(module.logit_bias, self.config.logit_bias_init)
        elif isinstance(module, Siglip2MimForPreTraining):
            module.fill_own()

    @property
    def towers(self) -> "Siglip2MimModel":
        """The two towers."""
        return self if isinstance(self, Siglip2MimModel) else self.get_submodule("siglip")  # type: ignore[return-value]

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        table: nn.Module = self.towers.text_model.embeddings.token_embedding
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        self.towers.text_model.embeddings.token_embedding = value

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pictures; `pooler_output` (B, E) lies in the joint space, not yet of length 1.

        Args:
            pixel_values: (B, C, H, W); NaFlex: patches (B, N, P * P * C) with pixel_attention_mask and spatial_shapes.
        """
        return self.towers.see(pixel_values, **kwargs)

    @can_return_tuple
    def get_text_features(self, input_ids: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode texts (B, L), padded to the full length; `pooler_output` (B, E) lies in the joint space.

        A mask of padding is not read: the model was trained without one, and the last place is the text's.
        """
        return self.towers.read(input_ids, **kwargs)

    def patch_features(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return every patch in the joint space, for maps of what a text is alike.

        Args:
            pixel_values and others: as in `get_image_features`.
        Returns:
            Vectors (B, N, E); bool (B, N), False at padding; int64 (B, 2), rows and columns of each picture.
        """
        out = self.towers.see(pixel_values, **kwargs)
        vectors = patch_vectors(self.towers.vision_model, out.last_hidden_state)
        if self.config.naflex:
            return vectors, kwargs["pixel_attention_mask"].bool(), kwargs["spatial_shapes"].long()
        grid = [length // self.config.patch_size for length in pixel_values.shape[-2:]]
        shapes = torch.tensor([grid] * len(vectors), device=vectors.device)
        return vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device), shapes

    def export_towers(self, folder: str | Path, processor: Any = None) -> Path:
        """Write the towers as a plain `SiglipModel` or, of NaFlex, `Siglip2Model`, which transformers alone loads.

        Args:
            folder: to write. processor: of this plugin; written as transformers' `SiglipProcessor` or `Siglip2Processor`.
        """
        from hub_mim_siglip2.exporting import export

        return export(self.towers, folder, processor)


class Siglip2MimModel(Siglip2MimPreTrainedModel):
    """The two towers, with temperature and bias; weights are called as in transformers' `SiglipModel`."""

    def __init__(self, config: Siglip2MimConfig):
        super().__init__(config)
        self.text_model, self.vision_model = text_tower(config), vision_tower(config)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.post_init()

    def see(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Return the picture tower's output; see `get_image_features`."""
        given = {name: kwargs[name] for name in RECORDED if kwargs.get(name) is not None}
        if not self.config.naflex:
            check_tensors(
                {"pixel_values": pixel_values}, self, pixel_values="float filled B vision_config.num_channels H W"
            )
            return self.vision_model(pixel_values=pixel_values, **given)
        picture = {name: kwargs.get(name) for name in PICTURE[1:]}
        if pixel_values.dim() != 3 or any(each is None for each in picture.values()):
            raise ValueError(
                f"a NaFlex model takes patches (rows, patches, values) with {', '.join(PICTURE[1:])}; pixel_values has the shape "
                f"{tuple(pixel_values.shape)}"
            )
        valid = picture["pixel_attention_mask"]
        if not given and self.config.pack and worth_packing(self.vision_model, valid):
            return see_packed(self.vision_model, pixel_values, valid, picture["spatial_shapes"])
        return self.vision_model(pixel_values=pixel_values, **picture, **given)

    def read(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """Return the text tower's output; see `get_text_features`."""
        given = {name: kwargs[name] for name in RECORDED if kwargs.get(name) is not None}
        most = self.config.text_config.max_position_embeddings
        if input_ids.shape[1] > most:
            raise ValueError(
                f"input_ids has texts of {input_ids.shape[1]} tokens; the model takes {most}, so cut them off"
            )
        return self.text_model(input_ids=input_ids, **given)

    @takes(
        pixel_values="float B ...",
        input_ids="int filled >=0 <text_config.vocab_size S L",
        pixel_attention_mask="mask B N",
        spatial_shapes="int B 2",
    )
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Siglip2MimModelOutput:
        """Encode pictures, texts, or both.

        Args:
            pixel_values, pixel_attention_mask, spatial_shapes: see `get_image_features`.
            input_ids: int64 (T, L), padded to the full length. attention_mask: not read, see `get_text_features`.
            kwargs: `output_hidden_states`, `output_attentions`; what else a processor's batch has is not read.
        Raises:
            ValueError: neither is given, or their shapes do not fit.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("SigLIP 2 needs pictures (pixel_values), texts (input_ids) or both")
        made = Siglip2MimModelOutput()
        if input_ids is not None:
            text = self.read(input_ids, **kwargs)
            made = Siglip2MimModelOutput(
                last_hidden_state=text.last_hidden_state,
                pooler_output=text.pooler_output,
                hidden_states=text.hidden_states,
                attentions=text.attentions,
                text_hidden=text.last_hidden_state,
                text_embeds=unit(text.pooler_output),
            )
        if pixel_values is not None:
            picture = self.see(
                pixel_values, pixel_attention_mask=pixel_attention_mask, spatial_shapes=spatial_shapes, **kwargs
            )
            made.text_hidden_states, made.text_attentions = made.hidden_states, made.attentions
            made.last_hidden_state, made.pooler_output = picture.last_hidden_state, picture.pooler_output
            made.hidden_states, made.attentions = picture.hidden_states, picture.attentions
            made.image_embeds = unit(picture.pooler_output)
            made.valid = None if pixel_attention_mask is None else pixel_attention_mask.bool()
        if made.image_embeds is not None and made.text_embeds is not None:
            made.logits_per_image = pair_logits(made.image_embeds, made.text_embeds, self.logit_scale, self.logit_bias)
            made.logits_per_text = made.logits_per_image.T
        return in_order(made)


class Siglip2MimForPreTraining(WritesTexts, Siglip2MimPreTrainedModel):
    """The towers with decoder, self-supervised heads and teacher, as far as the configuration's losses need them."""

    loss_spans_rows = True
    _keys_to_ignore_on_load_missing = [r"^teacher\.", r"^progress$"]

    def __init__(self, config: Siglip2MimConfig):
        super().__init__(config)
        self.siglip = Siglip2MimModel(config)
        if "caption" in config.active_losses:
            self.decoder = CaptionDecoder(config)
        if config.self_supervised:
            self.global_head, self.patch_head = distillation.make_head(config), distillation.make_head(config)
            self.mask_token = nn.Parameter(torch.empty(config.vision_config.hidden_size))
            self.teacher = distillation.Teacher(config)
            # where training stands; beside the teacher in checkpoints, not in shared models
            self.register_buffer("progress", torch.zeros(()))
            own = [f"teacher.{name}" for name in self.teacher.state_dict()]
            self._keys_to_ignore_on_save = {*own, "progress"}
        self._reference: list[Any] = []  # the model that curates, in a list: it is no part of this one
        self.post_init()

    # --- the teacher ---

    @property
    def teacher_modules(self) -> tuple[str, ...]:
        """Names of modules that are averaged, not trained."""
        return ("teacher",) if self.config.self_supervised else ()

    @torch.no_grad()
    def fill_own(self) -> None:
        """Fill what is the model's own, and begin the teacher from the student."""
        if self.config.self_supervised:
            init.normal_(self.mask_token, std=0.02)
            init.zeros_(self.progress)
            for part in ("vision_model", "global_head", "patch_head"):
                old, new = self.teacher.get_submodule(part), self._student(part)
                for place, source in zip(old.parameters(), new.parameters(), strict=True):
                    init.copy_(place, source)

    def _student(self, part: str) -> nn.Module:
        return self.siglip.vision_model if part == "vision_model" else self.get_submodule(part)

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student; 0 begins it anew, with centres at 0."""
        for part in ("vision_model", "global_head", "patch_head"):
            distillation.average(self.teacher.get_submodule(part), self._student(part), momentum)
        if momentum == 0:
            self.teacher.global_center.zero_()
            self.teacher.patch_center.zero_()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; where they bring no teacher, it begins from the student that they make."""
        told = super().load_state_dict(state_dict, *args, **kwargs)
        if self.config.self_supervised and any(name.startswith("teacher.vision_model") for name in told.missing_keys):
            self.move_teacher(0.0)
        return told

    def train(self, mode: bool = True) -> Any:
        """Switch to training; the teacher never drops anything."""
        super().train(mode)
        if self.config.self_supervised:
            self.teacher.eval()
        return self

    # --- forward ---

    @takes(
        pixel_values="float B ...",
        input_ids="int filled >=0 <text_config.vocab_size S L",
        pixel_attention_mask="mask B N",
        spatial_shapes="int B 2",
        caption_ids="int >=0 <text_config.vocab_size B W",
        caption_starts="int >=0 B",
        region_ids="int >=0 <text_config.vocab_size B R 2 W",
        region_starts="int >=0 B R 2",
        region_valid="bool B R",
        mask="bool B *",
        parallel="bool B",
        kind="int B",
        region="int B",
        local_boxes="float B * 4",
        global_boxes="float B 1 4",
        selected="int >=0 *",
        row_seed="int B",
    )
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        caption_ids: Tensor | None = None,
        caption_starts: Tensor | None = None,
        region_ids: Tensor | None = None,
        region_starts: Tensor | None = None,
        region_valid: Tensor | None = None,
        mask: Tensor | None = None,
        parallel: Tensor | None = None,
        kind: Tensor | None = None,
        region: Tensor | None = None,
        local_boxes: Tensor | None = None,
        global_boxes: Tensor | None = None,
        sequence_length: int | None = None,
        selected: Tensor | None = None,
        self_supervise: bool | None = None,
        row_seed: Tensor | None = None,
        step_seed: int | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        return_pairs: bool = False,
        **kwargs: Any,
    ) -> Siglip2MimForPreTrainingOutput:
        """Compare pairs, write texts, learn from the teacher.

        Args:
            pixel_values, pixel_attention_mask, spatial_shapes, input_ids: see `Siglip2MimModel`; row i of both is a pair.
            attention_mask: not read, see `get_text_features`.
            caption_ids: int64 (B, L), what the decoder writes; default input_ids. caption_starts: int64 (B,), where what is
                asked for begins. region_ids: int64 (B, R, 2, L), texts of regions, to find and to name; region_starts
                (B, R, 2); region_valid: bool (B, R).
            mask: bool (B, N), True = hidden from the student; the rest is then fixed too, and the large view is the picture.
            parallel, kind, region: bool (B,), int64 (B,), int64 (B,): see `draws.draw_texts`.
            local_boxes, global_boxes: (B, V, 4) and (B, 1, 4), see `views.crop_boxes`.
            sequence_length: most patches a picture; drawn in training, NaFlex alone.
            selected: int64, rows that are kept; else curation chooses them in training, where it is on.
            self_supervise: whether the self-supervised losses are on; default from their start on.
            row_seed, step_seed, generator: decide the draws; else torch's global source.
            return_loss: compute the losses. return_pairs: return what reads the whole picture, too.
            kwargs: not read.
        Raises:
            ValueError: there are no pictures or no texts, or not as many.
        """
        if pixel_values is None or input_ids is None or len(pixel_values) != len(input_ids):
            count = [None if each is None else len(each) for each in (pixel_values, input_ids)]
            raise ValueError(
                f"pre-training needs a text with each picture; there are {count[0]} pictures (pixel_values) and {count[1]} "
                "texts (input_ids)"
            )
        batch: dict[str, Tensor | None] = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
            "caption_ids": input_ids if caption_ids is None else caption_ids,
            "caption_starts": caption_starts,
            "region_ids": region_ids,
            "region_starts": region_starts,
            "region_valid": region_valid,
            "row_seed": row_seed,
        }
        drawn = {"mask": mask, "parallel": parallel, "kind": kind, "region": region}
        drawn |= {"local_boxes": local_boxes, "global_boxes": global_boxes}
        chosen = self._selected(batch, selected, step_seed)
        if chosen is not None:
            if selected is None:
                batch, drawn, chosen = _shared_out(batch, drawn, chosen)
            batch, drawn = (
                {name: each if each is None else each[chosen] for name, each in part.items()} for part in (batch, drawn)
            )
        self._shorten(batch, sequence_length, step_seed)
        return self._forward(batch, drawn, generator, chosen, self_supervise, return_loss, return_pairs)

    def _forward(
        self,
        batch: dict[str, Any],
        drawn: dict[str, Any],
        generator: torch.Generator | None,
        chosen: Tensor | None,
        self_supervise: bool | None,
        return_loss: bool,
        return_pairs: bool,
    ) -> Siglip2MimForPreTrainingOutput:
        config, pixels, seeds = self.config, batch["pixel_values"], batch["row_seed"]
        rows = len(pixels)
        given = drawn["mask"] is not None
        if given:
            seeds, generator = torch.zeros(rows, dtype=torch.int64, device=pixels.device), None
        source = {"row_seed": seeds, "generator": generator, "device": pixels.device}
        seen = self.siglip.see(**{name: batch[name] for name in PICTURE})
        images, words = unit(seen.pooler_output), unit(self.siglip.read(batch["input_ids"]).pooler_output)
        features, valid = seen.last_hidden_state, batch["pixel_attention_mask"]
        valid = None if valid is None else valid.bool()
        check_tensors(drawn, mask=f"bool B {features.shape[1]}")
        mask = drawn["mask"] if given else draw_mask(config, rows, features.shape[1], source)
        made = Siglip2MimForPreTrainingOutput(mask=mask, selected=chosen, valid=valid)
        made.scored = torch.zeros_like(mask)
        losses: dict[str, Tensor] = {}
        if return_loss:
            scale, bias = self.siglip.logit_scale, self.siglip.logit_bias
            losses["sigmoid"] = sigmoid_loss(images, words, scale, bias, chunk=config.sigmoid_chunk)
        if "caption" in config.active_losses:
            regions = {"ids": batch["region_ids"], "starts": batch["region_starts"], "valid": batch["region_valid"]}
            texts = draw_texts(config, batch["caption_ids"], batch["caption_starts"], regions, drawn, source)
            states = self.decoder(texts.labels, features, texts.parallel, valid)
            if return_loss:
                losses["caption"] = self._caption(states, texts)
            if return_pairs:
                made.caption_labels, made.caption_logits = texts.labels, self.decoder.output(states)
        if self._on(self_supervise):
            boxes = self._boxes(drawn, rows, given, source)
            losses |= self._self_supervised(pixels, boxes, mask, made, return_loss)
        if return_pairs:
            made.image_embeds, made.text_embeds = images, words
            made.logits_per_image = pair_logits(images, words, self.siglip.logit_scale, self.siglip.logit_bias)
        if return_loss:
            made.losses = losses
            made.loss = weighted_sum(losses, {k: v for k, v in config.loss_weights.items() if k in losses})
            made.loss = made.loss + self._unused(losses)
        return in_order(made)

    def _on(self, asked: bool | None) -> bool:
        if not self.config.self_supervised:
            return False
        return float(self.progress) >= self.config.self_distillation_start if asked is None else asked

    def _caption(self, states: Tensor, texts: Texts) -> Tensor:
        output, scored = self.decoder.output, texts.scored
        told = states[scored], output.weight, output.bias, texts.labels[scored]
        return caption_loss(chunked_cross_entropy(*told, chunk=self.config.vocabulary_chunk), scored)

    def _boxes(
        self, drawn: dict[str, Any], rows: int, given: bool, source: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the small views' boxes and the large one's; None for the whole picture."""
        small, large = draw_boxes(self.config, rows, source)
        whole = None if given else large
        return (
            small if drawn["local_boxes"] is None else drawn["local_boxes"],
            whole if drawn["global_boxes"] is None else drawn["global_boxes"],
        )

    def _self_supervised(
        self,
        pixels: Tensor,
        boxes: tuple[Tensor, Tensor | None],
        mask: Tensor,
        made: Siglip2MimForPreTrainingOutput,
        return_loss: bool,
    ) -> dict[str, Tensor]:
        """Return the losses against the teacher, and put the student's view of hidden patches into the output."""
        config, vision, losses = self.config, self.siglip.vision_model, {}
        size = (config.image_size, config.image_size)
        view = pixels if boxes[1] is None else crop(pixels, boxes[1], size)
        if "masked" in config.active_losses:
            made.last_hidden_state = encode_masked(vision, view, mask, self.mask_token)
            made.predictions, made.scored = made.last_hidden_state, mask
        if not return_loss:
            return {}
        told = self._taught(view)
        if "masked" in config.active_losses:
            targets = distillation.soft_targets(
                self.teacher.patch_head.score(told["patches"][mask]),
                self.teacher.patch_center,
                config.teacher_temperature,
            )
            scores = self.patch_head(made.predictions[mask])
            errors = distillation.cross_entropy(targets, scores, config.student_temperature)
            losses["masked"] = distillation.masked_loss(errors, mask)
        if "distillation" in config.active_losses:
            small = crop(pixels, boxes[0], (config.local_size, config.local_size))
            pooled = vision.head(encode(vision, vision.embeddings(small)))
            scores = self.global_head(pooled).unflatten(0, (len(pixels), -1))
            teacher = self.teacher.global_head.score(told["global"])
            targets = distillation.soft_targets(teacher, self.teacher.global_center, config.teacher_temperature)
            each = distillation.local_to_global(targets, scores, config.student_temperature)
            losses["distillation"] = joint_mean(each)
        if self.training:
            self._move_centers(told)
        return {name: losses[name] for name in ("distillation", "masked") if name in losses}

    @torch.no_grad()
    def _taught(self, view: Tensor) -> dict[str, Tensor]:
        """Return the teacher's unit vectors of the large view: one (B, E'), and of each patch (B, N, E')."""
        tower, made = self.teacher.vision_model, {}
        features = encode(tower, tower.embeddings(view))
        if "distillation" in self.config.active_losses:
            made["global"] = self.teacher.global_head.embed(tower.head(features))
        if "masked" in self.config.active_losses:
            made["patches"] = self.teacher.patch_head.embed(features)
        return made

    @torch.no_grad()
    def _move_centers(self, told: Mapping[str, Tensor]) -> None:
        teacher, momentum = self.teacher, self.config.center_momentum
        for name, head, center in (
            ("global", teacher.global_head, teacher.global_center),
            ("patches", teacher.patch_head, teacher.patch_center),
        ):
            if name in told:
                center.copy_(distillation.moved_center(center, head, told[name], momentum))

    def _unused(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return 0 with a gradient of 0 for what this step did not use."""
        parts: list[Tensor] = []
        if self.config.self_supervised:
            parts += [] if "distillation" in losses else list(self.global_head.parameters())
            parts += [] if "masked" in losses else [*self.patch_head.parameters(), self.mask_token]
        zero = losses["sigmoid"] * 0
        return torch.stack([each.sum() * 0 for each in parts]).sum() + zero if parts else zero

    # --- batches that are cut down ---

    @torch.no_grad()
    def _selected(self, batch: dict[str, Any], selected: Tensor | None, step_seed: int | None) -> Tensor | None:
        """Return which rows are trained on; None for all of them."""
        config = self.config
        if selected is not None or not (self.training and config.curation_ratio):
            return selected
        pair = {name: batch[name] for name in (*PICTURE, "input_ids")}
        learner, reference = judge(self.siglip, pair), judge(self.reference(), pair)
        keep = max(processes(), round(len(learner.images) * (1 - config.curation_ratio)))
        seed = step_seed
        if seed is None:  # the same on all processes, too
            seed = 0 if batch["row_seed"] is None else int(gather_rows(batch["row_seed"][:1])[0])
        return select_learnable(learner, reference, keep, chunks=config.curation_chunks, seed=seed)

    def reference(self) -> Any:
        """Return the model that curation compares with, loaded when it is first asked for.

        Raises:
            ValueError: the configuration names none.
        """
        if not self._reference:
            if self.config.curation_reference is None:
                raise ValueError(
                    "curation_ratio is above 0, and curation_reference names no model that judges; name a folder"
                )
            model = Siglip2MimModel.from_pretrained(self.config.curation_reference)
            self._reference.append(model.requires_grad_(False).eval())
        self._reference[0].to(self.device)
        return self._reference[0]

    def _shorten(self, batch: dict[str, Any], length: int | None, step_seed: int | None) -> None:
        """Give NaFlex pictures fewer patches, as many as asked for or, in training, as drawn for the step."""
        config = self.config
        if not config.naflex:
            return
        if length is None and self.training and step_seed is not None:
            length = draw_length(config.sequence_lengths, step_seed)
        if length is not None:
            pixels, valid, shapes = (batch[name] for name in PICTURE)
            batch |= dict(zip(PICTURE, shrink(pixels, valid, shapes, length, config.patch_size), strict=True))


def _shared_out(
    batch: dict[str, Any], drawn: dict[str, Any], chosen: Tensor
) -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    """Return the rows of all processes, and which of the chosen ones this process trains on."""
    if processes() == 1:
        return batch, drawn, chosen
    whole, draws = (
        {name: each if each is None else gather_rows(each) for name, each in part.items()} for part in (batch, drawn)
    )
    return whole, draws, chosen[torch.distributed.get_rank() :: processes()]


@torch.no_grad()
def on_step(model: Any, step: int, total: int) -> None:
    """Note where training stands and move the teacher: it begins from the student when the self-supervised losses do."""
    if not model.config.self_supervised:
        return
    start = model.config.self_distillation_start
    before, now = float(model.progress), step / max(1, total)
    model.progress.fill_(now)
    if float(model.progress) >= start:
        model.move_teacher(model.config.teacher_momentum if before >= start else 0.0)
