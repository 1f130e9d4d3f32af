"""A trained model, what it can be asked, and how it is kept: its files, and its sampler of z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.evaluation.questions import allows
from modalkit.inference import conditions, predicting
from modalkit.inference.sampler import LatentSampler
from modalkit.inference.sampler_fit import STEPS, fit_sampler
from modalkit.inference.sampler_rows import sampler_rows
from modalkit.inference.saving import packed, save, save_with_weights, unpacked
from modalkit.inference.subsets import usable
from modalkit.inference.values import Given
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.recipe.loading import Recipe
from modalkit.recipe.trust import data_path
from modalkit.runs.metrics import read_history
from modalkit.util.text import listed


class FittedModel:
    """A trained model as it is kept; `TrainedModel` is one that answers questions, and describes the arguments."""

    def __init__(
        self,
        model: MultimodalVAE,
        recipe: Recipe,
        path: Path,
        weights: str,
        *,
        trusted: bool = False,
        sampler: LatentSampler | None = None,
    ) -> None:
        self.model, self.recipe, self.path, self.weights, self.trusted = model, recipe, path, weights, trusted
        self.sampler = sampler
        self.modalities: tuple[str, ...] = model.names
        self.schemas: dict[str, Schema] = model.schemas
        self.covariates: dict[str, Schema] = model.covariate_schemas
        self.latent_dim, self.shared_dim = model.latent_dim, model.shared_dim

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch of the training, in order; none of an exported model.

        Each has ``epoch``, ``step``, and by ``split/name`` the metrics of the validation, such as ``valid/elbo``, and
        of the last report about training, such as ``train/elbo``. Epoch 0 is the start, if that was validated.
        """
        return read_history(self.path)

    @property
    def predictable(self) -> tuple[str, ...]:
        """The modalities that the model can predict: all but the condition of a conditional model."""
        return tuple(name for name in self.modalities if name in self.model.decoders)

    @cached_property
    def measures(self) -> dict[str, str]:
        """What says how certain a prediction is, ``scale`` or ``probability``, for each predictable modality."""
        return predicting.measures(self.model)

    def dataset_path(self, instead: str = "") -> Path | str:
        """Return where the dataset is that the model was trained on.

        Args:
            instead: how the user can name a dataset, for the message.

        Raises:
            InputError: it is at a URL, and the model was loaded without ``trust=True``.
        """
        return data_path(self.recipe, trusted=self.trusted, instead=instead)

    def allows(self, given: Sequence[str]) -> bool:
        """Tell whether the model has a posterior given exactly these modalities; given none, it is the prior."""
        conditions.check_modalities(given, self.model)
        return allows(self.model, given)

    def usable(self, present: Tensor) -> Tensor:
        """Return the subset of each row's modalities that the model has a posterior of, bool `(rows, modalities)`.

        All modalities of a row if the model allows that; otherwise the first one that it allows alone; otherwise none.
        """
        return usable(self.model, present)

    def fit_sampler(
        self,
        data: Dataset | Given | None = None,
        *,
        split: Sequence[str] | Mapping[str, float] | None = None,
        steps: int = STEPS,
        seed: int = 0,
    ) -> None:
        """Fit a sampler of z, for samples that look like data; the model itself does not change.

        Afterwards `sample`, the samples of `infer`, and `impute` with ``sample=True`` come from it. If the model is
        that of a run or of an exported folder, the sampler is also written there, as `modalkit fit-sampler` does. Any
        other model keeps it; `save` and pickle include it.

        Args:
            data: the rows that the model was trained on: a `modalkit.Dataset`, the path of one, or the rows as `infer`
                takes them. None: the dataset that the recipe names.
            split: of rows that are not a dataset; see `modalkit.train`, which by default splits as many rows alike.
            steps: the most steps, from 1; validation rows may end it earlier.
            seed: seed of everything random. The same rows and seed give the same bits.

        Raises:
            InputError: the data do not have the model's modalities, or no row has a posterior to learn from.
            RunError: the loss is no number, or the folder cannot be written.
        """
        if data is None:
            data = self.dataset_path("fit_sampler(data)")
            if isinstance(data, Path) and not data.exists():
                raise InputError(
                    f"the rows that this model was trained on are not at {data}; give them: fit_sampler(data)"
                )
        dataset = sampler_rows(self.model, data, split)
        found = fit_sampler(self.model, self.recipe, self.weights, dataset, steps=steps, seed=seed)
        self.sampler = found.to(self.model.device)
        save_with_weights(self.path, found, self.weights)

    def save(self, folder: Path | str) -> None:
        """Write the model into a new folder, from which `modalkit.load` loads it.

        Args:
            folder: does not exist, or is empty.

        Raises:
            InputError: the folder is not empty.
            RunError: the disk cannot be written.
        """
        save(self.model, self.recipe, Path(folder), self.sampler)

    def __repr__(self) -> str:
        objective, size = self.recipe.objective.name, self.latent_dim
        return f"<{type(self).__name__}: {listed(self.modalities)}; {objective}, {size} latent dimensions>"

    def __getstate__(self) -> dict[str, Any]:
        about = {"path": self.path, "weights": self.weights, "history": self.history, "sampler": self.sampler}
        return packed(self.model, self.recipe) | about

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*unpacked(state), state["path"], state["weights"])  # type: ignore[misc]
        self.__dict__["history"], self.sampler = state["history"], state.get("sampler")
