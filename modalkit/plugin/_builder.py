"""A dataset builder, and what it is given to fill in the gaps of what it read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from modalkit.plugin._schema import Schema, Settings

if TYPE_CHECKING:
    from torch import Tensor

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Filled:
    """One modality of a dataset whose gaps a model has filled; rows are those of the dataset, in its order.

    Attributes:
        schema: the modality's.
        values: as they are stored, `(rows, *event_shape)`.
        present: which rows have it now, bool `(rows,)`.
        uncertainty: of the numbers that were filled, `(rows, *event_shape)`, NaN elsewhere: standard deviations in the
            unit of `values`, or the probability of what was filled where that is a class, a bit or a text.
    """

    schema: Schema
    values: Tensor
    present: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class Builder(Generic[SettingsT]):
    """A dataset builder: turns raw files into something on disk that a recipe trains on.

    Attributes:
        name: the name of its `modalkit build-dataset` command.
        summary: one line for `modalkit list builders`.
        options: settings; each field becomes a command-line option, its description the help.
        build: `(options, out)` does the work. It may be killed at any time: run again with the same options
            it resumes, and it ends with the same bytes. It returns one line to print.
        argument: the option that the command line takes without its name, such as ``"file"``. Optional.
        fill: `(dataset's folder, by modality what was filled, file)` writes a dataset's rows without gaps in the layout
            of what the dataset was built from, a table, and returns the files that it wrote. Optional.
        require: raises an `InputError` if this machine lacks something that the builder needs beside its packages, such
            as a model's file; `modalkit doctor` calls it. Optional.
        propose: `(cells of each column of a table in memory, as texts, "" where empty) ->` what the columns are, as the
            options' YAML has it, and for each column that is left out the reason. Optional.
    """

    name: str
    summary: str
    options: type[SettingsT]
    build: Callable[[SettingsT, Path], str]
    argument: str | None = None
    fill: Callable[[Path, Mapping[str, Filled], Path], list[Path]] | None = None
    require: Callable[[], object] | None = None
    propose: Callable[[Mapping[str, Sequence[str]]], tuple[Mapping[str, Any], Mapping[str, str]]] | None = None
