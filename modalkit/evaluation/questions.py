"""Questions of the form log p(targets | given), and on which rows of a run they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.errors import InputError, did_you_mean
from modalkit.model.vae import MultimodalVAE

_MOST_USUAL = 6  # modalities; with more, the usual questions ask for the joint alone
Names = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    r"""What is log p(targets | given), with the posterior of `proposal` as importance distribution?

    By :math:`\log p(T|G) = \log p(T, G) - \log p(G)` (Wu & Goodman 2018, equation 7, for any sets): the first is
    estimated with q(z|proposal), the second with q(z|G) or with the prior.
    """

    targets: Names
    given: Names = ()
    proposal: Names = ()

    def __str__(self) -> str:
        behind = f" | {', '.join(self.given)}" if self.given else ""
        return f"log p({', '.join(self.targets)}{behind})"


@dataclass(frozen=True)
class Asking:
    """On which rows questions are asked, and how many samples answer them.

    Attributes:
        split: the split of the rows.
        rows: how many rows at most, the first of the split; None for all.
        particles: samples of z a row where a posterior proposes them.
        prior_particles: samples of the prior that estimate log p(given); None: q(z|given) proposes, with `particles`.
        seed: of the samples.
    """

    split: str = "test"
    rows: int | None = None
    particles: int = 1000
    prior_particles: int | None = None
    seed: int = 0

    def rows_of(self, dataset: Dataset) -> Tensor:
        """Return the rows of a dataset, int64 `(rows,)`."""
        return dataset.rows(self.split)[: self.rows]


def parse(model: MultimodalVAE, targets: str | None, given: str | None, proposal: str | None) -> list[Question]:
    """Return the question that three lists of names, separated by commas, ask; without targets the usual ones.

    Raises:
        InputError: there are no targets but something is given, or the question cannot be answered.
    """
    if not split_names(targets):
        if given or proposal:
            raise InputError("--given and --proposal need --targets: the modalities to predict")
        return usual_questions(model)
    return [check(model, Question(split_names(targets), split_names(given), split_names(proposal)))]


def split_names(text: str | None) -> Names:
    """Return names that are separated by commas.

    >>> split_names("image, label,"), split_names(None)
    (('image', 'label'), ())
    """
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def check(model: MultimodalVAE, question: Question) -> Question:
    """Return a question with names in the model's order and with a proposal.

    By default, the proposal is the posterior given all that the question names, or given its targets, or given what it
    gives: the first that the model has.

    Raises:
        InputError: a modality is unknown, or this model cannot answer the question.
    """
    names = model.names
    for name in (*question.targets, *question.given, *question.proposal):
        if name in model.covariate_schemas:
            raise InputError(f"'{name}' is a covariate: every question is asked given it, so leave it out")
        if name not in names:
            raise InputError(f"no modality '{name}'{did_you_mean(name, names)}; this run has {', '.join(names)}")
    if not question.targets:
        raise InputError("name at least one target")
    if both := set(question.targets) & set(question.given):
        raise InputError(f"{', '.join(sorted(both))}: cannot be both given and a target")
    if missing := [name for name in question.targets if name not in model.decoders]:
        raise InputError(f"{', '.join(missing)}: this run's objective does not model it, only conditions on it")
    everything = (*question.given, *question.targets)
    first = [question.proposal] if question.proposal else [everything, question.targets, question.given]
    allowed = [proposal for proposal in first if proposal and allows(model, proposal)]
    conditions = [name for name in names if name not in model.decoders and name not in everything]
    if conditions or not allowed:
        of = ", ".join(question.proposal or everything)
        what = f"it must be given {', '.join(conditions)}" if conditions else f"there is no posterior of {of}"
        raise InputError(f"{question}: this run's objective cannot answer it: {what}")
    parts = (question.targets, question.given, allowed[0])
    return Question(*(tuple(n for n in names if n in part) for part in parts))


def allows(model: MultimodalVAE, names: Sequence[str]) -> bool:
    """Return whether a model has a posterior given these modalities."""
    return bool(model.allows(torch.tensor([[name in names for name in model.names]]))[0])


def usual_questions(model: MultimodalVAE) -> list[Question]:
    """Return the joint, each modality alone, and each given all others; of more than 6 modalities only the joint."""
    names = tuple(n for n in model.names if n in model.decoders)
    conditions = tuple(n for n in model.names if n not in model.decoders)
    found = [Question(names, conditions)] if allows(model, model.names) else []
    if len(names) > 1 and len(names) <= _MOST_USUAL:
        found += [Question((n,), (), (n,)) for n in names if allows(model, (n,))]
        if allows(model, model.names):
            others = {n: tuple(o for o in names if o != n) for n in names}
            found += [Question((n,), others[n]) for n in names if allows(model, others[n])]
    return found or [Question((n,), (), (n,)) for n in names if allows(model, (n,))]
