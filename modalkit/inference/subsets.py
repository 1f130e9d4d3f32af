"""Which modalities a model can be given, and which it can predict."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modalkit.errors import InputError
from modalkit.evaluation.questions import allows
from modalkit.inference.conditions import check_modalities
from modalkit.model.vae import MultimodalVAE


def usable(model: MultimodalVAE, present: Tensor) -> Tensor:
    """Return the subset of each row's modalities that the model has a posterior of.

    All modalities of a row if the model allows that; otherwise the first one that it allows alone; otherwise none.

    Args:
        model: the model.
        present: bool `(rows, modalities)`.

    Returns:
        bool `(rows, modalities)`.
    """
    given, open_ = present & model.allows(present)[:, None], ~model.allows(present)
    for column in range(present.shape[1]):
        alone = present.new_zeros(present.shape)
        alone[:, column] = present[:, column]
        take = open_ & present[:, column] & model.allows(alone)
        given[take], open_ = alone[take], open_ & ~take
    return given


def check_want(model: MultimodalVAE, want: Sequence[str]) -> None:
    """Raise `InputError` unless `want` is a list of modalities that the model can predict."""
    if isinstance(want, str):
        raise InputError(f"want: give a list of modalities, such as ['{want}'], not a text")
    check_modalities(want, model)
    if conditions := [name for name in want if name not in model.decoders]:
        raise InputError(f"{', '.join(conditions)}: this run's objective does not model it, only conditions on it")
    if not want:
        raise InputError("everything is given, so there is nothing to predict; use want to predict it all the same")


def check_given(model: MultimodalVAE, present: Tensor, objective: str) -> None:
    """Raise `InputError` unless the model has a posterior of what each row has.

    Args:
        model: the model.
        present: bool `(rows, modalities)`.
        objective: name of the objective that the model was trained with.
    """
    wrong = (~model.allows(present)).nonzero().squeeze(1)
    if not len(wrong):
        return
    row, names = int(wrong[0]), model.names
    given = ", ".join(n for n, there in zip(names, present[row], strict=True) if there) or "nothing"
    can = [n for n in names if allows(model, [n])] + (["all together"] if allows(model, names) else [])
    at = f"row {row}: " if len(present) > 1 else ""
    raise InputError(
        f"{at}this run's objective ({objective}) trains no posterior given {given}; it has those given one of: "
        f"{', '.join(can)}"
    )
