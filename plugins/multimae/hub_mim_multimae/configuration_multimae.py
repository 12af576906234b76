"""Configuration of MultiMAE (Bachmann et al., ECCV 2022): a masked autoencoder over aligned image modalities."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between
from hub_mim_multimae.modalities import PAPER, Modality, named, read


@strict
class MultiMAEConfig(PreTrainedConfig):
    """Describe a MultiMAE model.

    Args:
        modalities: for each its "name" and fields of `modalities.Modality`, in the order in which tokens are joined;
            default the paper's rgb, depth and semseg.
        tasks: names of what is predicted; empty: every modality that has a loss, and "norm_x" for each of
            `normalized_targets`. A task may be a modality that is never an input.
        normalized_targets: modalities that are predicted once more with each patch standardised; rgb in the paper.
        image_size: side of the pictures that the position tables are made for.
        patch_size: side of a patch, in pixels of the picture.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the encoder.
        num_global_tokens: learned tokens without a place, behind the others.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size: of each
            task's decoder; the layers are those behind the cross-attention.
        hidden_act: activation of the MLPs. layer_norm_eps: of every norm.
        hidden_dropout_prob: after attention and MLP, in training. drop_path_rate: of the last block, rising from 0.
        initializer_range: standard deviation of learned tokens and class embeddings.
        num_visible: visible tokens of a row over all modalities, in pre-training; all where there are fewer.
        alphas: of the Dirichlet distribution that shares them out, for each modality (missing: 1); section 3.3.
        sample_tasks_uniformly: draw which modalities get any, each subset alike.
        crop_scale: least and greatest share of a picture that training sees of it, drawn for each row; [1, 1] = all of it.
        crop_ratio: least and greatest ratio of width to height of that part. flip_share: of rows that are mirrored.
        class_embedding: of a categorical modality: "conv" (patches of embedded classes) or "interpolate" (the mean class
            embedding around the middle of a patch, then a linear map).
        learnable_positions: train the position tables instead of keeping them fixed.
        task_embeddings: whether decoders add a learned vector for each input modality.
        label_smoothing: of categorical losses, in [0, 1).
        task_balancer: "none", or "uncertainty": exp(-s) L + s with a learned s for each task.
        loss_weights: of tasks; missing = 1.
        classifier_pooling: "mean" over all tokens, or "last", the last global token.
        segmentation_head: "convnext", "segmenter", "dpt" or "linear". depth_head: "dpt" or "convnext".
        main_modalities: whose tokens the dense heads take; empty: the first modality.
        head_hidden_size, head_num_layers, head_num_attention_heads: of the ConvNeXt or Segmenter head.
        head_predictions_per_patch: of the ConvNeXt head: places that a patch is split into, a square number.
        dpt_hooks: four blocks, counted from 0, whose tokens DPT takes. dpt_sizes: channels of its four levels.
            dpt_features: of its fusion.
        classifier_init_scale: of the classifier's first weights.
        depth_loss: "berhu" or "l1".
        semantic_loss_ignore_index: label that segmentation does not learn from.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "multimae"

    modalities: list[dict[str, Any]] = field(default_factory=lambda: [dict(each) for each in PAPER])
    tasks: list[str] = field(default_factory=list)
    normalized_targets: list[str] = field(default_factory=lambda: ["rgb"])
    image_size: int = between(1)(224)
    patch_size: int = between(1)(16)
    hidden_size: int = 768
    num_hidden_layers: int = between(0)(12)
    num_attention_heads: int = 12
    intermediate_size: int = between(1)(3072)
    num_global_tokens: int = between(1)(1)
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = between(0)(2)
    decoder_num_attention_heads: int = 8
    decoder_intermediate_size: int = between(1)(1024)
    hidden_act: str = "gelu"
    layer_norm_eps: float = between(0)(1e-6)
    hidden_dropout_prob: float = between(0, 1, below=True)(0.0)
    drop_path_rate: float = between(0, 1, below=True)(0.0)
    initializer_range: float = between(0)(0.02)
    num_visible: int = between(1)(98)
    alphas: dict[str, float] = field(default_factory=dict)
    sample_tasks_uniformly: bool = False
    crop_scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 4 / 3])
    flip_share: float = between(0, 1)(0.0)
    class_embedding: str = "conv"
    learnable_positions: bool = False
    task_embeddings: bool = True
    label_smoothing: float = between(0, 1, below=True)(0.0)
    task_balancer: str = "none"
    loss_weights: dict[str, float] = field(default_factory=dict)
    classifier_pooling: str = "mean"
    segmentation_head: str = "convnext"
    depth_head: str = "dpt"
    main_modalities: list[str] = field(default_factory=list)
    head_hidden_size: int = between(1)(6144)
    head_num_layers: int = between(0)(4)
    head_num_attention_heads: int = between(1)(12)
    head_predictions_per_patch: int = between(1)(16)
    dpt_hooks: list[int] = field(default_factory=lambda: [2, 5, 8, 11])
    dpt_sizes: list[int] = field(default_factory=lambda: [96, 192, 384, 768])
    dpt_features: int = between(2)(256)
    classifier_init_scale: float = between(0)(1.0)
    depth_loss: str = "berhu"
    semantic_loss_ignore_index: int = 255

    @property
    def names(self) -> list[str]:
        """Names of the modalities, in order."""
        return [each["name"] for each in self.modalities]

    def modality(self, name: str) -> Modality:
        """Return one modality."""
        fields = dict(self.modalities[self.names.index(name)])
        return read(fields.pop("name"), fields)

    def patch_side(self, name: str) -> int:
        """Return the side of a patch in pixels of a modality's own map."""
        return max(1, self.patch_size // self.modality(name).stride)

    @property
    def targets(self) -> dict[str, str]:
        """Task -> the modality that it predicts, in order."""
        usual = [name for name in self.names if self.modality(name).loss != "none"]
        usual += [f"norm_{name}" for name in self.normalized_targets]
        return {task: task.removeprefix("norm_") if task not in self.names else task for task in self.tasks or usual}

    @property
    def main(self) -> list[str]:
        """The modalities whose tokens dense heads take."""
        return self.main_modalities or [self.names[0]]

    def validate_modalities(self) -> None:
        """Check modalities, tasks and what names them."""
        if not self.modalities:
            raise ValueError("modalities is empty; a model needs one at least")
        try:
            made = named(self.modalities)
        except ValueError as error:
            raise ValueError(f"modalities: {error}") from None
        for name, each in made.items():
            stride = each.stride
            if self.patch_size % stride:
                raise ValueError(f"stride {stride} of modality {name!r} does not divide patch_size {self.patch_size}")
        for task, target in self.targets.items():
            if target not in self.names or self.modality(target).loss == "none":
                raise ValueError(
                    f"tasks names {task!r}, which is no modality with a loss; there are {', '.join(self.names)}"
                )
        for place in ("normalized_targets", "main_modalities", "alphas"):
            for name in getattr(self, place):
                if name not in self.names:
                    raise ValueError(f"{place} names {name!r}; the modalities are {', '.join(self.names)}")
        for name in self.normalized_targets:
            if self.modality(name).categorical:
                raise ValueError(f"normalized_targets names {name!r}, whose values are classes and have no mean")
        for name, alpha in self.alphas.items():
            if alpha <= 0:
                raise ValueError(f"alphas of {name!r} is {alpha}; it must be above 0")
        if set(self.loss_weights) - set(self.targets):
            raise ValueError(
                f"loss_weights names {sorted(set(self.loss_weights) - set(self.targets))}; tasks are {list(self.targets)}"
            )

    def validate_sizes(self) -> None:
        """Check widths, heads and counts."""
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width < 4 or width % 4 or heads < 1 or width % heads:
                raise ValueError(
                    f"{prefix}hidden_size {width} must be a multiple of 4 and of {prefix}num_attention_heads {heads}"
                )
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if round(self.head_predictions_per_patch**0.5) ** 2 != self.head_predictions_per_patch:
            raise ValueError(
                f"head_predictions_per_patch is {self.head_predictions_per_patch}; it must be a square number"
            )
        for name, most in (("crop_scale", 1.0), ("crop_ratio", float("inf"))):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                raise ValueError(
                    f"{name} is {bounds}; it must be two numbers above 0, the lesser first"
                    + (", up to 1" if most == 1 else "")
                )
        for name in ("dpt_hooks", "dpt_sizes"):
            if len(getattr(self, name)) != 4:
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers; DPT has four levels")

    def validate_choices(self) -> None:
        """Check the named options."""
        choices: dict[str, tuple[str, ...]] = {
            "class_embedding": ("conv", "interpolate"),
            "task_balancer": ("none", "uncertainty"),
            "classifier_pooling": ("mean", "last"),
            "segmentation_head": ("convnext", "segmenter", "dpt", "linear"),
            "depth_head": ("dpt", "convnext"),
            "depth_loss": ("berhu", "l1"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")


class Schema:
    """What forward reads of a configuration's modalities, worked out once: the same names, nothing to be parsed."""

    def __init__(self, config: MultiMAEConfig):
        self.names, self.targets, self.patch_size = config.names, config.targets, config.patch_size
        self.label_smoothing = config.label_smoothing
        self.made = named(config.modalities)
        self.sides = {name: config.patch_side(name) for name in self.names}

    def modality(self, name: str) -> Modality:
        """Return one modality."""
        return self.made[name]

    def patch_side(self, name: str) -> int:
        """Return the side of a patch in pixels of a modality's own map."""
        return self.sides[name]
