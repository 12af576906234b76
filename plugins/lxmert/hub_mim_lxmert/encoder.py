"""transformers' LXMERT encoder with what it lacks: every attention implementation, gradient checkpointing, all attentions.

Modules and names of weights are transformers' own; only how they are run differs.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.lxmert.modeling_lxmert import (
    LxmertAttention,
    LxmertCrossAttentionLayer,
    LxmertEncoder,
    LxmertLayer,
    LxmertSelfAttentionLayer,
    LxmertXLayer,
)

from hub_mim.blocks import attention_function, eager_attention


class Attending(LxmertAttention):
    """Attention through transformers' interface; keeps its weights for whoever asks."""

    is_causal = False

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """See `LxmertAttention`."""
        shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        there = (*context.shape[:-1], -1, self.attention_head_size)
        query = self.query(hidden_states).view(shape).transpose(1, 2)
        key, value = (layer(context).view(there).transpose(1, 2) for layer in (self.key, self.value))
        attend = eager_attention if output_attentions else attention_function(self.config, key)
        out, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.attention_head_size**-0.5,
        )
        out = out.reshape(*hidden_states.shape[:-1], -1)
        return (out, weights) if output_attentions else (out,)


class Layer(GradientCheckpointingLayer, LxmertLayer):
    """A layer of one modality, as `Encoder` calls it; called as a whole, it can be sharded as a whole."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        """Map states (B, S, H); returns these, and weights where they are asked for."""
        return _layer(self, hidden_states, attention_mask, output_attentions)


class CrossLayer(GradientCheckpointingLayer, LxmertXLayer):
    """A layer of both modalities, as `Encoder` calls it."""

    def forward(
        self,
        lang_feats: Tensor,
        lang_attention_mask: Tensor | None,
        visual_feats: Tensor,
        visual_attention_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Map states of words and of regions; returns these, and weights where they are asked for."""
        given = lang_feats, lang_attention_mask, visual_feats, visual_attention_mask
        return _cross(self, *given, output_attentions)


OURS: dict[type, type] = {LxmertAttention: Attending, LxmertLayer: Layer, LxmertXLayer: CrossLayer}


def attend_by_interface(model: Any, config: Any) -> None:
    """Let every attention of a model run through transformers' interface, and its layers be called as `Encoder` does."""
    for module in model.modules():
        if type(module) is LxmertAttention:
            module.config = config
        if type(module) in OURS:
            module.__class__ = OURS[type(module)]


class Encoder(LxmertEncoder):
    """`LxmertEncoder`, run layer by layer."""

    def run(
        self,
        text: Tensor,
        text_mask: Tensor | None,
        features: Tensor,
        places: Tensor,
        region_mask: Tensor | None,
        kept: bool,
    ) -> dict[str, Any]:
        """Encode embedded text (B, T, H) and regions.

        Args:
            text_mask, region_mask: added to scores, None for no padding.
            features, places: (B, N, D) and (B, N, 4).
            kept: return every attention's weights.
        Returns:
            text, regions: lists of states, embeddings first; words, places: self-attentions of either encoder;
            words_see, places_see: cross-attentions either way, layer by layer.
        """
        regions = self.visn_fc(features, places)
        out: dict[str, Any] = {"text": [text], "regions": [regions]}
        out |= {name: [] for name in ("words", "places", "words_see", "places_see")}
        for layer in self.layer:
            text, *seen = layer(text, text_mask, kept)
            out["text"].append(text)
            out["words"] += seen
        for layer in self.r_layers:
            regions, *seen = layer(regions, region_mask, kept)
            out["regions"].append(regions)
            out["places"] += seen
        for layer in self.x_layers:
            text, regions, *seen = layer(text, text_mask, regions, region_mask, kept)
            out["text"].append(text)
            out["regions"].append(regions)
            for name, weights in zip(("words_see", "places_see", "words", "places"), seen, strict=False):
                out[name].append(weights)
        return out


def _attended(
    layer: LxmertSelfAttentionLayer | LxmertCrossAttentionLayer,
    x: Tensor,
    context: Tensor,
    mask: Tensor | None,
    kept: bool,
) -> tuple[Tensor, ...]:
    attention = layer.att if isinstance(layer, LxmertCrossAttentionLayer) else layer.self
    out, *weights = attention(x, context, mask, output_attentions=kept)
    return layer.output(out, x), *weights


def _layer(layer: Any, x: Tensor, mask: Tensor | None, kept: bool) -> tuple[Tensor, ...]:
    x, *weights = _attended(layer.attention, x, x, mask, kept)
    return layer.output(layer.intermediate(x), x), *weights


def _cross(
    layer: Any, text: Tensor, text_mask: Tensor | None, regions: Tensor, region_mask: Tensor | None, kept: bool
) -> tuple[Tensor, ...]:
    """Run a cross-modality layer: one attention both ways on what came in, then each on its own."""
    a, *one = _attended(layer.visual_attention, text, regions, region_mask, kept)
    b, *two = _attended(layer.visual_attention, regions, text, text_mask, kept)
    a, *three = _attended(layer.lang_self_att, a, a, text_mask, kept)
    b, *four = _attended(layer.visn_self_att, b, b, region_mask, kept)
    text = layer.lang_output(layer.lang_inter(a), a)
    regions = layer.visn_output(layer.visn_inter(b), b)
    return text, regions, *one, *two, *three, *four


def added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what is added to scores (B, 1, 1, S) of a mask (B, S), 1 = real; None where all are real or none is given."""
    if mask is None:
        return None
    away = (~mask.bool())[:, None, None]
    return torch.zeros(away.shape, dtype=dtype, device=mask.device).masked_fill(away, torch.finfo(dtype).min / 2)
