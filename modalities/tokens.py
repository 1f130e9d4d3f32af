"""Strings over an alphabet: recurrent networks, and a likelihood that generates until it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot, silu
from torch.nn.utils.rnn import pack_padded_sequence

from modalkit.errors import InputError
from modalkit.nn import LinearFeatures, built_in, by_name
from modalkit.plugin import CustomNetwork, Modality, Outcome, Proposal, Schema, Settings, Stored

_LONGEST = 64
"""Characters of the longest text that is proposed to be tokens."""


class Gru(Settings):
    """Gated recurrent networks: one layer in both directions to read, two layers to write."""

    type: Literal["gru"] = "gru"
    embedding: PositiveInt = Field(200, description="Width of a character's embedding.")
    hidden: PositiveInt = Field(200, description="Width of the recurrent layers.")
    linear: int = Field(
        0,
        ge=0,
        description="Linear features of the characters that the encoder gets beside those of its network; 0: none. "
        "They let the expert begin at a factor analysis.",
    )


RecurrentNetwork = Annotated[
    Gru | CustomNetwork,
    Field(discriminator="type", description="`gru`, the same with its settings, or your own."),
    BeforeValidator(by_name, json_schema_input_type=Literal["gru"] | Gru | CustomNetwork),
]


class TokensSchema(Schema):
    """A string of 0 to `max_length` characters.

    Its values are `max_length + 1` integers: each character's place in the alphabet, then `stop` to the end, so
    that there is always one. ``"17"`` of at most 4 digits is ``[1, 7, 11, 11, 11]``.
    """

    alphabet: str = Field(min_length=1, description="Every character that can occur, each once.")
    max_length: PositiveInt = Field(description="Characters in the longest string.")
    network: RecurrentNetwork = Gru()

    dtype: ClassVar[Stored] = "int64"

    @field_validator("alphabet")
    @classmethod
    def _once(cls, alphabet: str) -> str:
        twice = sorted(c for c, times in Counter(alphabet).items() if times > 1)
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} stands in it twice; if it is a number, put it in quotes")
        return alphabet

    @property
    def start(self) -> int:
        """The token that the decoder is given first, and never writes."""
        return len(self.alphabet)

    @property
    def stop(self) -> int:
        """The token that ends a string."""
        return len(self.alphabet) + 1

    @property
    def vocabulary(self) -> int:
        """Number of tokens: characters, start, stop."""
        return len(self.alphabet) + 2

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The longest string and its stop."""
        return (self.max_length + 1,)

    def columns(self, value: Tensor) -> Tensor:
        """Return one column a position and token, with a 1 in that of each position's token."""
        return one_hot(value, self.vocabulary).flatten(1).to(torch.get_default_dtype())  # (batch, n, v) -> (batch, n*v)

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which rows are characters and then stops."""
        stop = stored == self.stop
        character = (stored >= 0) & (stored < len(self.alphabet))
        return (stop | character).all(1) & (stop[:, :-1] <= stop[:, 1:]).all(1) & stop[:, -1]  # (batch, n) -> (batch,)


class Encoder(nn.Module):
    """Reads a string forwards and backwards, up to and including its first stop; what pads it is never seen.

    The features are the sum of the two directions' last states.
    """

    def __init__(self, schema: TokensSchema, network: Gru) -> None:
        super().__init__()
        self.stop = schema.stop
        self.embedding = nn.Embedding(schema.vocabulary, network.embedding)
        self.gru = nn.GRU(network.embedding, network.hidden, batch_first=True, bidirectional=True)

    def forward(self, value: Tensor) -> Tensor:
        """Return features `(rows, hidden)`."""
        lengths = _unfinished(value, self.stop).sum(1).cpu()  # packing looks at them
        packed = pack_padded_sequence(self.embedding(value), lengths, batch_first=True, enforce_sorted=False)
        last: Tensor = self.gru(packed)[1]  # (directions, rows, hidden)
        return last.sum(0)


class _Columns(nn.Module):
    """Shows an encoder of columns the tokens as one column a position and token."""

    def __init__(self, schema: TokensSchema, encoder: nn.Module) -> None:
        super().__init__()
        self.schema, self.encoder = schema, encoder

    def forward(self, value: Tensor) -> Tensor:
        """Return features `(rows, features)` of tokens `(rows, positions)`."""
        features: Tensor = self.encoder(self.schema.columns(value))
        return features


class _Tokens(nn.Module):
    """Shows an encoder of tokens which of the columns of each position is 1."""

    def __init__(self, schema: TokensSchema, encoder: nn.Module) -> None:
        super().__init__()
        self.vocabulary, self.encoder = schema.vocabulary, encoder

    def forward(self, columns: Tensor) -> Tensor:
        """Return features `(rows, features)` of columns `(rows, positions * vocabulary)`."""
        # (rows, positions * vocabulary) -> (rows, positions, vocabulary) -> (rows, positions)
        features: Tensor = self.encoder(columns.reshape(len(columns), -1, self.vocabulary).argmax(-1))
        return features


@dataclass(frozen=True)
class Writer:
    """What a decoder returns: the means of writing strings given z.

    Attributes:
        z: `(rows, latent_dim)`.
        step: `(z, previous, state) -> (logits, state)`: for the tokens that came before, `(rows, steps)`, logits of
            those that follow, `(rows, steps, vocabulary)`, and the state for the next call; the first state is None.
    """

    z: Tensor
    step: Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]


class Decoder(nn.Module):
    """Two recurrent layers that begin in a state made from z and are given z again at every step."""

    def __init__(self, schema: TokensSchema, latent_dim: int, network: Gru) -> None:
        super().__init__()
        self.embedding = nn.Embedding(schema.vocabulary, network.embedding)
        self.first_state = nn.Linear(latent_dim, network.hidden)
        self.gru = nn.GRU(network.embedding + latent_dim, network.hidden, num_layers=2, batch_first=True)
        self.output = nn.Linear(network.hidden + latent_dim, schema.vocabulary)

    def forward(self, z: Tensor) -> Writer:
        """Return the means of writing one string a row."""
        return Writer(z, self.step)

    def step(self, z: Tensor, previous: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write on; see `Writer`."""
        if state is None:
            state = self.first_state(z).repeat(2, 1, 1)  # (rows, hidden) -> (layers, rows, hidden)
        repeated = z.unsqueeze(1).expand(-1, previous.shape[1], -1)  # (rows, steps, latent_dim)
        hidden, state = self.gru(torch.cat([silu(self.embedding(previous)), repeated], -1), state)
        return self.output(torch.cat([hidden, repeated], -1)), state


