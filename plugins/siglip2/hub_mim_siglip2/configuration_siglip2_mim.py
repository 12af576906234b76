"""Configuration: both towers as transformers describes them, and how they are trained.

transformers' own configuration classes are imported when one is made, not with this module: importing them asks for auto
modules, which ask for this one.
"""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

LOSSES = ("sigmoid", "caption", "distillation", "masked")
SELF_SUPERVISED = ("distillation", "masked")
KINDS = ("caption", "refer", "ground")
TEMPLATES = {"caption": "caption: {text}", "refer": "refer: {text} : {box}", "ground": "ground: {box} : {text}"}
# of released text towers: Gemma's vocabulary, padded with 0, ended by 1
TEXT = {"vocab_size": 256_000, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}


def weights(factor: float) -> dict[str, float]:
    """Return the weights of the losses: self-distillation and masked prediction 1 and 0.25, times the size's factor."""
    return {"sigmoid": 1.0, "caption": 1.0, "distillation": factor, "masked": 0.25 * factor}


def _of(part: str, name: str) -> Any:
    """Return a property that reads and writes a field of a tower's configuration."""

    def write(self: Any, value: Any) -> None:
        setattr(getattr(self, part), name, value)

    return property(lambda self: getattr(getattr(self, part), name, None), write, doc=f"`{part}.{name}`.")


def _kind(part: str, naflex: bool) -> Any:
    """Return transformers' class of a tower's configuration."""
    if naflex:
        from transformers.models.siglip2 import configuration_siglip2 as module

        return {"text_config": module.Siglip2TextConfig, "vision_config": module.Siglip2VisionConfig}[part]
    from transformers.models.siglip import configuration_siglip as fixed

    return {"text_config": fixed.SiglipTextConfig, "vision_config": fixed.SiglipVisionConfig}[part]


