"""UNITER (Chen et al., ECCV 2020, arXiv:1909.11740): masked words and regions in one Transformer."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