class Strings(Distribution):
    """Autoregressive strings: `log p(x|z) = sum_t log p(x_t | x_1 … x_{t-1}, z)` up to the first stop.

    The start token has no probability, and the stop after `max_length` characters is certain; so the
    probabilities of all strings add up to 1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, schema: TokensSchema, writer: Writer) -> None:
        self.schema, self.writer = schema, writer
        super().__init__(writer.z.shape[:-1], torch.Size(schema.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number a row; every position is scored in one call, given the true characters before it."""
        rows = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        z = self.writer.z.expand(*rows, -1).flatten(0, -2)  # (..., latent_dim) -> (n, latent_dim)
        tokens = value.expand(*rows, -1).flatten(0, -2)[:, :-1]  # (..., max_length + 1) -> (n, max_length)
        start = torch.full_like(tokens[:, :1], self.schema.start)
        logits, _ = self.writer.step(z, torch.cat([start, tokens[:, :-1]], 1), None)
        log_p = self._allowed(logits).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (n, max_length)
        return log_p.masked_fill(~_unfinished(tokens, self.schema.stop), 0).sum(1).reshape(rows)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Write strings, each character drawn."""
        return self._write(torch.Size(sample_shape), _draw)

    @property
    def mode(self) -> Tensor:
        """Strings written with the likeliest character at every step; seldom less likely than another string."""
        return self._write(torch.Size(), lambda logits: logits.argmax(-1))

    def _allowed(self, logits: Tensor) -> Tensor:
        token = torch.arange(self.schema.vocabulary, device=logits.device)
        return logits.masked_fill(token == self.schema.start, -torch.inf)

    @torch.no_grad()
    def _write(self, sample_shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        schema, shape = self.schema, self._extended_shape(sample_shape)
        z = self.writer.z.expand(*shape[:-1], -1).flatten(0, -2)  # (..., latent_dim) -> (n, latent_dim)
        tokens = torch.full((len(z), shape[-1]), schema.stop, device=z.device)
        previous, state = torch.full((len(z), 1), schema.start, device=z.device), None
        for position in range(schema.max_length):
            logits, state = self.writer.step(z, previous, state)
            chosen = choose(self._allowed(logits))  # (n, 1)
            previous = chosen.where(previous != schema.stop, previous)  # once stopped, stopped
            tokens[:, position] = previous.squeeze(1)
        return tokens.reshape(shape)


def _draw(logits: Tensor) -> Tensor:
    """Draw from Categoricals, `(n, 1, vocabulary) -> (n, 1)`."""
    return torch.multinomial(logits[:, 0].softmax(-1), 1)


def _unfinished(value: Tensor, stop: int) -> Tensor:
    """Tell which tokens, bool `(rows, positions)`, no stop comes before."""
    stops = (value == stop).long()
    return stops.cumsum(1) == stops


def encoder(schema: TokensSchema) -> nn.Module:
    """Return a recurrent network that reads in both directions, with linear features beside it if there are any."""
    network = built_in(schema.network)
    recurrent = Encoder(schema, network)
    if not network.linear:
        return recurrent
    inputs = schema.event_shape[0] * schema.vocabulary
    # The linear path has to see numbers, as every linear path does; the recurrent network sees tokens again.
    return _Columns(schema, LinearFeatures(_Tokens(schema, recurrent), inputs, network.linear))


def decoder(schema: TokensSchema, latent_dim: int) -> nn.Module:
    """Return a recurrent network that writes; raw: a `Writer`."""
    return Decoder(schema, latent_dim, built_in(schema.network))


def marginal(schema: TokensSchema, values: Tensor) -> Writer:
    """Return a writer in whose strings every position has its own frequencies, half a row added to each token's."""
    positions = torch.arange(schema.max_length, device=values.device)
    cells = positions * schema.vocabulary + values[:, :-1]  # (rows, max_length)
    seen = cells[_unfinished(values[:, :-1], schema.stop)]
    counts = torch.bincount(seen, minlength=schema.max_length * schema.vocabulary) + 0.5
    table = counts.reshape(schema.max_length, schema.vocabulary).log()

    def step(z: Tensor, previous: Tensor, state: int | None) -> tuple[Tensor, int]:
        here, steps = state or 0, previous.shape[1]
        return table[here : here + steps].expand(len(previous), -1, -1), here + steps

    return Writer(table.new_zeros(1, 0), step)


