"""MyMethod: what it hides and predicts, in one line."""

from typing import TYPE_CHECKING, Any

import hub_mim  # noqa: F401 (first: transformers' auto classes then know every installed plugin, whatever is imported next)

if TYPE_CHECKING:
    from hub_mim_mymethod.configuration_mymethod import MyMethodConfig as MyMethodConfig
    from hub_mim_mymethod.modeling_mymethod import MyMethodForPreTraining as MyMethodForPreTraining
    from hub_mim_mymethod.modeling_mymethod import MyMethodModel as MyMethodModel
    from hub_mim_mymethod.processing_mymethod import MyMethodProcessor as MyMethodProcessor

_HOMES = {
    "MyMethodConfig": "configuration_mymethod",
    "MyMethodModel": "modeling_mymethod",
    "MyMethodForPreTraining": "modeling_mymethod",
    "MyMethodProcessor": "processing_mymethod",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
