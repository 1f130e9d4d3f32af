"""Whether a dataset's values suit the modalities of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from modalkit.data.reading import Dataset
from modalkit.errors import InputError, guard
from modalkit.plugin import Schema

_AT_ONCE = 4096
_SHOWN = 8


def require_valid(dataset: Dataset, schemas: Mapping[str, Schema]) -> None:
    """Check that kinds can hold the values of their modalities.

    A recipe may name another kind than the dataset does, such as `positive` for the numbers of a `vector`. Values of
    the same kind were checked when the dataset was written, so that wrong ones are damage.

    Args:
        dataset: has these modalities.
        schemas: the recipe's modalities.

    Raises:
        InputError: a present value is not valid; the message names the modality, the row and the value.
    """
    for name, schema in schemas.items():
        written = dataset.manifest.modalities[name].facts["kind"]
        if type(schema).valid is Schema.valid and schema.dtype != "float32":  # such as pictures: any bytes are valid
            continue
        count, first = 0, ""
        for rows, stored in present_parts(dataset, name, torch.arange(len(dataset))):
            with guard(f"modality '{name}' (kind '{schema.kind}'): its valid"):
                wrong = (~schema.valid(stored)).nonzero().squeeze(1)
            if len(wrong) and not count:
                first = f"row '{dataset.key(int(rows[wrong[0]]))}' has {shown(stored[wrong[0]])}"
            count += len(wrong)
        if count:
            what = (
                "The dataset is damaged; build it again, or mark these values absent"
                if written == schema.kind
                else f"Name another kind (the dataset was written for '{written}'), or mark these values absent"
            )
            raise InputError(
                f"{dataset.path}: modality '{name}': kind '{schema.kind}' cannot hold the values of {count} "
                f"row{'' if count == 1 else 's'}: {first}{'' if count == 1 else ', for example'}. {what}"
            )


def shown(value: Tensor) -> str:
    """Return the first numbers of a sample as text."""
    numbers = [f"{number:g}" for number in value.flatten()[:_SHOWN].tolist()]
    return " ".join([*numbers, "…"] if value.numel() > _SHOWN else numbers)


def constant(dataset: Dataset, rows: Tensor) -> list[str]:
    """Return the modalities of which all rows that have them hold the same value.

    Args:
        dataset: the dataset.
        rows: int64 `(rows,)`, such as the training rows.
    """
    return [name for name in dataset.names if _is_constant(dataset, name, rows)]


def _is_constant(dataset: Dataset, name: str, rows: Tensor) -> bool:
    first = None
    for _, stored in present_parts(dataset, name, rows):
        first = stored[:1] if first is None else first
        if bool((stored != first).any()):
            return False
    return first is not None


def present_parts(dataset: Dataset, name: str, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield those of the rows that have a modality, and its stored samples: a few rows first, then many at once."""
    there = rows[dataset.present[rows, dataset.names.index(name)]]
    for part in (*torch.split(there[:_SHOWN], _SHOWN), *torch.split(there[_SHOWN:], _AT_ONCE)):
        if len(part):
            yield part, dataset.values(name, part)
