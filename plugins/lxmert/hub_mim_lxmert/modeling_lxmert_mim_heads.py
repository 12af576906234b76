"""LXMERT with a head: questions (VQA, GQA), sentences about two pictures (NLVR2); answers carried over by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.lxmert.modeling_lxmert import LxmertVisualAnswerHead
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
from hub_mim_lxmert.modeling_lxmert_mim import LxmertMimModel, LxmertMimPreTrainedModel
from hub_mim_regions.words import for_encoder


@dataclass
class LxmertMimHeadOutput(ModelOutput):
    """What a head returns: loss, where labels are given, and logits; words' states and attentions besides."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LxmertMimForQuestionAnswering(LxmertMimPreTrainedModel):
    """A score for each answer: of VQA with soft labels, of GQA with one right answer."""

    head_name = "answer_head"
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"^obj_predict_head\.", r"^logit_fc\."]

    def __init__(self, config: LxmertMimConfig):
        super().__init__(config)
        self.lxmert = LxmertMimModel(config)
        self.answer_head = LxmertVisualAnswerHead(config, config.num_qa_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> LxmertMimHeadOutput:
        """Answer.

        Args:
            labels: soft scores (B, A) in [0, 1], or int64 (B,) right answers. kwargs: see `LxmertMimModel`.
        """
        out = self.lxmert(input_ids=input_ids, **for_encoder(kwargs))
        logits = self.answer_head(out.pooler_output)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return LxmertMimHeadOutput(loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.answer_loss == "ce":
            target = labels if labels.dim() == 1 else labels.argmax(1)
            return F.cross_entropy(logits, target)
        target = labels.float() if labels.dim() == 2 else F.one_hot(labels, logits.shape[1]).float()
        return F.binary_cross_entropy_with_logits(logits, target) * logits.shape[1]

    @torch.no_grad()
    def load_answers(self, weights: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str]) -> int:
        """Start the scores of answers that another head knows from what it learnt, by their names.

        Args:
            weights: of a checkpoint with an answer head. theirs: names of its answers, in order. ours: of this head.
        Returns:
            How many answers were found; the others keep fresh weights with a bias of 0.
        Raises:
            ValueError: numbers of names and of answers differ.
        """
        head = {name.partition("answer_head.")[2]: value for name, value in weights.items() if "answer_head." in name}
        last = self.answer_head.logit_fc[3]
        if len(theirs) != len(head.get("logit_fc.3.bias", ())) or len(ours) != len(last.bias):
            raise ValueError(
                f"{len(theirs)} and {len(ours)} names for {len(head.get('logit_fc.3.bias', ()))} and {len(last.bias)} answers"
            )
        place = {name: number for number, name in enumerate(theirs)}
        pairs = [(number, place[name]) for number, name in enumerate(ours) if name in place]
        inner = {name.removeprefix("logit_fc."): value for name, value in head.items() if ".3." not in name}
        self.answer_head.logit_fc.load_state_dict(inner, strict=False)
        if pairs:
            mine, old = torch.tensor(pairs).T
            last.weight[mine] = head["logit_fc.3.weight"][old].to(last.weight)
            last.bias[mine] = head["logit_fc.3.bias"][old].to(last.bias)
        return len(pairs)


class _TwoPictures(nn.Module):
    """Linear, GELU, norm, linear on two pooled rows side by side; named as in the authors' files."""

    def __init__(self, config: LxmertMimConfig):
        super().__init__()
        width = 2 * config.hidden_size
        self.logit_fc = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B / 2, 2 H) to (B / 2, 2)."""
        out: Tensor = self.logit_fc(x)
        return out


class LxmertMimForNlvr2(LxmertMimPreTrainedModel):
    """Whether a sentence is true of two pictures: rows 2i and 2i + 1 are one sentence with its left and its right one."""

    head_name = "nlvr2_head"

    def __init__(self, config: LxmertMimConfig):
        super().__init__(config)
        self.lxmert = LxmertMimModel(config)
        self.nlvr2_head = _TwoPictures(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> LxmertMimHeadOutput:
        """Judge sentences.

        Args:
            labels: int64 (B / 2,), 1 where true. kwargs: see `LxmertMimModel`.
        Raises:
            ValueError: an odd number of rows.
        """
        out = self.lxmert(input_ids=input_ids, **for_encoder(kwargs))
        rows = len(out.pooler_output)
        if rows % 2:
            raise ValueError(f"there are {rows} rows; each sentence needs two, with its left and its right picture")
        logits = self.nlvr2_head(out.pooler_output.view(rows // 2, -1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return LxmertMimHeadOutput(loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)
