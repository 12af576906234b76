"""Plugins with one planted bug each: the toy, broken in one place, and the check that must turn red."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig

from hub_mim.masking import Kept, keep_visible, random_mask, restore
from hub_mim.testing.subject import Subject, own_fields
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.modeling_toy import ToyMimForPreTraining, ToyMimModel
from hub_mim_toy.processing_toy import ToyMimProcessor

# --- models --------------------------------------------------------------------------------------------------------


class LossEverywhere(ToyMimForPreTraining):
    """Takes the loss on all tokens, and says otherwise."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.losses["hidden"] = (out.predictions - values).square().mean()
        out.loss = 2.0 * out.losses["hidden"] + 0.5 * out.losses["absolute"]
        return out


class SeesHidden(ToyMimForPreTraining):
    """Shows the encoder the mean of all tokens."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.last_hidden_state = out.last_hidden_state + values.mean()
        return out


class OffByOne(ToyMimForPreTraining):
    """Shifts the mask by one place, as if a class token stood before the tokens."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        if mask is None:
            return super().forward(values, row_seed=row_seed, **kwargs)
        out = super().forward(values, mask=mask.roll(1, 1), **kwargs)
        out.mask = mask
        return out


class IgnoresMask(ToyMimForPreTraining):
    """Draws a mask of its own although one is given."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        seeds = torch.arange(len(values)) if row_seed is None else row_seed
        return super().forward(values, mask=random_mask(values.shape[:2], 0.4, row_seed=seeds), **kwargs)


class GlobalSource(ToyMimForPreTraining):
    """Draws from torch's global source."""

    def forward(self, values, mask=None, row_seed=None, generator=None, **kwargs):
        mask = random_mask(values.shape[:2], 0.4) if mask is None else mask
        return super().forward(values, mask=mask, **kwargs)


class OneMaskForAll(ToyMimForPreTraining):
    """Hides the same places whatever the seed."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        seeds = None if row_seed is None else torch.zeros_like(row_seed)
        return super().forward(values, mask=mask, row_seed=seeds, **kwargs)


class LossComesLast(ToyMimForPreTraining):
    """Sets the loss after everything else."""

    def forward(self, *args, return_dict=True, **kwargs):
        out = super().forward(*args, **kwargs)
        fields = {name: value for name, value in out.items() if name != "loss"}
        return out if return_dict else (*fields.values(), out.loss)


class CannotBeFound(ToyMimForPreTraining):
    """Has no tags."""

    model_tags = None


class IgnoresGenerator(ToyMimForPreTraining):
    """Takes the generator and does not use it."""

    def forward(self, values, generator=None, **kwargs):
        return super().forward(values, **kwargs)


class HidesTooMuch(ToyMimForPreTraining):
    """Hides one place more than the share says in every second row."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        if mask is None and row_seed is not None:
            mask = random_mask(values.shape[:2], 0.4, row_seed=row_seed)
            mask[::2, 0] = True
        return super().forward(values, mask=mask, row_seed=row_seed, **kwargs)


class RaggedMinimum(ToyMimForPreTraining):
    """Hides in every row as much as the row with the smallest values can bear."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        if mask is None and row_seed is not None:
            ratio = 0.2 + 0.6 * float(values.abs().amin().clamp(max=1) > 0.05)
            mask = random_mask(values.shape[:2], ratio, row_seed=row_seed)
        return super().forward(values, mask=mask, row_seed=row_seed, **kwargs)


class BatchStatistics(ToyMimForPreTraining):
    """Normalises by the batch, so that a row alone is predicted otherwise."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.predictions = out.predictions - values.mean((0, 1))
        return out


class RowsMixed(ToyMimForPreTraining):
    """Lets the first row of a batch decide the masks of all."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        if mask is None and row_seed is not None:
            row_seed = row_seed[0] + torch.arange(len(values))
        return super().forward(values, mask=mask, row_seed=row_seed, **kwargs)


class DeadParameter(ToyMimForPreTraining):
    """Has a parameter that nothing uses."""

    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(3))


class LosesTable(ToyMimForPreTraining):
    """Fills its constant table in __init__ only, where a model built on the meta device loses it."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("table", torch.arange(4.0), persistent=False)


