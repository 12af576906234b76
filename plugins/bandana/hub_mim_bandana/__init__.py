"""Bandana (Zhao et al., WWW 2024): masked graph autoencoding with bandwidths instead of hidden edges.

The classes are imported when first used, so that `import hub_mim_bandana` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import hub_mim  # noqa: F401 (makes transformers' auto classes know this plugin, whichever is imported first)

if TYPE_CHECKING:
    from hub_mim_bandana.configuration_bandana import BandanaConfig as BandanaConfig
    from hub_mim_bandana.modeling_bandana import BandanaForPreTraining as BandanaForPreTraining
    from hub_mim_bandana.modeling_bandana import BandanaModel as BandanaModel
    from hub_mim_bandana.modeling_bandana_heads import BandanaForGraphClassification as BandanaForGraphClassification
    from hub_mim_bandana.modeling_bandana_heads import BandanaForLinkPrediction as BandanaForLinkPrediction
    from hub_mim_bandana.modeling_bandana_heads import BandanaForNodeClassification as BandanaForNodeClassification
    from hub_mim_bandana.processing_bandana import BandanaProcessor as BandanaProcessor

_HOME = {
    "BandanaConfig": "configuration_bandana",
    "BandanaModel": "modeling_bandana",
    "BandanaForPreTraining": "modeling_bandana",
    "BandanaForNodeClassification": "modeling_bandana_heads",
    "BandanaForLinkPrediction": "modeling_bandana_heads",
    "BandanaForGraphClassification": "modeling_bandana_heads",
    "BandanaProcessor": "processing_bandana",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hub_mim_bandana' has no attribute {name!r}")
    return getattr(import_module(f"hub_mim_bandana.{_HOME[name]}"), name)
