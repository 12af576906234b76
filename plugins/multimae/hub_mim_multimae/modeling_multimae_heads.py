"""MultiMAE with a head: which class a picture has, which class each pixel has, how far away each pixel is."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import DepthEstimatorOutput, ImageClassifierOutput, SemanticSegmenterOutput
from transformers.utils.generic import can_return_tuple

from hub_mim.masking import Kept, restore
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.embeddings import Grid
from hub_mim_multimae.heads import LinearHead, SegmenterHead, dense_head
from hub_mim_multimae.modeling_multimae import MultiMAEModel, MultiMAEPreTrainedModel, there


class _WithHead(MultiMAEPreTrainedModel):
    """An encoder and one head."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.multimae = MultiMAEModel(config)

    def get_input_embeddings(self) -> nn.Module:
        """Return the projections of the modalities."""
        return self.multimae.adapters

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SegmenterHead):
            module.reset()
        elif isinstance(module, LinearHead) and module.scale != 1:
            for weight in (module.head.weight, module.head.bias):
                if not getattr(weight, "_is_hf_initialized", False):
                    weight.mul_(module.scale)

    def _joined(self, loss: Tensor, given: Any) -> Tensor:
        """Join what this batch had no use for by a weight of 0, so that processes can train together."""
        if not self.training:
            return loss
        idle = [
            w for name, adapter in self.multimae.adapters.items() if name not in given for w in adapter.parameters()
        ]
        return loss + 0.0 * sum(each.float().sum() for each in idle if each.requires_grad) if idle else loss


class MultiMAEForImageClassification(_WithHead):
    """Name the class of a picture from any of its modalities."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = LinearHead(config, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, rgb: Tensor | None = None, present: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Return logits (B, labels), and the loss where there are labels int64 (B,).

        Args:
            rgb and others, present: see `MultiMAEModel.forward`.
        """
        maps, _, kwargs = self.multimae.read(rgb, kwargs)
        out = self.multimae(present=present, return_dict=True, **maps, **kwargs)
        logits = self.classifier(out.last_hidden_state, out.pooler_output)
        loss = None if labels is None else self._joined(cross_entropy(logits.float(), labels), maps)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )


class _Dense(_WithHead):
    """An encoder and a head for every pixel."""

    def _maps(self, rgb: Tensor | None, present: Tensor | None, kwargs: dict[str, Any]) -> tuple[Tensor, Any, Any]:
        """Return what the head makes of the picture (B, C, H, W), the encoder's output, and the modalities given."""
        maps, grid, kwargs = self.multimae.read(rgb, kwargs)
        if present is not None:
            has = there(present, maps, self.multimae.schema)
            maps = {name: values for name, values in maps.items() if bool(has[name].any())}
            lacking = [name for name in self.config.main if name in maps and not bool(has[name].all())]
            if lacking:
                raise ValueError(f"the head takes the tokens of {lacking[0]}, which some rows lack")
        for name in self.config.main:
            if name not in maps:
                raise ValueError(f"the head takes the tokens of {name}, which was not given; see main_modalities")
        wanted = kwargs.pop("output_hidden_states", None)
        out = self.multimae(present=present, return_dict=True, output_hidden_states=True, **maps, **kwargs)
        hidden = out.hidden_states[1:] or (out.last_hidden_state,)
        if present is not None:  # packed: where a row lacks a modality, those behind it have moved up
            kept = [
                Kept(each[:, : out.places.shape[1]], out.places, out.valid[:, : out.places.shape[1]]) for each in hidden
            ]
            hidden = [restore(each, each.tokens.new_zeros(1), len(maps) * grid[0] * grid[1]) for each in kept]
        if not wanted:
            out.hidden_states = None
        size = grid[0] * self.config.patch_size, grid[1] * self.config.patch_size
        return self.head([self._main(each, tuple(maps), grid) for each in hidden], grid, size), out, maps

    def _main(self, hidden: Tensor, names: tuple[str, ...], grid: Grid) -> Tensor:
        """Return the tokens of the main modalities, joined on the channels (B, N, n D)."""
        count = grid[0] * grid[1]
        starts = [names.index(name) * count for name in self.config.main]
        return torch.cat([hidden[:, start : start + count] for start in starts], 2)


class MultiMAEForSemanticSegmentation(_Dense):
    """Name the class of every pixel."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.head = dense_head(config, config.segmentation_head, config.num_labels, classes=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self, rgb: Tensor | None = None, present: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Return logits (B, labels, H, W), and the loss where there are labels int64 (B, H, W).

        Args:
            rgb and others, present: see `MultiMAEModel.forward`; every row needs the main modalities.
        Raises:
            ValueError: a main modality is missing.
        """
        logits, out, maps = self._maps(rgb, present, kwargs)
        loss = None
        if labels is not None:
            ignored = self.config.semantic_loss_ignore_index
            loss = self._joined(cross_entropy(logits.float(), labels.long(), ignore_index=ignored), maps)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )


class MultiMAEForDepthEstimation(_Dense):
    """Tell the depth of every pixel."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.head = dense_head(config, config.depth_head, 1, classes=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self, rgb: Tensor | None = None, present: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> DepthEstimatorOutput:
        """Return the depth (B, H, W), and the loss where there are labels float (B, H, W), NaN where nothing is known.

        Args:
            rgb and others, present: see `MultiMAEModel.forward`; every row needs the main modalities.
        Raises:
            ValueError: a main modality is missing.
        """
        values, out, maps = self._maps(rgb, present, kwargs)
        depth = values[:, 0]
        loss = None
        if labels is not None:
            measure = berhu if self.config.depth_loss == "berhu" else absolute
            loss = self._joined(measure(depth.float(), labels.float()), maps)
        return DepthEstimatorOutput(
            loss=loss, predicted_depth=depth, hidden_states=out.hidden_states, attentions=out.attentions
        )


def absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error where the target is known."""
    known = target.isfinite()
    error = (prediction - target.nan_to_num()).abs().masked_fill(~known, 0)
    return error.sum() / known.sum().clamp(min=1)


def berhu(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the reverse Huber loss: absolute up to c, then squared; c is a fifth of the largest error of the batch.

    Source: Laina et al. 2016 (arXiv:1606.00373), section 3.3.
    """
    known = target.isfinite()
    error = (prediction - target.nan_to_num()).abs().masked_fill(~known, 0)
    bound = (0.2 * error.detach().amax()).clamp(min=1e-6)
    error = torch.where(error <= bound, error, (error.square() + bound**2) / (2 * bound))
    return error.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)
