"""Counts, such as of words or genes: Poisson or negative binomial likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, NegativeBinomial, Poisson

from modalkit.errors import InputError
from modalkit.nn import DenseNetwork, Mlp
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.nn.precise import precise, smoothly_bounded
from modalkit.plugin import Cells, Column, Columns, Modality, Outcome, Proposal, Required, Schema, Stored

from .vector import MODALITY as VECTOR
from .vector import Names, fits_columns, from_array, size_and_names

_LOG_RATE, _LOG_RATE_BOUND = 20.0, 24.0  # |log mean| stays as it is up to the first, and below the second
_LOG_COUNT, _LOG_COUNT_BOUND = 7.0, 8.0  # the same of |log total_count|: beyond, the distribution is Poisson anyway
_LARGE = 1000  # larger counts are scored in float64, because their log-probability is a difference of larger numbers

_CELLS = 20_000
"""At most this many cells of a column are looked at."""
_SLACK, _LIMIT_SLACK = 0.05, 0.02
"""Nats a cell by which a Gaussian, or a distribution with an upper limit, may predict better than counts."""
_LEAST_SCALE = 0.3
_LEAST_LOG_SCALE = 0.05
_FEW = 50
"""With fewer cells distributions cannot be compared."""
_SMALL = 5
"""Columns whose median is at least this are left to `vector`, whose mean is linear in z: see docs/results.md."""


class CountsSchema(Schema):
    """A vector of counts; its values are integers from 0."""

    size: PositiveInt = Field(description="How many counts.")
    likelihood: Literal["poisson", "negative_binomial"] = Field(
        "poisson", description="`negative_binomial` also learns how much the variance exceeds the mean."
    )
    names: Names | None = Field(None, description="Names of the counts, in order; by default as the dataset has them.")
    network: DenseNetwork = Mlp(hidden=(128, 128), decoder_hidden=(128, 128))

    dtype: ClassVar[Stored] = "int64"
    model_only: ClassVar[frozenset[str]] = Schema.model_only | {"likelihood"}
    from_dataset: ClassVar[frozenset[str]] = frozenset({"names"})

    @model_validator(mode="after")
    def _named_each(self) -> CountsSchema:
        if self.names is not None and len(self.names) != self.size:
            raise ValueError(f"'names' lists {len(self.names)} for a 'size' of {self.size}")
        return self

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the numbers, where they have names."""
        return self.names or ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The number of counts."""
        return (self.size,)

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which samples have no negative number."""
        return (stored >= 0).all(1)


