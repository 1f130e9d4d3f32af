"""Reading fitted estimators from the folders that they were saved in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modalkit.errors import unreadable
from modalkit.sklearn._embedder import MultimodalEmbedder
from modalkit.sklearn._imputer import MultimodalImputer
from modalkit.sklearn._model import Trained
from modalkit.sklearn._predictors import MultimodalClassifier, MultimodalRegressor
from modalkit.sklearn._saving import FILE, FORMAT, read
from modalkit.sklearn._tables import TableError

_CLASSES: dict[str, Any] = {
    c.__name__: c for c in (MultimodalClassifier, MultimodalEmbedder, MultimodalImputer, MultimodalRegressor)
}


def load(folder: Path | str) -> Any:
    """Load an estimator that its ``save`` wrote. Nothing in the folder is executed.

    Args:
        folder: the folder.

    Raises:
        InputError: it is no saved estimator, or a file of it is missing or damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / FILE).read_text("utf-8"))
        if about["format"] != FORMAT:
            raise TableError(f"{folder}: was saved in format {about['format']}; this version reads format {FORMAT}")
        estimator = _CLASSES[about["class"]](**{key: read(one) for key, one in about["parameters"].items()})
        for key, one in about["fitted"].items():
            setattr(estimator, key, read(one))
        folders = [folder / f"model-{number}" for number in range(about["models"])]
        models = [Trained({path.name: path.read_bytes() for path in sorted(each.iterdir())}) for each in folders]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, TableError):
            raise
        raise unreadable(str(folder / FILE), "a saved estimator", error) from None
    estimator.trained_ = models[0] if models else None
    if isinstance(estimator, MultimodalImputer):
        estimator.bootstrapped_ = models[1:]
    return estimator