@strict
class Siglip2MimConfig(PreTrainedConfig):
    """Describe a SigLIP 2 model and its training.

    `vocab_size`, `text_length`, `image_size`, `patch_size` may be given here; they are fields of the towers.

    Args:
        text_config, vision_config: of transformers' `SiglipTextModel` and `SiglipVisionModel`, or with `naflex` of
            `Siglip2TextModel` and `Siglip2VisionModel`; fields as a dict.
        naflex: pictures keep their shape and have as many patches as fit (NaFlex); the self-supervised losses are not applied.
        losses: which of `LOSSES` are used; heads are made for these alone.
        loss_weights: of the losses; default those of B (section 2.3: self-distillation 1, masked prediction 0.25, times 0.25,
            0.5, 1.0, 0.5 for B, L, So400m, g).
        logit_scale_init, logit_bias_init: logarithm of the temperature and bias at the start; transformers starts from 0 and 0.
        sigmoid_chunk: pictures whose logits are held at once. vocabulary_chunk: words likewise, of the decoder.
        decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size: of the decoder; default half of the
            text tower's layers, and its heads and width. decoder_bias: biases in its MLPs and norms.
        decoder_length: tokens that it reads and writes at most.
        parallel_ratio: chance of a caption to be predicted in parallel, from mask tokens alone.
        kind_weights: chances of the kinds of text, for rows whose objects are known; the others have captions.
        score_prompt: the loss is taken on the prompt as well, not only on what is asked for.
        text_templates: of the kinds; unknown, ours. box_bins: a coordinate is a number below it; ours.
        pad_token_id, eos_token_id: of the vocabulary. decoder_start_token_id: what the decoder begins with.
        processor_name: folder or Hub id of a checkpoint's processor, or of any tokenizer; None learns word pieces from the rows.
        mask_ratio: share of patches hidden from the student.
        num_local_views, local_crop_size: small crops, pixels a side; the latter is ours, default six patches.
        local_crop_scale, global_crop_scale: share of the picture's area (SILC).
        teacher_momentum: of the averaged teacher, fixed (SILC); the value is ours. center_momentum: of the centres.
        student_temperature, teacher_temperature: as in DINO; unknown for SigLIP 2.
        head_hidden_size, head_bottleneck_size, num_prototypes: of the self-supervised heads, as in DINO; unknown for SigLIP 2.
        self_distillation_start: share of training after which the self-supervised losses begin.
        sequence_lengths: most patches a picture, one is drawn for each batch; NaFlex.
        pack: NaFlex pictures of different numbers of patches stand in one sequence without padding, where that is worth it.
        curation_ratio: share of a batch that is left out as not worth learning, in [0, 1); 0 keeps all.
        curation_chunks: draws in which the others are chosen. curation_reference: folder or Hub id of the model that judges.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "siglip2_mim"
    sub_configs = {"text_config": PreTrainedConfig, "vision_config": PreTrainedConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    naflex: bool = False
    losses: list[str] = field(default_factory=lambda: list(LOSSES))
    loss_weights: dict[str, float] = field(default_factory=lambda: weights(0.25))
    logit_scale_init: float | int = math.log(10)
    logit_bias_init: float | int = -10.0
    sigmoid_chunk: int = between(1)(512)
    vocabulary_chunk: int = between(1)(8192)
    decoder_num_hidden_layers: int | None = between(1)(None)
    decoder_num_attention_heads: int | None = between(1)(None)
    decoder_intermediate_size: int | None = between(1)(None)
    decoder_bias: bool = False
    decoder_length: int = between(2)(64)
    parallel_ratio: float = between(0, 1)(0.5)
    kind_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    score_prompt: bool = True
    text_templates: dict[str, str] = field(default_factory=lambda: dict(TEMPLATES))
    box_bins: int = between(2)(1024)
    pad_token_id: int | None = 0
    eos_token_id: int | None = 1
    decoder_start_token_id: int = 0
    processor_name: str | None = None
    mask_ratio: float = between(0, 1)(0.5)
    num_local_views: int = between(1)(8)
    local_crop_size: int | None = between(1)(None)
    local_crop_scale: list[float] = field(default_factory=lambda: [0.05, 0.4])
    global_crop_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    teacher_momentum: float = between(0, 1)(0.996)
    center_momentum: float = between(0, 1)(0.9)
    student_temperature: float = between(1e-6)(0.1)
    teacher_temperature: float = between(1e-6)(0.04)
    head_hidden_size: int = between(1)(2048)
    head_bottleneck_size: int = between(1)(256)
    num_prototypes: int = between(2)(65_536)
    self_distillation_start: float = between(0, 1)(0.8)
    sequence_lengths: list[int] = field(default_factory=lambda: [128, 256, 576, 784, 1024])
    pack: bool = True
    curation_ratio: float = between(0, 1, below=True)(0.0)
    curation_chunks: int = between(1)(16)
    curation_reference: str | None = None

    vocab_size = _of("text_config", "vocab_size")
    text_length = _of("text_config", "max_position_embeddings")
    image_size = _of("vision_config", "image_size")
    patch_size = _of("vision_config", "patch_size")
    hidden_size = _of("vision_config", "hidden_size")
    num_attention_heads = _of("vision_config", "num_attention_heads")
    num_hidden_layers = _of("vision_config", "num_hidden_layers")

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the towers' configurations of what was told of them."""
        told = {name: value for name in ("image_size", "patch_size") if (value := kwargs.pop(name, None)) is not None}
        self.vision_config = self._tower("vision_config", {} if self.naflex else {"image_size": 256}, told)
        usual = {**TEXT, "projection_size": self.vision_config.hidden_size}
        names = {"vocab_size": "vocab_size", "text_length": "max_position_embeddings"}
        told = {name: value for key, name in names.items() if (value := kwargs.pop(key, None)) is not None}
        self.text_config = self._tower("text_config", usual, told)
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
            kwargs.pop(name, None)  # those of transformers' own files follow from the towers
        super().__post_init__(**kwargs)

    def _tower(self, part: str, usual: Mapping[str, Any], told: Mapping[str, Any]) -> PreTrainedConfig:
        """Return a tower's configuration: what is usual, what its own fields say, what was told beside them."""
        given = getattr(self, part)
        fields = given.to_dict() if isinstance(given, PreTrainedConfig) else dict(given or {})
        left_out = ("model_type", "transformers_version", "architectures", *(["image_size"] if self.naflex else []))
        merged = {**usual, **fields, **told}
        return _kind(part, self.naflex)(**{name: value for name, value in merged.items() if name not in left_out})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a configuration; those of transformers' `siglip` and `siglip2` files tell whether it is NaFlex."""
        kind = config_dict.get("model_type")
        if kind in ("siglip", "siglip2"):
            config_dict = {**config_dict, "naflex": kind == "siglip2"}
            for name in ("vocab_size", "model_type", "architectures"):
                config_dict.pop(name, None)
        return super().from_dict(config_dict, **kwargs)

    @property
    def active_losses(self) -> tuple[str, ...]:
        """The losses in use; section 2.4: no self-supervised ones under NaFlex."""
        return tuple(name for name in LOSSES if name in self.losses and not (self.naflex and name in SELF_SUPERVISED))

    @property
    def local_size(self) -> int:
        """A side of small crops, in pixels."""
        return self.local_crop_size or 6 * self.patch_size

    @property
    def self_supervised(self) -> bool:
        """Whether there is a teacher."""
        return any(name in self.active_losses for name in SELF_SUPERVISED)

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.decoder_num_hidden_layers or max(1, self.text_config.num_hidden_layers // 2)

    def validate_losses(self) -> None:
        """Check the names of losses, weights, kinds and templates."""
        for name, given, known in (
            ("losses", self.losses, LOSSES),
            ("loss_weights", self.loss_weights, LOSSES),
            ("kind_weights", self.kind_weights, KINDS),
            ("text_templates", self.text_templates, KINDS),
        ):
            strange = sorted(set(given) - set(known))
            if strange:
                raise ValueError(f"{name} names {strange}; known are {known}")
        if "sigmoid" not in self.losses:
            raise ValueError(f"losses is {self.losses}; the sigmoid loss must be among them")
        missing = [name for name in KINDS if name not in self.text_templates]
        if missing:
            raise ValueError(f"text_templates lacks {missing}; there must be one for each of {KINDS}")
        if min(self.kind_weights.values(), default=0) < 0 or self.kind_weights.get("caption", 0) <= 0:
            raise ValueError(
                f"kind_weights is {self.kind_weights}; captions need a chance above 0, the others 0 at least"
            )

    def validate_scales(self) -> None:
        """Check the areas of crops, and that small ones are whole patches."""
        for name in ("local_crop_scale", "global_crop_scale"):
            low, high = getattr(self, name) if len(getattr(self, name)) == 2 else (0.0, 0.0)
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be two shares of the area, the lower one first"
                )
        if not self.sequence_lengths or min(self.sequence_lengths) < 1:
            raise ValueError(f"sequence_lengths is {self.sequence_lengths}; it must name numbers of patches above 0")

    def validate_sizes(self) -> None:
        """Check that towers and crops fit together."""
        text, vision = self.text_config, self.vision_config
        if not isinstance(vision, PreTrainedConfig):
            return
        for what, tower in (("text_config", text), ("vision_config", vision)):
            if tower.hidden_size % tower.num_attention_heads:
                raise ValueError(
                    f"{what}: hidden_size {tower.hidden_size} is no multiple of num_attention_heads {tower.num_attention_heads}"
                )
        if text.projection_size != vision.hidden_size:
            raise ValueError(
                f"text_config.projection_size is {text.projection_size}; it must be vision_config.hidden_size, "
                f"which is {vision.hidden_size}"
            )
        if self.self_supervised and self.local_size % vision.patch_size:
            raise ValueError(
                f"local_crop_size {self.local_crop_size} must be a multiple of the patch size {vision.patch_size}"
            )