class HugeWeights(ToyMimForPreTraining):
    """Starts with a mask token a thousand times too large."""

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self:
            nn.init.normal_(self.mask_token, std=1000.0)


class NoisyEvaluation(ToyMimForPreTraining):
    """Drops out in evaluation mode, too."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.predictions = nn.functional.dropout(out.predictions, 0.5, training=True)
        return out


class NoLosses(ToyMimForPreTraining):
    """Returns no named losses."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.losses = None
        return out


class ForgetsWeights(ToyMimForPreTraining):
    """Adds its losses up without their weights."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.loss = sum(out.losses.values())
        return out


class QuietInEvaluation(ToyMimForPreTraining):
    """Computes no loss unless asked, so that Trainer evaluates none."""

    def forward(self, values, return_loss=False, **kwargs):
        return super().forward(values, return_loss=return_loss, **kwargs)


class RefusesWithoutName(ToyMimForPreTraining):
    """Says that a shape is wrong, and not whose."""

    def forward(self, values, **kwargs):
        if values.dim() != 3:
            raise ValueError("the shape is wrong")
        return super().forward(values, **kwargs)


class StretchesMask(ToyMimForPreTraining):
    """Takes the mask of one row for all rows."""

    def forward(self, values, mask=None, **kwargs):
        mask = mask.expand(len(values), -1) if mask is not None and len(mask) == 1 else mask
        return super().forward(values, mask=mask, **kwargs)


class DividesByNothing(ToyMimForPreTraining):
    """Divides by the number of hidden places, also by none."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.losses["hidden"] = ((out.predictions - values).square().mean(-1) * out.mask).sum() / out.mask.sum()
        out.loss = 2.0 * out.losses["hidden"] + 0.5 * out.losses["absolute"]
        return out


class WrongOrder(ToyMimForPreTraining):
    """Puts tokens back one place too far: nothing can be learned of where they were."""

    def forward(self, values, mask=None, row_seed=None, generator=None, return_loss=True, **kwargs):
        out = super().forward(values, mask, row_seed, generator, return_loss, **kwargs)
        kept = keep_visible(values, out.mask)
        shifted = restore(
            Kept(kept.tokens, kept.places.roll(1, 1), kept.valid), torch.zeros(1, 1, values.shape[2]), values.shape[1]
        )
        out.predictions = out.predictions * 0 + shifted.to(out.predictions) * out.predictions.mean()
        out.loss = (out.predictions - values).square()[out.mask].mean() + 0 * out.loss
        return out


class LeavesOut(ToyMimForPreTraining):
    """Does not save its mask token."""

    _keys_to_ignore_on_save = {"mask_token"}


class DependsOnPrecision(ToyMimForPreTraining):
    """Adds an epsilon that is far too large in float32."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.predictions = out.predictions + 1e4 * torch.finfo(values.dtype).eps
        return out


class OverflowsHalf(ToyMimForPreTraining):
    """Leaves the range of small floating-point numbers."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        if values.dtype == torch.bfloat16:
            out.loss = out.loss * torch.finfo(torch.bfloat16).max * 2
        return out


class MixesTypes(ToyMimForPreTraining):
    """Refuses the mixture of types that autocast makes."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        if torch.is_autocast_enabled("cpu"):
            out.loss = out.loss + 1.0
        return out


class EagerDiffers(ToyMimForPreTraining):
    """Scales otherwise where attention is computed eagerly."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        if self.config._attn_implementation == "eager":
            out.predictions = out.predictions * 1.01
        return out


