"""Estimators for scikit-learn: fill gaps, embed rows, and predict targets in its pipelines, without recipes."""

from modalkit.errors import install

try:
    from modalkit.sklearn._embedder import MultimodalEmbedder
    from modalkit.sklearn._imputer import MultimodalImputer
    from modalkit.sklearn._loading import load
    from modalkit.sklearn._predictors import MultimodalClassifier, MultimodalRegressor
    from modalkit.sklearn._rubin import Pooled, pool
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ModuleNotFoundError(f"modalkit.sklearn needs scikit-learn and pandas: {install('sklearn')}") from error

__all__ = [
    "MultimodalClassifier",
    "MultimodalEmbedder",
    "MultimodalImputer",
    "MultimodalRegressor",
    "Pooled",
    "load",
    "pool",
]
