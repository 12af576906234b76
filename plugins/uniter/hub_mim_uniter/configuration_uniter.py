"""Configuration of UNITER (Chen et al., ECCV 2020): one Transformer over words and regions."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

TASKS = ("mlm", "mrfr", "mrc", "mrckl", "itm")


@strict
class UniterConfig(PreTrainedConfig):
    """Describe a UNITER model; the defaults are the authors' base size.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, max_position_embeddings, layer_norm_eps, initializer_range: as of BERT.
        type_vocab_size: kinds of tokens: 0 text, 1 regions; more where a task has more texts or pictures.
        pad_token_id, mask_token_id: of the vocabulary. num_special_tokens: words begin at this number; those before are
            never masked, and never stand in for a masked one.
        visual_feat_dim: of a region's features. visual_pos_dim: numbers that tell where it is.
        num_region_classes: of soft labels, background first.
        tasks: how often each is drawn: "mlm" masked words; "mrfr", "mrc", "mrckl" masked regions by their features, their class,
            their soft label; "itm" whether text and picture belong together, with the alignment of words and regions.
        task_draw: "step": one task for a whole training step, the same on all processes (the paper); "row": one for each row.
            Evaluation draws one for each row.
        masking: "conditional": words or regions are masked, never both; "joint": both at once (the paper's ablation).
        mask_ratio: chance of each word and each region to be masked, in [0, 1).
        negative_ratio: share of pairs whose picture is another row's, where the rows do not tell `matched_label`.
        kl_reduction: of "mrckl": "mean" divides by the number of classes (the authors' code), "sum" is the paper's.
        ot_beta, ot_steps: of the alignment's optimal transport (IPOT).
        loss_weights: of the terms; "ot" is 0.1 unless it is given.
        num_answers: of the head for questions. nlvr2_variant: "paired", "triplet" or "paired-attention".
        region_mlp: whether the head for referring expressions has a hidden layer.
        classifier_act: of the hidden layer of heads on the pooled token: "gelu", "relu" for VCR.
        chunk_size_feed_forward, is_decoder, add_cross_attention: what BERT's layers read; not to be changed.
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "uniter"

    vocab_size: int = between(1)(28_996)
    hidden_size: int = between(1)(768)
    num_hidden_layers: int = between(0)(12)
    num_attention_heads: int = between(1)(12)
    intermediate_size: int = between(1)(3072)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = between(0, 1, below=True)(0.1)
    attention_probs_dropout_prob: float = between(0, 1, below=True)(0.1)
    max_position_embeddings: int = between(1)(512)
    type_vocab_size: int = between(2)(2)
    layer_norm_eps: float = between(0)(1e-12)
    initializer_range: float = between(0)(0.02)
    pad_token_id: int | None = 0
    mask_token_id: int = between(0)(103)
    num_special_tokens: int = between(0)(106)
    visual_feat_dim: int = between(1)(2048)
    visual_pos_dim: int = between(1)(7)
    num_region_classes: int = between(2)(1601)
    tasks: dict[str, float] = field(default_factory=lambda: {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "mrckl": 1.0})
    task_draw: str = "step"
    masking: str = "conditional"
    mask_ratio: float = between(0, 1, below=True)(0.15)
    negative_ratio: float = between(0, 1)(0.5)
    kl_reduction: str = "mean"
    ot_beta: float = between(0)(0.5)
    ot_steps: int = between(1)(50)
    loss_weights: dict[str, float] = field(default_factory=dict)
    num_answers: int = between(1)(3129)
    nlvr2_variant: str = "paired-attention"
    region_mlp: bool = True
    classifier_act: str = "gelu"
    chunk_size_feed_forward: int = between(0)(0)
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    @property
    def active_tasks(self) -> list[str]:
        """Tasks that are ever drawn, in a fixed order."""
        return [task for task in TASKS if self.tasks.get(task, 0) > 0]

    def validate_choices(self) -> None:
        """Check the named options."""
        choices = {
            "task_draw": ("step", "row"),
            "masking": ("conditional", "joint"),
            "kl_reduction": ("mean", "sum"),
            "nlvr2_variant": ("paired", "triplet", "paired-attention"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        strange = set(self.tasks) - set(TASKS)
        if strange or not self.active_tasks or min(self.tasks.values()) < 0:
            raise ValueError(f"tasks is {self.tasks}; it must give weights, one above 0, to some of {TASKS}")
        strange = set(self.loss_weights) - {*TASKS, "ot"}
        if strange:
            raise ValueError(f"loss_weights names {sorted(strange)}; the losses are {(*TASKS, 'ot')}")

    def validate_heads(self) -> None:
        """Check that heads share the width."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
