"""Covariates: conditions of a row, such as the site of a measurement, that encoders and decoders see."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from modalkit import registry
from modalkit.data import Batch, Dataset
from modalkit.data.reading import evenly
from modalkit.errors import guard
from modalkit.model.networks import ModalityNetworks
from modalkit.plugin import Schema

EXAMPLES = 256
"""How many training rows' covariates a model keeps, for samples of rows whose covariates are not given."""
_MOST_ROWS = 20_000
_WIDTH = 64


class Covariates(nn.Module):
    r"""Turns the covariates of rows into the condition c that networks see.

    A covariate has its kind's columns, such as one for each class, and a last one that tells whether it is absent. The
    columns are centred on the mean of the training rows, and those of numbers are divided by its standard deviation.
    An absent covariate has zeros there: it counts as an average one. The last column is 1 then, so that rows without a
    covariate can be learned apart. It stays 0 if no training row lacks the covariate, because nothing was learned.

    Args:
        schemas: the covariates by name.

    Attributes:
        width: size of c.
        loc: what is subtracted from the columns, `(columns,)`.
        scale: what the rest is divided by, `(columns,)`.
        lacking: 1 if any training row lacks the covariate, otherwise 0, `(covariates,)`.
        examples: stored values of training rows, side by side, and which are present, `(EXAMPLES, numbers)`.

    Raises:
        InputError: a kind has no columns.
    """

    loc: Tensor
    scale: Tensor
    lacking: Tensor
    examples: Tensor

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        super().__init__()
        self.schemas = dict(schemas)
        self.widths = [columns_of(name, schema, schema.zeros(1)).shape[1] for name, schema in schemas.items()]
        self.width = sum(self.widths) + len(schemas)
        self.sizes = [prod(schema.event_shape) for schema in schemas.values()]
        self.register_buffer("loc", torch.zeros(sum(self.widths)))
        self.register_buffer("scale", torch.ones(sum(self.widths)))
        self.register_buffer("lacking", torch.zeros(len(schemas)))
        self.register_buffer("examples", torch.zeros(EXAMPLES, sum(self.sizes) + len(schemas)))

    def forward(self, batch: Batch) -> Tensor:
        """Return the condition of rows, `(rows, width)`.

        Args:
            batch: the covariates alone, with values on the device of this module.
        """
        present = batch.present.to(self.loc.device, self.loc.dtype)  # (rows, covariates)
        there = present.repeat_interleave(torch.tensor(self.widths, device=present.device), 1)
        columns = torch.cat([columns_of(n, s, batch.values[n]) for n, s in self.schemas.items()], 1)
        known = (columns.to(self.loc) - self.loc) / self.scale
        # What stands for an absent value may be no value at all.
        return torch.cat([torch.where(there > 0, known, 0), (1 - present) * self.lacking], 1)

    @torch.no_grad()
    def fit(self, dataset: Dataset, rows: Tensor) -> None:
        """Take means, standard deviations and examples from training rows, before training.

        Args:
            dataset: has the covariates; at most 20,000 of the rows are used, evenly spread.
            rows: the training rows, int64 `(rows,)`.
        """
        assert dataset.covariates is not None
        rows = evenly(rows, _MOST_ROWS)
        batch = dataset.covariates[rows]
        self.lacking.copy_((~dataset.covariates.present[rows]).any(0))
        first = 0
        for column, ((name, schema), width) in enumerate(zip(self.schemas.items(), self.widths, strict=True)):
            part = slice(first, first + width)
            first += width
            known = columns_of(name, schema, batch.values[name])[batch.present[:, column]].double()
            if not len(known):
                continue
            self.loc[part] = known.mean(0).to(self.loc)
            if not registry.modality(schema.kind).outcome.has_classes:
                spread = known.std(0, correction=0)
                self.scale[part] = torch.where(spread > 0, spread, 1).to(self.scale)
        chosen = dataset.covariates[rows[torch.linspace(0, len(rows) - 1, EXAMPLES).long()]]
        # (rows, *event_shape) -> (rows, numbers)
        stored = [chosen.values[name].reshape(EXAMPLES, -1) for name in self.schemas]
        self.examples.copy_(torch.cat([*stored, chosen.present], 1))

    def sample(self, rows: int, generator: torch.Generator) -> Batch:
        """Return the covariates of training rows, chosen at random.

        Args:
            rows: how many.
            generator: of the CPU.
        """
        chosen = self.examples.cpu()[torch.randint(EXAMPLES, (rows,), generator=generator)]
        *numbers, present = torch.split(chosen, [*self.sizes, len(self.sizes)], 1)
        values = {}
        for (name, schema), stored in zip(self.schemas.items(), numbers, strict=True):
            # (rows, numbers) -> (rows, *event_shape)
            values[name] = stored.reshape(rows, *schema.event_shape).to(getattr(torch, schema.dtype))
        return Batch(values, present > 0)

    def nothing(self, rows: int) -> Batch:
        """Return rows without any covariate."""
        values = {name: schema.zeros(1).expand(rows, *schema.event_shape) for name, schema in self.schemas.items()}
        return Batch(values, torch.zeros(rows, len(values), dtype=torch.bool))


def columns_of(name: str, schema: Schema, stored: Tensor) -> Tensor:
    """Return stored samples of a covariate, `(rows, *event_shape)`, as its kind's columns, `(rows, width)`.

    Raises:
        InputError: the kind has none.
    """
    with guard(f"covariate '{name}' (kind '{schema.kind}'): its columns"):
        return schema.columns(schema.unpack(stored))


class ConditionedHead(nn.Module):
    """A head that sees the features of a row and its condition: a linear layer, plus a small network of both.

    The linear layer can take back what a condition adds to the features, and the network also what it multiplies.

    Args:
        head: the linear layer, `(rows, features) -> (rows, outputs)`.
        width: size of the condition.
    """

    def __init__(self, head: nn.Linear, width: int) -> None:
        super().__init__()
        self.head = head
        self.shift = nn.Linear(width, head.out_features, bias=False)
        self.both = nn.Sequential(
            nn.Linear(head.in_features + width, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, head.out_features)
        )

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return the outputs of the head, `(rows, outputs)`."""
        output: Tensor = self.head(features) + self.shift(condition) + self.both(torch.cat([features, condition], 1))
        return output


class ConditionedExpert(nn.Module):
    """An encoder and its `ConditionedHead` as one network.

    Args:
        encoder: `(rows, *event_shape) -> (rows, features)`.
        head: a `ConditionedHead`.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, value: Tensor, condition: Tensor) -> Tensor:
        """Return the outputs of the head, `(rows, outputs)`."""
        output: Tensor = self.head(self.encoder(value), condition)
        return output


def condition_on(networks: ModalityNetworks, schemas: Mapping[str, Schema]) -> None:
    """Show covariates to every head and every decoder; decoders are built anew for that.

    Args:
        networks: of which each head is a linear layer.
        schemas: the covariates by name.

    Raises:
        InputError: a plugin raised, or a kind has no columns.
    """
    networks.covariates = Covariates(schemas)
    for name, head in list(networks.heads.items()):
        assert isinstance(head, nn.Linear)
        networks.heads[name] = ConditionedHead(head, networks.covariates.width)
    for name in list(networks.decoders):
        networks.decoders[name] = networks.make_decoder(name, networks.latent_dim + networks.covariates.width)
    networks.to(memory_format=torch.channels_last)