def correct(schema: TokensSchema, predicted: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Tell whether each place holds the right character, or rightly none, and whether the whole string is right."""
    right, counts = predicted == values, _unfinished(values, schema.stop)
    places = {f"character {i + 1}": right[:, i] for i in range(schema.max_length)}
    return places | {"string": (right | ~counts).all(1)}


def show(schema: TokensSchema, value: Tensor) -> str:
    """Return the string."""
    return "".join(schema.alphabet[token] for token in value[_unfinished(value[None], schema.stop)[0]].tolist()[:-1])


def read(schema: TokensSchema, source: str) -> Tensor:
    """Read a string.

    Raises:
        InputError: it is too long, or has a character that the alphabet has not.
    """
    unknown = sorted(set(source) - set(schema.alphabet))
    if unknown or len(source) > schema.max_length:
        what = f"{', '.join(map(repr, unknown))} is not in it" if unknown else f"it has {len(source)}"
        raise InputError(f"'{source}': give at most {schema.max_length} characters of '{schema.alphabet}'; {what}")
    stops = [schema.stop] * (schema.max_length + 1 - len(source))
    return torch.tensor([*(schema.alphabet.index(character) for character in source), *stops])


def _from_texts(texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the fields for texts of at most 64 characters."""
    longest = max(map(len, texts), default=0)
    if not 0 < longest <= _LONGEST:
        return None
    return {"alphabet": "".join(sorted(set().union(*texts))), "max_length": longest}


MODALITY = Modality(
    kind="tokens",
    summary="string of characters, of varying length; recurrent networks, autoregressive likelihood",
    schema=TokensSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=Strings,
    show=show,
    read=read,
    outcome=Outcome.SEQUENCE,
    marginal=marginal,
    correct=correct,
    proposal=Proposal(60, texts=_from_texts),
)
