"""The kit finds what it is for: each broken variant of the toy turns a named check red, the right one turns none."""

import sys
from pathlib import Path

import pytest

from hub_mim import plugins
from hub_mim.testing import check_plugin, checks, plugin_checks
from hub_mim.testing.kit import run_check
from hub_mim.testing.subject import Subject
from hub_mim_toy.modeling_toy import ToyMimModel

sys.path.insert(0, str(Path(__file__).parent))
from broken import COMPILED, MODELS, OTHERS, PROCESSORS, with_example, with_model

test_conformance = plugin_checks("toy")


@pytest.mark.parametrize(("model_class", "name"), MODELS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_model_turns_its_check_red(model_class, name):
    expect_red(with_model(model_class), name)


@pytest.mark.slow
@pytest.mark.parametrize(("model_class", "name"), COMPILED, ids=lambda value: getattr(value, "__name__", value))
def test_a_model_that_cannot_be_compiled_turns_its_check_red(model_class, name):
    expect_red(with_model(model_class), name)


@pytest.mark.parametrize(("kind", "name"), PROCESSORS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_processor_turns_its_check_red(kind, name):
    expect_red(with_example(processor=kind(factor=0.5)), name)


@pytest.mark.parametrize(("subject", "name"), [entry[1:] for entry in OTHERS], ids=[entry[0] for entry in OTHERS])
def test_a_broken_declaration_turns_its_check_red(subject, name):
    expect_red(subject(), name)


def expect_red(subject, name):
    result = run_check(checks.BY_NAME[name], subject)
    assert result.status == "failed", f"{name} says {result.status} {result.message}"
    assert result.message


def test_an_encoder_that_sees_padding_turns_its_check_red(monkeypatch):
    usual = ToyMimModel.forward

    def peeks(self, values, mask=None, **kwargs):
        out = usual(self, values, mask, **kwargs)
        out.last_hidden_state = out.last_hidden_state * (1 + values.abs().sum())
        return out

    monkeypatch.setattr(ToyMimModel, "forward", peeks)
    assert run_check(checks.BY_NAME["check_no_leakage"], Subject("toy")).status == "failed"


def test_results_without_pytest(capsys):
    seen = []
    results = check_plugin("toy", on_fail=None, callback=seen.append, fast=True)
    assert seen == results
    assert not [result for result in results if result.status == "failed"]
    skipped = {result.check.removeprefix("check_") for result in results if result.status == "skipped"}
    assert skipped == {"conversion", "parity", "flops", "parameter_counts", "pipeline", "teachers_are_detached"}


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
