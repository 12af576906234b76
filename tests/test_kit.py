"""The kit finds what it is for: each broken variant of the toy turns a named check red, the right one turns none."""

import dataclasses

import pytest
import torch

from hub_mim import plugins
from hub_mim.masking import Kept, keep_visible, random_mask, restore
from hub_mim.testing import check_plugin, checks, plugin_checks
from hub_mim.testing.kit import run_check
from hub_mim.testing.subject import Subject
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.modeling_toy import ToyMimForPreTraining, ToyMimModel

test_conformance = plugin_checks("toy")


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


class IgnoresMask(ToyMimForPreTraining):
    """Draws a mask of its own although one is given."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        seeds = torch.arange(len(values)) if row_seed is None else row_seed
        return super().forward(values, mask=random_mask(values.shape[:2], 0.4, row_seed=seeds), **kwargs)


class GlobalSource(ToyMimForPreTraining):
    """Draws from torch's global source."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        mask = random_mask(values.shape[:2], 0.4) if mask is None else mask
        return super().forward(values, mask=mask, **kwargs)


class DeadParameter(ToyMimForPreTraining):
    """Has a parameter that nothing uses."""

    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(3))


class LosesTable(ToyMimForPreTraining):
    """Fills its constant table in __init__ only, where a model built on the meta device loses it."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("table", torch.arange(4.0), persistent=False)


class NoisyEvaluation(ToyMimForPreTraining):
    """Adds noise in evaluation mode."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.predictions = out.predictions + torch.randn_like(out.predictions)
        return out


class RowsMixed(ToyMimForPreTraining):
    """Lets the first row of a batch decide the masks of all."""

    def forward(self, values, mask=None, row_seed=None, **kwargs):
        if mask is None and row_seed is not None:
            row_seed = row_seed[0] + torch.arange(len(values))
        return super().forward(values, mask=mask, row_seed=row_seed, **kwargs)


class NoLosses(ToyMimForPreTraining):
    """Returns no named losses."""

    def forward(self, values, **kwargs):
        out = super().forward(values, **kwargs)
        out.losses = None
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


class ForgetsField(ToyMimConfig):
    """Leaves a field out when it is saved."""

    def to_dict(self):
        values = super().to_dict()
        values.pop("mask_ratio", None)
        return values


BROKEN = [
    (LossEverywhere, "check_loss_only_where_scored"),
    (SeesHidden, "check_no_leakage"),
    (SeesHidden, "check_no_gradient_to_hidden_input"),
    (IgnoresMask, "check_given_mask_decides"),
    (GlobalSource, "check_row_seed_decides"),
    (DeadParameter, "check_gradients"),
    (LosesTable, "check_constant_tables"),
    (NoisyEvaluation, "check_given_mask_decides"),
    (RowsMixed, "check_rows_are_independent"),
    (NoLosses, "check_forward_contract"),
    (WrongOrder, "check_overfits_one_batch"),
]


def broken(model_class):
    """The toy with another pre-training class."""
    subject = Subject("toy")
    usual = subject.model_class
    subject.model_class = lambda auto="AutoModelForPreTraining": model_class if "PreTraining" in auto else usual(auto)
    return subject


@pytest.mark.parametrize(("model_class", "name"), BROKEN, ids=[f"{kind.__name__}-{name}" for kind, name in BROKEN])
def test_a_planted_bug_turns_its_check_red(model_class, name):
    result = run_check(getattr(checks, name), broken(model_class))
    assert result.status == "failed", f"{model_class.__name__} passes {name}"
    assert result.message


def test_a_dropped_field_turns_its_check_red():
    subject = Subject("toy")
    example = subject.example
    config = ForgetsField(
        **{name: getattr(example.config, name) for name in ToyMimConfig.__annotations__ if name != "model_type"}
    )
    subject.__dict__["example"] = dataclasses.replace(example, config=config)
    result = run_check(checks.check_config_round_trip, subject)
    assert result.status == "failed"
    assert "mask_ratio" in result.message


def test_an_encoder_that_sees_padding_turns_its_check_red(monkeypatch):
    usual = ToyMimModel.forward

    def peeks(self, values, mask=None, **kwargs):
        out = usual(self, values, mask, **kwargs)
        out.last_hidden_state = out.last_hidden_state * (1 + values.abs().sum())
        return out

    monkeypatch.setattr(ToyMimModel, "forward", peeks)
    assert run_check(checks.check_no_leakage, Subject("toy")).status == "failed"


def test_results_without_pytest(capsys):
    seen = []
    results = check_plugin("toy", on_fail=None, callback=seen.append, fast=True)
    assert seen == results
    assert not [result for result in results if result.status == "failed"]
    assert {result.check for result in results if result.status == "skipped"} == {"check_parity", "check_flops"}


def test_failures_raise_or_warn(monkeypatch):
    def check_nothing(subject):
        raise AssertionError("told so")

    monkeypatch.setattr(checks, "ALL", (check_nothing,))
    with pytest.raises(AssertionError, match="toy: check_nothing: told so"):
        check_plugin("toy")
    with pytest.warns(UserWarning, match="told so"):
        (result,) = check_plugin("toy", on_fail="warn")
    assert result.status == "failed"


def test_unknown_expected_failures_are_an_error():
    with pytest.raises(ValueError, match=r"\['check_nonsense'\]"):
        plugin_checks("toy", {"check_nonsense": "why"})


def test_an_unknown_method_is_an_error():
    with pytest.raises(ValueError, match="no method called 'toyx'"):
        check_plugin("toyx")
    assert "toy" in plugins.methods()