class Counts(Independent):  # type: ignore[type-arg]  # not generic in every torch
    """Independent counts that come and go as int64; those above 1000 are scored in float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number a row, in the parameters' precision."""
        base = self.base_dist
        each: Tensor = base.log_prob(value.to(base.mean.dtype))
        large = value > _LARGE
        if value.device.type != "cpu" or bool(large.any()):  # other devices would have to wait for the answer
            exact: Tensor = _doubled(base).log_prob(precise(value))  # type: ignore[no-untyped-call]
            each = torch.where(large, exact.to(each.dtype), each)
        return each.sum(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw counts."""
        return super().sample(torch.Size(sample_shape)).long()

    @property
    def mode(self) -> Tensor:
        """The likeliest counts; 0 for a negative binomial with a total count of at most 1, whatever its mean."""
        return super().mode.long()


def _doubled(base: Poisson | NegativeBinomial) -> Poisson | NegativeBinomial:
    """Return the same distributions in float64."""
    if isinstance(base, Poisson):
        return Poisson(precise(base.rate), validate_args=False)
    return NegativeBinomial(precise(base.total_count), logits=precise(base.logits), validate_args=False)


class Encoder(nn.Module):
    """Dense layers over `log(1 + x)`."""

    def __init__(self, schema: CountsSchema) -> None:
        super().__init__()
        self.layers = make_encoder(schema.network, schema.event_shape)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.layers(value.to(next(self.parameters()).dtype).log1p())
        return features


def encoder(schema: CountsSchema) -> nn.Module:
    """Return the encoder that the schema's network asks for."""
    return Encoder(schema)


def decoder(schema: CountsSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: log-means `(rows, size)`, or with log-counts `(rows, 2, size)`."""
    parameters = () if schema.likelihood == "poisson" else (2,)
    return make_decoder(schema.network, latent_dim, (*parameters, schema.size))


def likelihood(schema: CountsSchema, raw: Tensor) -> Distribution:
    """Return Poissons of mean m, or negative binomials of mean m and variance `m + m²/r`."""
    if schema.likelihood == "poisson":
        rate = smoothly_bounded(raw, _LOG_RATE, _LOG_RATE_BOUND).exp()
        return Counts(Poisson(rate, validate_args=False), 1, validate_args=False)
    log_mean = smoothly_bounded(raw[:, 0], _LOG_RATE, _LOG_RATE_BOUND)
    log_count = smoothly_bounded(raw[:, 1], _LOG_COUNT, _LOG_COUNT_BOUND)
    made = NegativeBinomial(log_count.exp(), logits=log_mean - log_count, validate_args=False)
    return Counts(made, 1, validate_args=False)


def marginal(schema: CountsSchema, values: Tensor) -> Tensor:
    """Return log-means, or with log-counts, that give each column its mean and variance, half a count added."""
    value = values.to(torch.get_default_dtype())
    mean = (value.sum(0, keepdim=True) + 0.5) / (len(value) + 1)  # (1, size)
    if schema.likelihood == "poisson":
        return mean.log()
    excess = (value.var(0, keepdim=True, correction=0) - mean).clamp(min=torch.finfo(mean.dtype).tiny)
    log_count = (2 * mean.log() - excess.log()).clamp(-_LOG_COUNT, _LOG_COUNT)
    return torch.stack([mean.log(), log_count], 1)  # (1, 2, size)


def read(schema: CountsSchema, source: str) -> Tensor:
    """Read counts separated by blanks or commas.

    Raises:
        InputError: not counts, or not `size` of them.
    """
    value = VECTOR.read(schema, source)  # type: ignore[arg-type]  # it asks for nothing but a size
    if not bool(((value >= 0) & (value == value.round())).all()):
        raise InputError(f"'{source}': counts are whole numbers from 0")
    return value.long()


def _whole(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    whole: npt.NDArray[np.bool_] = np.isfinite(numbers) & (numbers >= 0) & (np.floor(numbers) == numbers)
    return whole


def _looks_like_counts(columns: Sequence[Column]) -> bool:
    """Tell whether columns hold whole numbers that begin at 0, are mostly small, and are distributed as counts are."""
    if not fits_columns(columns):
        return False
    numbers = [column.numbers[~column.empty] for column in columns]
    held = np.concatenate([*numbers, np.empty(0)])
    return 0 in held and bool(_whole(held).all() and np.median(held) < _SMALL) and _counted(numbers)


def _counted(columns: Sequence[npt.NDArray[np.float64]]) -> bool:
    """Tell whether columns of whole numbers from 0 are distributed as counts are.

    Every other cell of a column is used to fit distributions by their moments: Poisson, or negative binomial if the
    variance exceeds the mean; a Gaussian of the numbers and of `log(1 + x)`, both rounded to whole numbers; and a
    beta-binomial up to the largest number of all columns, which fits pixels, hours and ratings. They are compared by
    the log-probability of the other cells. If there are few cells, some number must be there twice.

    Args:
        columns: whole numbers from 0, `(cells,)` each.

    >>> _counted([np.random.default_rng(0).poisson(3.0, 500).astype(float)])
    True
    >>> _counted([np.arange(500.0) % 24])
    False
    """
    used = [column[:_CELLS] for column in columns if len(column) > 1 and column.max() > column.min()]
    if not used:
        return False
    if sum(map(len, used)) < _FEW:
        return any(len(np.unique(column)) < len(column) for column in used)
    if any(np.gcd.reduce(column.astype(np.int64)) > 1 and column.max() > 20 for column in used):
        return False
    limit = max(2.0, max(float(column.max()) for column in used))
    found = torch.stack([_log_probabilities(torch.from_numpy(column), limit) for column in used]).sum(0)
    as_counts, gaussian, log_gaussian, limited = map(float, found / sum(len(column) // 2 for column in used))
    return as_counts >= max(gaussian, log_gaussian) - _SLACK and as_counts >= limited - _LIMIT_SLACK


def _log_probabilities(column: Tensor, limit: float) -> Tensor:
    """Return the summed log-probability of held-out cells under each of the four distributions, `(4,)`."""
    fitted, held = column[::2], column[1::2]
    mean, variance = float(fitted.mean()) + 1e-3, float(fitted.var(correction=0)) + 1e-3
    logs = fitted.log1p()
    each = (
        _of_counts(held, mean, variance),
        _of_gaussian(held - 0.5, held + 0.5, mean, max(math.sqrt(variance), _LEAST_SCALE)),
        # The cell of 0 has no lower end: log(1 + x) of anything below 0.5 is rounded to 0.
        _of_gaussian(
            torch.where(held > 0, (held + 0.5).log(), -math.inf),
            (held + 1.5).log(),
            float(logs.mean()),
            max(float(logs.std(correction=0)), _LEAST_LOG_SCALE),
        ),
        _of_limited(held, mean, variance, limit),
    )
    return torch.stack([one.sum() for one in each])


def _of_counts(x: Tensor, mean: float, variance: float) -> Tensor:
    """Return log-probabilities under a Poisson, or under a negative binomial of a larger variance."""
    if variance <= mean * (1 + 1e-6):
        return x * math.log(mean) - mean - (x + 1).lgamma()
    count = mean**2 / (variance - mean)
    total = x.new_tensor(count)
    binomial = (x + total).lgamma() - total.lgamma() - (x + 1).lgamma()
    return binomial + count * math.log(count / (count + mean)) + x * math.log(mean / (count + mean))


def _of_gaussian(low: Tensor, high: Tensor, mean: float, scale: float) -> Tensor:
    """Return the log of a Gaussian's probability of lying between two numbers."""
    below, above = (torch.special.ndtr((end - mean) / scale) for end in (low, high))
    between: Tensor = above - below
    return between.clamp(min=1e-12).log()


def _of_limited(x: Tensor, mean: float, variance: float, limit: float) -> Tensor:
    """Return log-probabilities under a beta-binomial on 0 to `limit`."""
    share = min(mean / limit, 1 - 1e-6)
    excess = (variance / (limit * share * (1 - share)) - 1) / (limit - 1)  # 0: binomial; 1: all at the two ends
    excess = min(max(excess, 1e-6), 1 - 1e-6)
    a, b = (x.new_tensor(part * (1 - excess) / excess) for part in (share, 1 - share))
    n = x.new_tensor(limit)
    choose = (n + 1).lgamma() - (x + 1).lgamma() - (n - x + 1).lgamma()
    ends = (a + b).lgamma() - a.lgamma() - b.lgamma()
    return choose + (x + a).lgamma() + (n - x + b).lgamma() - (n + a + b).lgamma() + ends


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    fields = from_array(array) if array.dtype.kind in "iu" and array.size and array.min() >= 0 else None
    if fields is None or not _counted(list(array.reshape(len(array), -1).T.astype(np.float64))):
        return None
    return fields


MODALITY = Modality(
    kind="counts",
    summary="numbers of things; Poisson or negative binomial likelihood",
    schema=CountsSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=VECTOR.show,  # type: ignore[arg-type]
    read=read,
    outcome=Outcome.COUNT,
    marginal=marginal,
    columns=Columns(
        Cells.NUMBERS,
        several=True,
        required=Required(_whole, "not a whole number from 0 (`kind: vector` takes it)"),
        from_names=size_and_names,
    ),
    proposal=Proposal(40, columns=_looks_like_counts, array=_from_array),
)
