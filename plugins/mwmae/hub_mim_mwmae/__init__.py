"""MW-MAE (Yadav et al., ICLR 2024, arXiv:2306.00561): masked autoencoding of spectrograms with multi-window attention."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
