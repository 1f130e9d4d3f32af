"""Metrics, one a file, and what authors of new ones use.

A new metric is one file with a `modalkit.plugin.Metric`, which an entry point of the group ``modalkit.metrics``, a
recipe's ``plugins:`` list or ``modalkit evaluate --plugin`` names.
"""

from modalkit.evaluation.metrics._means import jackknife, mean_and_error, median_and_error
from modalkit.evaluation.metrics._predictions import of_predictions, predictions

__all__ = ["jackknife", "mean_and_error", "median_and_error", "of_predictions", "predictions"]
