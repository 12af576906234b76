"""MultiMAE (Bachmann et al., ECCV 2022, arXiv:2204.01678): any mix of aligned image modalities in, any out."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
