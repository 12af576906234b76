"""CFM-ViT (Kim, Angelova, Kuo, ICCV 2023, arXiv:2309.00775): contrast and masked reconstruction in one space."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
