"""MAE, SimMIM and VideoMAE as transformers itself has them: declared as methods, with no model code of ours.

What transformers' classes lack is in `draws.py` (masks that follow from a row's seed) and `repairs.py` (MAE's position
tables, which are all zero in a model that transformers 5.23 builds from a configuration).
"""

import hub_mim  # noqa: F401 (makes transformers' auto classes know every installed plugin)
