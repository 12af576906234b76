"""A plugin hub of masked-modelling methods: `import hub_mim`, and transformers' auto classes know them.

Importing it is cheap: neither torch nor any plugin is imported; everything else is fetched when first used.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hub_mim import lazy

if TYPE_CHECKING:
    from hub_mim.hookspecs import hookimpl as hookimpl
    from hub_mim.method import Example as Example
    from hub_mim.method import Method as Method

__version__ = "0.1.0"

_HOMES = {
    "hookspecs": ("hookimpl",),
    "method": ("Example", "Method"),
    "registry": ("register",),
    "training": ("Run", "pretrain"),
    "loading": ("load", "load_processor"),
    "sharing": ("save",),
    "transfer": ("listed", "pull", "push"),
    "evaluation": ("Result", "evaluate"),
    "embedding": ("embed",),
    "finetuning": ("finetune",),
    "reporting": ("report",),
    "showing": ("show",),
    "conversion": ("convert",),
    "testing": ("check_plugin",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hub_mim' has no attribute {name!r}")
    value = getattr(import_module(f"hub_mim.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if os.environ.get("HUB_MIM_NO_TORCHVISION") == "1":
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # a broken one breaks all of transformers
lazy.install()
