"""Which epoch's weights are the best: by the validation ELBO, or by the error of imputation."""

from __future__ import annotations

from modalkit.model.vae import MultimodalVAE
from modalkit.recipe.loading import Recipe
from modalkit.runs.progress import Progress
from modalkit.training.data import TrainingData
from modalkit.training.imputation import ImputationError
from modalkit.util.processes import Processes

_FEW_ROWS = 30


class Choice:
    """Compares epochs by what ``train.choose`` names.

    Args:
        recipe: the recipe.
        model: on its device.
        data: the rows.
        processes: all that train together; each makes the same choice.

    Raises:
        InputError: the recipe asks for the error of imputation, and nothing can be hidden and predicted.
    """

    def __init__(self, recipe: Recipe, model: MultimodalVAE, data: TrainingData, processes: Processes) -> None:
        by_error = recipe.train.choose == "imputation"
        self.imputation = ImputationError(recipe, model, data, processes) if by_error else None
        self.rows = len(data.valid) if self.imputation is None else len(self.imputation.rows)
        self.matters = by_error or recipe.train.patience is not None

    def measure(self) -> dict[str, float]:
        """Return the metrics of the validation rows that the choice needs beside their ELBO."""
        return {} if self.imputation is None else self.imputation.measure()

    def better(self, metrics: dict[str, float], progress: Progress) -> bool:
        """Tell whether an epoch is better than all before it, and if so note it as the best.

        Args:
            metrics: of the validation rows; if there are none, the last epoch counts as the best.
            progress: up to that epoch.
        """
        value = self._value(metrics) if metrics else progress.best
        if metrics and not value > progress.best:
            return False
        progress.best, progress.best_epoch = value, progress.epoch
        return True

    def line(self, metrics: dict[str, float], progress: Progress) -> str:
        """Return the line of an epoch for the log; `better` has been called."""
        elbo = f"ELBO {metrics['elbo']:.2f} nats a row (all terms, beta 1)"
        if self.imputation is None:
            return f"epoch {progress.epoch}: validation {elbo}"
        best = f"best {-progress.best:.3f} at epoch {progress.best_epoch}" if progress.has_best else "no best yet"
        return (
            f"epoch {progress.epoch}: validation: imputation error {metrics['imputation_error']:.3f} of the training "
            f"mean's ({best}); {elbo}"
        )

    @property
    def improvement(self) -> str:
        """What patience waits for, in words."""
        return "better validation ELBO" if self.imputation is None else "lower validation imputation error"

    def doubt(self) -> str:
        """Return why the choice is not reliable, in words, or the empty string."""
        if not self.matters or not 0 < self.rows < _FEW_ROWS:
            return ""
        return (
            f"the best epoch is chosen by {self.rows} validation row{'' if self.rows == 1 else 's'}, so the choice is "
            f"noisy; {_FEW_ROWS} rows or more make it reliable"
        )

    def _value(self, metrics: dict[str, float]) -> float:
        """Return the number by which epochs are compared; higher is better."""
        return metrics["elbo"] if self.imputation is None else -metrics["imputation_error"]
