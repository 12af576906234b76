"""LXMERT (Tan and Bansal, EMNLP 2019, arXiv:1908.07490) on transformers' own modules, with all that training needs."""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
