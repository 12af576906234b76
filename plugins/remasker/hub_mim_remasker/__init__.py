"""ReMasker (Du, Melis, Wang, ICLR 2024): masked autoencoding that fills the gaps of tables.

The classes are imported when first used, so that `import hub_mim_remasker` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import hub_mim  # noqa: F401 (makes transformers' auto classes know this plugin, whichever is imported first)

if TYPE_CHECKING:
    from hub_mim_remasker.configuration_remasker import ReMaskerConfig as ReMaskerConfig
    from hub_mim_remasker.imputation import ReMaskerImputer as ReMaskerImputer
    from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining as ReMaskerForPreTraining
    from hub_mim_remasker.modeling_remasker import ReMaskerModel as ReMaskerModel
    from hub_mim_remasker.processing_remasker import ReMaskerProcessor as ReMaskerProcessor

_HOME = {
    "ReMaskerConfig": "configuration_remasker",
    "ReMaskerModel": "modeling_remasker",
    "ReMaskerForPreTraining": "modeling_remasker",
    "ReMaskerProcessor": "processing_remasker",
    "ReMaskerImputer": "imputation",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hub_mim_remasker' has no attribute {name!r}")
    return getattr(import_module(f"hub_mim_remasker.{_HOME[name]}"), name)