class CheckpointingDiffers(ToyMimForPreTraining):
    """Counts the loss twice under gradient checkpointing."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        if any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            out.loss = 2 * out.loss
        return out


class CannotBeCopied(ToyMimForPreTraining):
    """Holds a function that pickle cannot keep."""

    def __init__(self, config):
        super().__init__(config)
        self.activation = lambda x: x


class TrainsTeacher(ToyMimForPreTraining):
    """Has a teacher that gradients reach."""

    teacher_modules = ("teacher",)

    def __init__(self, config):
        super().__init__(config)
        self.teacher = nn.Linear(config.num_channels, config.num_channels)
        self.post_init()

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.loss = out.loss + (out.predictions - self.teacher(values)).square().mean()
        return out


class SecretNegatives(ToyMimForPreTraining):
    """Compares the rows of a batch with each other, and does not say so: each process would have its own negatives."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        rows = out.last_hidden_state.mean(1)
        contrast = nn.functional.cross_entropy(rows @ rows.T, torch.arange(len(rows)))
        out.losses["contrast"] = contrast
        out.loss = out.loss + contrast
        return out


class BreaksTheGraph(ToyMimForPreTraining):
    """Branches on a value, which a compiler cannot follow."""

    def forward(self, values, **kwargs):
        if float(values.sum()) > 1e9:
            values = values / 2
        return super().forward(values, **kwargs)


class HidesLayers(ToyMimModel):
    """Records no hidden states."""

    _can_record_outputs = {}


# --- configurations and processors ---------------------------------------------------------------------------------


class ForgetsField(ToyMimConfig):
    """Leaves a field out when it is saved."""

    def to_dict(self):
        values = super().to_dict()
        values.pop("mask_ratio", None)
        return values


class TakesAnything(PreTrainedConfig):
    """Is not strict about types."""

    model_type = "toy_mim"
    num_tokens: int = 6


@strict
class TakesAnyNumber(PreTrainedConfig):
    """Takes a negative number of tokens."""

    model_type = "toy_mim"
    num_tokens: int = 6


class ForgetsFactor(ToyMimProcessor):
    """Does not save its factor."""

    def to_dict(self, *args, **kwargs):
        values = super().to_dict(*args, **kwargs)
        values.pop("factor", None)
        return values


class ChangesRows(ToyMimProcessor):
    """Writes into the rows it is given."""

    def __call__(self, values, **kwargs):
        for row in values:
            row[0][0] = 0.0
        return super().__call__(values, **kwargs)


class ScalesByBatch(ToyMimProcessor):
    """Scales by the largest value of the batch."""

    def __call__(self, values, **kwargs):
        batch = super().__call__(values, **kwargs)
        batch["values"] = batch["values"] / batch["values"].abs().max()
        return batch


class MakesMore(ToyMimProcessor):
    """Makes a tensor that forward does not take."""

    def __call__(self, values, **kwargs):
        batch = super().__call__(values, **kwargs)
        batch["lengths"] = torch.tensor([len(row) for row in values])
        return batch


class AssertsShapes(ToyMimProcessor):
    """Ends in an AssertionError where rows are of different lengths."""

    def __call__(self, values, **kwargs):
        assert all(isinstance(row, list) and len(row) == len(values[0]) for row in values)
        return super().__call__(values, **kwargs)


class TellsByType(ToyMimProcessor):
    """Scales whole numbers of 8 bits, and not those that a table kept as lists."""

    def __call__(self, values, **kwargs):
        scaled = [row / 255 if getattr(row, "dtype", None) == np.uint8 else row for row in values]
        return super().__call__([np.asarray(row).tolist() for row in scaled], **kwargs)


class FillsGaps(ToyMimProcessor):
    """Makes zeros of the whole batch where a row cannot be read."""

    def __call__(self, values, **kwargs):
        try:
            return super().__call__(values, **kwargs)
        except (TypeError, ValueError):
            return super().__call__([[[0.0, 0.0]] * 5 for _ in values], **kwargs)


# --- the table -----------------------------------------------------------------------------------------------------

