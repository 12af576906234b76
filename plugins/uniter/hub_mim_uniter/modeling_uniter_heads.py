"""UNITER with a head for a task: questions, entailment, choices, ranking, referring expressions, pairs of pictures.

Source: the authors' code, as the specification describes it; parity of each is in the tests.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim_regions.words import for_encoder
from hub_mim_uniter.configuration_uniter import UniterConfig
from hub_mim_uniter.modeling_uniter import UniterModel, UniterModelOutput, UniterPreTrainedModel

FAR = -1e4  # the score of what is not there


@dataclass
class UniterHeadOutput(ModelOutput):
    """What a head returns: loss, where labels are given, and logits; the encoder's states besides."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def hidden_layer(width: int, inner: int, outputs: int, act: str, eps: float) -> nn.Sequential:
    """Return linear, activation, norm, linear: the authors' head."""
    return nn.Sequential(nn.Linear(width, inner), ACT2FN[act], nn.LayerNorm(inner, eps=eps), nn.Linear(inner, outputs))


class _WithHead(UniterPreTrainedModel):
    """The encoder; a subclass adds the head and calls `finish`."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)

    def encode(self, given: dict[str, Any]) -> UniterModelOutput:
        """Encode a processor's batch."""
        out: UniterModelOutput = self.uniter(**for_encoder(given))
        return out


def _output(out: UniterModelOutput, logits: Tensor, loss: Tensor | None) -> UniterHeadOutput:
    return UniterHeadOutput(loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)


def soft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy summed over answers, mean over rows.

    Args:
        logits: (B, A). labels: (B, A) in [0, 1], or int64 (B,) classes, which count as 1.
    """
    target = labels if labels.dim() == 2 else F.one_hot(labels, logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits.float(), target.float()) * logits.shape[1]


class UniterForQuestionAnswering(_WithHead):
    """A score for each of `num_answers` answers (VQA); with three, entailment (SNLI-VE)."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        width = config.hidden_size
        self.vqa_output = hidden_layer(
            width, 2 * width, config.num_answers, config.classifier_act, config.layer_norm_eps
        )
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> UniterHeadOutput:
        """Answer.

        Args:
            labels: soft scores (B, A) or classes (B,). kwargs: see `UniterModel`.
        """
        out = self.encode({"input_ids": input_ids} | kwargs)
        logits = self.vqa_output(out.pooler_output)
        return _output(out, logits, None if labels is None else soft_loss(logits, labels))


class UniterForVisualEntailment(UniterForQuestionAnswering):
    """Entailed, neutral or contradicted, trained as questions are (SNLI-VE)."""

    def __init__(self, config: UniterConfig):
        config.num_answers = 3
        super().__init__(config)


class UniterForMultipleChoice(_WithHead):
    """Which of several texts is right (VCR): a row for each choice, the highest score wins."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        width = config.hidden_size
        self.vcr_output = hidden_layer(width, 2 * width, 2, "relu", config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> UniterHeadOutput:
        """Score choices.

        Args:
            labels: (B,) or (B, 1), 1 for the right choice, 0 for others. kwargs: see `UniterModel`.
        Returns:
            Logits (B, 1).
        """
        out = self.encode({"input_ids": input_ids} | kwargs)
        both = self.vcr_output(out.pooler_output)
        loss = None if labels is None else F.cross_entropy(both.float(), labels.flatten())
        return _output(out, both[:, 1:], loss)


class UniterForImageTextRetrieval(_WithHead):
    """How well texts and pictures match, for ranking; groups of rows, the matching one first."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def init_ranking(self) -> None:
        """Start the ranking where pre-training's matching ended: its score of "matched"."""
        with torch.no_grad():
            self.rank_output.weight.copy_(self.itm_output.weight[1:])
            self.rank_output.bias.copy_(self.itm_output.bias[1:])

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        group_size: int | None = None,
        margin: float = 0.2,
        hard: int | None = None,
        **kwargs: Any,
    ) -> UniterHeadOutput:
        """Score pairs.

        Args:
            group_size: rows of a group, its first row matches; default no loss.
            margin: of the triplet loss on the sigmoids.
            hard: train on so many of a group's negatives only, those that score best now.
            kwargs: see `UniterModel`.
        Returns:
            Logits (B, 1).
        """
        given = {"input_ids": input_ids} | kwargs
        if hard is not None and group_size is not None and self.training:
            given, group_size = self._hardest(given, group_size, hard)
        out = self.encode(given)
        logits = self.rank_output(out.pooler_output)
        loss = None
        if group_size is not None:
            score = logits.float().sigmoid().view(-1, group_size)
            loss = (margin + score[:, 1:] - score[:, :1]).clamp(min=0).mean()
        return _output(out, logits, loss)

    @torch.no_grad()
    def _hardest(self, given: dict[str, Any], group_size: int, hard: int) -> tuple[dict[str, Any], int]:
        """Return the rows of each group's match and of the negatives that score best, without dropout."""
        self.eval()
        score = self.rank_output(self.encode(given).pooler_output).view(-1, group_size)
        self.train()
        best = 1 + score[:, 1:].topk(min(hard, group_size - 1), dim=1).indices
        first = torch.arange(len(score), device=score.device)[:, None] * group_size
        rows = (first + torch.cat([torch.zeros_like(best[:, :1]), best], 1)).flatten()
        chosen = {name: value[rows] if isinstance(value, Tensor) else value for name, value in given.items()}
        return chosen, 1 + best.shape[1]


