"""Checks for authors of plugins. They say in words what is wrong.

`check_modality` and `check_objective` check that a modality kind and an objective keep the contract of
`modalkit.plugin`.
"""

from modalkit.testing._modality import check_modality
from modalkit.testing._objective import check_objective

__all__ = ["check_modality", "check_objective"]
