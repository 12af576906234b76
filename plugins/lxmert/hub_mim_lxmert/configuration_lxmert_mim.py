"""Configuration: the fields of transformers' LXMERT by the same names, and how it is trained.

It does not build on transformers' class: importing that one asks for auto modules that may be half-way imported.
"""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

LOSSES = ("words", "matched", "objects", "attributes", "features", "answers")


@strict
class LxmertMimConfig(PreTrainedConfig):
    """Describe an LXMERT model; what is not told here is as in transformers' `LxmertConfig`.

    Args:
        vocab_size, hidden_size, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, max_position_embeddings, type_vocab_size, initializer_range: as of BERT.
        l_layers, r_layers, x_layers: of words, of regions, of both.
        visual_feat_dim, visual_pos_dim: of a region's features, and numbers that tell where it is.
        num_object_labels, num_attr_labels, num_qa_labels: classes, attributes, answers.
        task_matched, task_mask_lm, task_obj_predict, task_qa, visual_obj_loss, visual_attr_loss, visual_feat_loss: what is
            predicted.
        visual_loss_normalizer: transformers' factor of visual losses, kept and not read: ours is exactly 1 / mask_ratio.
        mask_token_id, num_special_tokens: of the vocabulary: words begin at the latter; BERT's random words may be any.
        mask_ratio: chance of each word and each region to be masked, in [0, 1).
        negative_ratio: share of pairs whose sentence is another row's, where the rows do not tell `matched_label`.
        visual_losses: "masked": objects and attributes are predicted for masked regions alone, as the paper has it;
            "confidence": for all regions, as the authors' code has it; both weighed by the detector's confidence. The mean is
            over all regions, divided by `mask_ratio`.
        answer_loss: of question heads: "bce" over all answers (VQA, GQA), "ce" of one right answer.
        loss_weights: of the terms.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "lxmert_mim"

    vocab_size: int = between(1)(30_522)
    hidden_size: int = between(1)(768)
    num_attention_heads: int = between(1)(12)
    num_qa_labels: int = between(1)(9500)
    num_object_labels: int = between(1)(1600)
    num_attr_labels: int = between(1)(400)
    intermediate_size: int = between(1)(3072)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = between(0, 1, below=True)(0.1)
    attention_probs_dropout_prob: float = between(0, 1, below=True)(0.1)
    max_position_embeddings: int = between(1)(512)
    type_vocab_size: int = between(1)(2)
    initializer_range: float = between(0)(0.02)
    l_layers: int = between(0)(9)
    x_layers: int = between(0)(5)
    r_layers: int = between(0)(5)
    visual_feat_dim: int = between(1)(2048)
    visual_pos_dim: int = between(1)(4)
    visual_loss_normalizer: float = between(0)(6.67)
    task_matched: bool = True
    task_mask_lm: bool = True
    task_obj_predict: bool = True
    task_qa: bool = True
    visual_obj_loss: bool = True
    visual_attr_loss: bool = True
    visual_feat_loss: bool = True
    tie_word_embeddings: bool = True
    mask_token_id: int = between(0)(103)
    num_special_tokens: int = between(0)(104)
    mask_ratio: float = between(0, 1, below=True)(0.15)
    negative_ratio: float = between(0, 1)(0.5)
    visual_losses: str = "masked"
    answer_loss: str = "bce"
    loss_weights: dict[str, float] = field(default_factory=dict)
    pad_token_id: int | None = 0

    @property
    def num_hidden_layers(self) -> int:
        """How many layers the words pass."""
        return self.l_layers + self.x_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: object) -> None:
        """Leave what transformers' own files tell, a number for each encoder: it follows from the others."""

    @property
    def active_losses(self) -> list[str]:
        """The terms that the switches leave."""
        visual = self.task_obj_predict
        on = {
            "words": self.task_mask_lm,
            "matched": self.task_matched,
            "objects": visual and self.visual_obj_loss,
            "attributes": visual and self.visual_attr_loss,
            "features": visual and self.visual_feat_loss,
            "answers": self.task_qa,
        }
        return [name for name in LOSSES if on[name]]

    def validate_choices(self) -> None:
        """Check the named options."""
        for name, allowed in (("visual_losses", ("masked", "confidence")), ("answer_loss", ("bce", "ce"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        strange = set(self.loss_weights) - set(LOSSES)
        if strange:
            raise ValueError(f"loss_weights names {sorted(strange)}; the losses are {LOSSES}")

    def validate_heads(self) -> None:
        """Check that heads share the width."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