class UniterForReferringExpression(_WithHead):
    """Which region a text means (RefCOCO)."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        width = config.hidden_size
        self.re_output: nn.Module = (
            hidden_layer(width, width, 1, "gelu", config.layer_norm_eps) if config.region_mlp else nn.Linear(width, 1)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> UniterHeadOutput:
        """Score regions.

        Args:
            labels: (B,) or (B, 1), number of the region that is meant.
            visual_attention_mask: (B, N), 1 where a region is real. kwargs: see `UniterModel`.
        Returns:
            Logits (B, N), -1e4 at padding.
        """
        out = self.encode({"input_ids": input_ids, "visual_attention_mask": visual_attention_mask} | kwargs)
        logits = self.re_output(out.region_hidden)[..., 0]
        if visual_attention_mask is not None:
            logits = logits.masked_fill(~visual_attention_mask.bool(), FAR)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels.flatten())
        return _output(out, logits, loss)


class AttentionPool(nn.Module):
    """A weighted mean of tokens: weights by one linear layer."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, 1), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map (B, L, H) with bool (B, L) to (B, H)."""
        score = self.fc(x)[..., 0] + (~valid).to(x.dtype) * FAR
        pooled: Tensor = (self.dropout(score.softmax(1))[:, None] @ x)[:, 0]
        return pooled


class UniterForNlvr2(_WithHead):
    """Whether a sentence is true of two pictures (NLVR2), in the authors' three ways.

    "paired" and "paired-attention" take two rows a sentence, its left and its right picture; "triplet" one row with the
    regions of both, whose kinds (`visual_token_type_ids`) are 1 and 2.
    """

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        width, heads, drop = config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        if config.nlvr2_variant == "paired-attention":
            self.attn1 = nn.MultiheadAttention(width, heads, drop, batch_first=True)
            self.attn2 = nn.MultiheadAttention(width, heads, drop, batch_first=True)
            self.fc = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(config.hidden_dropout_prob))
            self.attn_pool = AttentionPool(width, drop)
        self.nlvr2_output = nn.Linear(width if config.nlvr2_variant == "triplet" else 2 * width, 2)
        self.post_init()

    def init_kinds(self) -> None:
        """Start the kind of the right picture's regions where the left one's is."""
        table = self.uniter.embeddings.token_type_embeddings
        if table.num_embeddings < 3:
            raise ValueError(f"the model has {table.num_embeddings} kinds of tokens; load it with type_vocab_size=3")
        with torch.no_grad():
            table.weight[2] = table.weight[1]

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> UniterHeadOutput:
        """Judge sentences.

        Args:
            input_ids and others: see `UniterModel`; rows 2i and 2i + 1 are one sentence, save for "triplet".
            labels: int64 (B / 2,), 1 where true; (B,) for "triplet".
        Raises:
            ValueError: an odd number of rows.
        """
        out = self.encode({"input_ids": input_ids} | kwargs)
        rows = len(out.last_hidden_state)
        if self.config.nlvr2_variant == "triplet":
            joined = out.pooler_output
        elif rows % 2:
            raise ValueError(f"there are {rows} rows; each sentence needs two, with its left and its right picture")
        elif self.config.nlvr2_variant == "paired":
            joined = out.pooler_output.view(rows // 2, -1)
        else:
            joined = self._attended(out)
        logits = self.nlvr2_output(joined)
        return _output(out, logits, None if labels is None else F.cross_entropy(logits.float(), labels))

    def _attended(self, out: UniterModelOutput) -> Tensor:
        """Return each sentence's two pooled rows side by side, each having looked at the other."""
        left, right = out.last_hidden_state[0::2], out.last_hidden_state[1::2]
        real = out.valid[0::2], out.valid[1::2]
        one, _ = self.attn1(left, right, right, key_padding_mask=~real[1], need_weights=False)
        two, _ = self.attn2(right, left, left, key_padding_mask=~real[0], need_weights=False)
        pooled = [
            self.attn_pool(self.fc(torch.cat([seen, own], -1)), valid)
            for seen, own, valid in ((one, left, real[0]), (two, right, real[1]))
        ]
        return torch.cat(pooled, -1)
