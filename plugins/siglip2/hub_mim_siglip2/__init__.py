"""SigLIP 2 (Tschannen et al., 2025, arXiv:2502.14786): the whole training recipe around transformers' own towers."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