MODELS = [
    (LossEverywhere, "check_loss_only_where_scored"),
    (SeesHidden, "check_no_leakage"),
    (SeesHidden, "check_no_gradient_to_hidden_input"),
    (OffByOne, "check_no_leakage"),
    (IgnoresMask, "check_given_mask_decides"),
    (GlobalSource, "check_row_seed_decides"),
    (OneMaskForAll, "check_row_seed_decides"),
    (CannotBeFound, "check_tags"),
    (IgnoresGenerator, "check_generator_decides"),
    (HidesTooMuch, "check_share_hidden"),
    (LossComesLast, "check_forward_contract"),
    (RaggedMinimum, "check_row_alone"),
    (BatchStatistics, "check_row_alone"),
    (RowsMixed, "check_rows_are_independent"),
    (DeadParameter, "check_gradients"),
    (LosesTable, "check_constant_tables"),
    (HugeWeights, "check_initial_weights"),
    (NoisyEvaluation, "check_given_mask_decides"),
    (NoLosses, "check_forward_contract"),
    (ForgetsWeights, "check_forward_contract"),
    (QuietInEvaluation, "check_forward_contract"),
    (DividesByNothing, "check_extreme_masks"),
    (RefusesWithoutName, "check_wrong_values"),
    (StretchesMask, "check_wrong_values"),
    (WrongOrder, "check_overfits_one_batch"),
    (LeavesOut, "check_save_and_load"),
    (DependsOnPrecision, "check_float64"),
    (OverflowsHalf, "check_bfloat16"),
    (MixesTypes, "check_autocast"),
    (EagerDiffers, "check_attention_implementations"),
    (CheckpointingDiffers, "check_gradient_checkpointing"),
    (CannotBeCopied, "check_copies"),
    (TrainsTeacher, "check_teachers_are_detached"),
    (SecretNegatives, "check_losses_are_means"),
]
COMPILED = [(BreaksTheGraph, "check_compile"), (BreaksTheGraph, "check_export")]
PROCESSORS = [
    (ForgetsFactor, "check_processor_round_trip"),
    (ChangesRows, "check_processor_leaves_rows_alone"),
    (ScalesByBatch, "check_processor_row_alone"),
    (MakesMore, "check_processor_feeds_forward"),
    (AssertsShapes, "check_wrong_rows"),
    (FillsGaps, "check_wrong_rows"),
]


def with_model(model_class: Any) -> Subject:
    """Return the toy with another pre-training class (or encoder class)."""
    subject = Subject("toy")
    usual = subject.model_class
    encoder = not issubclass(model_class, ToyMimForPreTraining)
    place = "AutoModel" if encoder else "AutoModelForPreTraining"
    subject.model_class = lambda auto="AutoModelForPreTraining": model_class if auto == place else usual(auto)
    return subject


def with_example(**changes: Any) -> Subject:
    """Return the toy with another part of its example."""
    subject = Subject("toy")
    subject.__dict__["example"] = dataclasses.replace(subject.example, **changes)
    return subject


def with_method(**changes: Any) -> Subject:
    """Return the toy with another part of its declaration."""
    subject = Subject("toy")
    subject.method = dataclasses.replace(copy.deepcopy(subject.method), **changes)
    return subject


OTHERS: list[tuple[str, Callable[[], Subject], str]] = [
    ("HidesLayers", lambda: with_model(HidesLayers), "check_hidden_states"),
    (
        "ForgetsField",
        lambda: with_example(config=ForgetsField(**own_fields(Subject("toy").example.config))),
        "check_config_round_trip",
    ),
    ("TakesAnything", lambda: with_example(config=TakesAnything()), "check_config_refuses_wrong_types"),
    ("TakesAnyNumber", lambda: with_example(config=TakesAnyNumber()), "check_config_refuses_bad_values"),
    ("DefaultsInExample", lambda: with_example(config=ToyMimConfig()), "check_example_sets_every_field"),
    ("CorruptsNothing", lambda: with_example(corrupt=lambda batch, mask: batch), "check_no_leakage"),
    ("WrongCount", lambda: with_method(parameters={"tiny": 7}), "check_parameter_counts"),
    ("NoSuchClass", lambda: with_method(flops="hub_mim_toy.example:cost"), "check_every_string_resolves"),
    ("WrongCost", lambda: with_method(flops="hub_mim.method:suggest"), "check_flops"),
    (
        "TellsByType",
        lambda: with_example(
            processor=TellsByType(), rows=[{"values": np.full((5, 3), level, np.uint8)} for level in (9, 200)]
        ),
        "check_processor_stored_rows",
    ),
    ("NothingToAdapt", lambda: with_method(lora_targets=("query",)), "check_adapters"),
]
