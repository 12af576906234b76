"""The configuration: nothing is lost in saving, wrong values are refused, sizes are the paper's."""

import tempfile
from typing import Any

import torch

from hub_mim.testing.subject import SkipCheck, Subject, own_fields


def check_config_round_trip(subject: Subject) -> None:
    """Saving a configuration as JSON and loading it loses nothing."""
    config = subject.example.config
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        again = type(config).from_pretrained(folder)
    before, after = own_fields(config), own_fields(again)
    lost = [name for name in before if before[name] != after.get(name)]
    assert not lost, f"the fields {lost} change when the configuration is saved and loaded"


def check_example_sets_every_field(subject: Subject) -> None:
    """The example's configuration has no field of the plugin's own at its default."""
    config = subject.example.config
    default = own_fields(type(config)())
    same = sorted(name for name, value in own_fields(config).items() if value == default[name])
    allowed = {"legacy", *subject.example.fixed}  # a switch that changes the arithmetic has checks of its own
    assert not set(same) - allowed, f"the example leaves {same} at the default, so losing them would not be noticed"


def check_config_refuses_wrong_types(subject: Subject) -> None:
    """A configuration says no to a value of the wrong type, and names the field: it is decorated with `@strict`."""
    kind = type(subject.example.config)
    plain = [name for name, hint in kind.__annotations__.items() if hint in (int, float, bool, str)]
    if not plain:
        raise SkipCheck("the configuration has no plain field")
    for name in plain:
        wrong: Any = 3.5j
        told = ""
        try:
            kind(**{name: wrong})
        except Exception as error:  # huggingface_hub's strict dataclasses raise an error type of their own
            told = str(error)
        assert told, f"{kind.__name__}({name}={wrong}) is accepted; decorate the class with @strict"
        assert name in told, f"the error for a wrong {name} does not name it: {told}"


SIGNED = ("ignore_", "pad_", "_id", "_index")  # parts of the names of fields where a negative number means something
SHARES = ("ratio", "dropout", "prob")


def check_config_refuses_bad_values(subject: Subject) -> None:
    """A configuration says no to a negative size and to a share above 1, and names the field."""
    kind = type(subject.example.config)
    for name, hint in kind.__annotations__.items():
        if hint not in (int, float) or any(part in name for part in SIGNED):
            continue
        for wrong in (hint(-1), *((1.5,) if any(part in name for part in SHARES) and hint is float else ())):
            told = ""
            try:
                kind(**{name: wrong})
            except Exception as error:  # as above
                told = str(error)
            assert told, (
                f"{kind.__name__}({name}={wrong}) is accepted; write `{name}: {hint.__name__} = between(low, high)(default)` "
                "with hub_mim.fields.between, or a validate_* method"
            )
            assert name in told, f"the error for {name}={wrong} does not name it: {told}"


def check_parameter_counts(subject: Subject) -> None:
    """The presets have as many parameters as the paper's models; counted without giving them memory."""
    if not subject.method.parameters:
        raise SkipCheck("the method declares no numbers of parameters")
    kind = type(subject.example.config)
    for preset, number in subject.method.parameters.items():
        assert preset in subject.method.presets, f"parameters names the preset {preset!r}, which does not exist"
        with torch.device("meta"):
            model = subject.model_class()(kind(**subject.method.presets[preset]))
        count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        assert count == number, f"the preset {preset!r} has {count:,} trainable parameters, declared are {number:,}"
