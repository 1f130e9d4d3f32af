"""A fitted model as bytes: training it, opening it, and asking it about rows."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modalkit.errors import InputError
from modalkit.sklearn._columns import Column, Group
from modalkit.sklearn._tables import Cells, TableError

if TYPE_CHECKING:
    from modalkit.data import Batch
    from modalkit.inference import TrainedModel
    from modalkit.model.prediction import Prediction
    from modalkit.plugin import Schema
    from modalkit.recipe.loading import Recipe

_RECIPE, _WEIGHTS = "recipe.yaml", "model.safetensors"
_LEAST_SPLIT, _VALID, _MOST_VALID = 30, 0.15, 2000
"""With fewer rows all are trained on; of more, this share chooses the best epoch, but no more than so many rows."""
_MOST_REFIT = 10_000
_STEPS, _STEPS_FROM_START = 1000, 300
"""Most gradient steps by default, roughly, without and with a start from a factor analysis."""
_ROWS_AN_EPOCH, _MOST_EPOCHS = 25, 30
"""A start from a factor analysis is trained one epoch for so many rows: with few rows, it is hardly improved."""
_DRAWS = 32


@dataclass(frozen=True)
class Encoded:
    """Columns as a model's modalities.

    Attributes:
        values: by modality the stored samples, `(rows, *event_shape)`, zeros where absent.
        present: bool `(rows, modalities)`.
    """

    values: dict[str, npt.NDArray[Any]]
    present: npt.NDArray[np.bool_]

    def rows(self, which: npt.NDArray[Any]) -> Encoded:
        """Return some of the rows."""
        return Encoded({name: value[which] for name, value in self.values.items()}, self.present[which])

    def ordered(self, names: Sequence[str]) -> Encoded:
        """Return the modalities in another order."""
        places = [list(self.values).index(name) for name in names]
        return Encoded({name: self.values[name] for name in names}, self.present[:, places])

    def batch(self) -> Batch:
        """Return the rows as a dataset returns them."""
        import torch

        from modalkit.data import Batch

        return Batch({n: torch.from_numpy(v) for n, v in self.values.items()}, torch.from_numpy(self.present))


def schemas_of(groups: Sequence[Group]) -> dict[str, Schema]:
    """Return the schema of each modality.

    Raises:
        TableError: a field does not fit the kind.
    """
    from modalkit import registry

    try:
        return {group.modality: registry.schema(group.kind, **group.fields) for group in groups}
    except InputError as error:
        raise TableError(f"modalities: {error}") from None


def encoded(
    groups: Sequence[Group], columns: Sequence[Column], cells: Sequence[Cells], *, unknown_is_missing: bool
) -> Encoded:
    """Return the modalities of a table's rows; one of several columns is present if all of its cells are known.

    Raises:
        TableError: a cell does not fit its column or its kind.
    """
    import torch

    values, present = dict[str, npt.NDArray[Any]](), list[npt.NDArray[np.bool_]]()
    for (name, schema), group in zip(schemas_of(groups).items(), groups, strict=True):
        pairs = [columns[place].encode(cells[place], unknown_is_missing=unknown_is_missing) for place in group.columns]
        there = np.asarray(np.stack([known for _, known in pairs], 1).all(axis=1))
        numbers = np.stack([np.where(there, value, 0) for value, _ in pairs], 1)  # (rows, columns)
        stored = numbers.astype(schema.dtype)
        if not np.issubdtype(stored.dtype, np.floating) and (wrong := (stored != numbers).any(1)).any():
            there = _refuse(group, columns, cells, wrong)
        stored = stored.reshape(len(stored), *schema.event_shape)  # (rows, 1) -> (rows,) of single values
        if (wrong := there & ~schema.valid(torch.from_numpy(stored)).numpy()).any():
            _refuse(group, columns, cells, wrong)
        values[name] = stored
        present.append(there)
    return Encoded(values, np.stack(present, 1) if present else np.zeros((len(cells[0].values), 0), bool))


def _refuse(group: Group, columns: Sequence[Column], cells: Sequence[Cells], wrong: npt.NDArray[np.bool_]) -> Any:
    row = int(wrong.argmax())
    held = {columns[place].label: cells[place].values[row] for place in group.columns}
    said = ", ".join(f"{value} in column '{label}'" for label, value in held.items())
    raise TableError(f"row {row}: the kind {group.kind} cannot hold {said}; give the modality another kind")


@dataclass
class Trained:
    """A trained model as bytes, opened when it is asked; it needs no file.

    Attributes:
        files: the content of the files that `modalkit.load` needs, by name.
    """

    files: dict[str, bytes]

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.files = state["files"]

    @property
    def model(self) -> TrainedModel:
        """The model, which computes in double precision, so that rows do not depend on the rows beside them."""
        opened: TrainedModel | None = self.__dict__.get("_opened")
        if opened is None:
            import torch

            import modalkit
            from modalkit.api.training import IN_MEMORY

            with tempfile.TemporaryDirectory(prefix="modalkit-") as folder:
                for name, content in self.files.items():
                    (Path(folder) / name).write_bytes(content)
                opened = modalkit.load(folder)
            opened.path = IN_MEMORY
            opened.model.to(torch.float64)
            self.__dict__["_opened"] = opened
        return opened

    def predict(
        self,
        rows: Encoded,
        want: Sequence[str],
        *,
        targets: npt.NDArray[np.bool_] | None = None,
        sample: int | None = None,
    ) -> Mapping[str, Prediction]:
        """Predict modalities from what each row has.

        Args:
            rows: the rows.
            want: the modalities to predict.
            targets: bool `(rows, modalities)`, which to predict; all rows by default.
            sample: the seed of one sample of each; None: means over z, with the same noise for every row.
        """
        import torch

        from modalkit.inference.predicting import infer

        model, batch = self.model, self._batch(rows)
        order = [list(rows.values).index(name) for name in model.modalities]
        wanted = None if targets is None else torch.from_numpy(targets[:, order])
        if sample is not None:
            return infer(model.model, batch, want, draws=1, samples=1, noise=True, seed=sample, targets=wanted)
        draws = max(_DRAWS, 2 * model.latent_dim)
        return infer(model.model, batch, want, draws=draws, targets=wanted, alike=True)

    def embed(self, rows: Encoded) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return means and standard deviations of the posteriors of rows, `(rows, latent_dim)`."""
        found = self.model.embed(self._batch(rows))
        return found.loc.double().numpy(), found.scale.double().numpy()

    def _batch(self, rows: Encoded) -> Batch:
        """Return rows as the model takes them: what it can use of the modalities, and covariates apart."""
        model = self.model
        batch = rows.ordered(model.modalities).batch()
        covariates = rows.ordered(list(model.covariates)).batch() if model.covariates else None
        return replace(batch, present=model.usable(batch.present), covariates=covariates)


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        recipe: as `modalkit.train` takes it; None: one is drafted.
        settings: values of the recipe to replace.
        epochs: at most so many; None: by the number of rows.
        latent_dim: size of z; None: as the recipe says.
        seed: of everything random.
        verbose: 0: no progress bars, and no messages but errors.
    """

    recipe: Any
    settings: Mapping[str, Any] | None
    epochs: int | None
    latent_dim: int | None
    seed: int
    verbose: int

    def fit(self, groups: Sequence[Group], rows: Encoded) -> Trained:
        """Train a model of rows, of which those that have nothing are left out.

        Raises:
            InputError: the recipe does not fit the columns.
        """
        import modalkit
        from modalkit.runs.folder import RunFolder

        explained = [place for place, group in enumerate(groups) if not group.covariate]
        rows = rows.rows(np.flatnonzero(rows.present[:, explained].any(axis=1)))
        with tempfile.TemporaryDirectory(prefix="modalkit-") as folder, _quiet(not self.verbose):
            data, run = Path(folder) / "data", Path(folder) / "training"
            present = {group.modality: rows.present[:, place] for place, group in enumerate(groups)}
            modalkit.write_dataset(
                data,
                schemas_of(groups),
                rows.values,
                present=present,
                split=_split(len(rows.present), self.seed),
                shard_rows=10_000,
                standardize=False,
            )
            recipe = self._given(groups)
            if recipe is None:
                recipe = self._drafted(data, len(rows.present), [g.modality for g in groups if g.covariate])
            model = modalkit.train(
                recipe,
                data,
                run,
                epochs=self.epochs,
                seed=self.seed,
                set=self._changes() | {"train.loggers": []},
                progress=bool(self.verbose),
            )
            return Trained({_RECIPE: _without_paths(model.recipe), _WEIGHTS: RunFolder(run).weights.read_bytes()})

    def _given(self, groups: Sequence[Group]) -> Recipe | None:
        """Return the user's recipe, if there is one and its modalities and covariates are those of the table."""
        from modalkit.api.recipes import read_recipe

        if self.recipe is None:
            return None
        recipe, names = read_recipe(self.recipe, [], has_data=True), [group.modality for group in groups]
        if set(recipe.modalities) != set(names):
            raise TableError(
                f"recipe: lists the modalities {', '.join(recipe.modalities)}; the columns make {', '.join(names)}"
            )
        for group in groups:
            if group.covariate != (group.modality in recipe.covariates):
                lacking = "the recipe does not say so" if group.covariate else "`covariates` does not name its columns"
                raise TableError(f"recipe: '{group.modality}': is a covariate, but {lacking}; say it in both places")
        return recipe

    def _changes(self) -> dict[str, Any]:
        changes = dict(self.settings or {})
        if self.latent_dim is not None:
            changes["model.latent_dim"] = self.latent_dim
        return changes

    def _drafted(self, data: Path, rows: int, covariates: Sequence[str]) -> Recipe:
        """Return the recipe that `modalkit init` drafts, with fewer steps: estimators are fitted many times."""
        from modalkit.api.sources import drafted

        recipe = drafted(data, [], covariates)
        start, train = recipe.model.start != "random", recipe.train
        size = min(rows, max(train.batch_size, 50))
        steps = _STEPS_FROM_START if start else _STEPS
        few = max(3, rows // _ROWS_AN_EPOCH) if start else _MOST_EPOCHS
        epochs = min(few, _MOST_EPOCHS, max(10, steps // -(-rows // size)))
        refit = start and train.choose == "imputation" and rows <= _MOST_REFIT
        update = {"batch_size": size, "epochs": epochs, "refit": refit, "pictures_every": 0, "checkpoint_every": 10**9}
        if train.patience is not None:
            update["patience"] = max(3, epochs // 3)
        return recipe.model_copy(update={"train": train.model_copy(update=update)})


def _split(rows: int, seed: int) -> list[str]:
    """Return train or valid for each row."""
    valid = min(round(_VALID * rows), _MOST_VALID) if rows >= _LEAST_SPLIT else 0
    split = ["valid"] * valid + ["train"] * (rows - valid)
    order = np.random.default_rng(seed).permutation(rows)
    return [split[place] for place in order]


def _without_paths(recipe: Recipe) -> bytes:
    """Return a recipe as YAML that does not name the folder of its data, which is gone."""
    data = recipe.data.model_copy(update={"path": "data-given-in-Python", "build": ()})
    return recipe.model_copy(update={"data": data}).to_yaml().encode()


_lock, _depth, _before = threading.Lock(), 0, logging.NOTSET


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Let only errors of modalkit be logged inside a ``with`` block; blocks of several threads may overlap."""
    global _depth, _before
    log = logging.getLogger("modalkit")
    if quiet:
        with _lock:
            if not _depth:
                _before = log.level
                log.setLevel(logging.ERROR)
            _depth += 1
    try:
        yield
    finally:
        if quiet:
            with _lock:
                _depth -= 1
                if not _depth:
                    log.setLevel(_before)
