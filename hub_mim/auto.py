"""Auto classes for tasks that transformers has none for: heads on graphs.

    from hub_mim.auto import AutoModelForNodeClassification
    model = AutoModelForNodeClassification.from_pretrained("runs/graph", num_labels=7)

Plugins declare them in `Method.auto` like those of transformers; they are registered when this module is imported.
"""

from collections import OrderedDict
from typing import Any

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


def _mapping() -> Any:
    return _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForNodeClassification(_BaseAutoModelClass):
    """A class for every node of a graph."""

    _model_mapping = _mapping()


class AutoModelForLinkPrediction(_BaseAutoModelClass):
    """A score for pairs of nodes of a graph."""

    _model_mapping = _mapping()


class AutoModelForGraphClassification(_BaseAutoModelClass):
    """A class, or a quantity, for a whole graph."""

    _model_mapping = _mapping()


OURS = tuple(name for name in dict(globals()) if name.startswith("AutoModelFor"))


def auto_class(name: str, home: Any = None) -> Any:
    """Return an auto class by its name, transformers' (or `home`'s) or ours; None where there is none."""
    import transformers

    found = getattr(home or transformers, name, None)
    return found if found is not None or name not in OURS else globals()[name]


def _register() -> None:
    from hub_mim import plugins, registry

    for method in plugins.methods().values():
        for name in set(OURS) & set(method.auto):
            registry.register_class(name, registry.config_class(method), registry.resolve_all(method.auto[name]))


_register()
