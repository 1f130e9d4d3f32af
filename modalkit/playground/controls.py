"""How a person gives a value of each modality: an upload, a choice, ticks or a text, as its schema allows."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from modalkit import registry
from modalkit.errors import InputError, guard
from modalkit.evaluation.pictures import show
from modalkit.inference import TrainedModel
from modalkit.plugin import Schema

_log = logging.getLogger(__name__)

MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MOST_OPTIONS = 100


@dataclass(frozen=True)
class Control:
    """What the page offers for one modality.

    Attributes:
        name: of the modality.
        schema: of the modality.
        form: how a value is given: an uploaded picture; one of the options; any of the options; a text; or, of what
            is shown as a picture but cannot be read from one, not at all.
        options: what can be chosen or ticked, as a person reads it.
        example: a text that the kind can read.
    """

    name: str
    schema: Schema
    form: Literal["picture", "choice", "flags", "text", "none"]
    options: tuple[str, ...] = ()
    example: str = ""


def controls(model: TrainedModel) -> list[Control]:
    """Return a control for each modality of a model."""
    return [_control(model, name, schema) for name, schema in model.schemas.items()]


def value_of(control: Control, given: Sequence[str | bytes]) -> Any:
    """Return the value that a form's entries say, as `TrainedModel` takes it; no file is ever opened for it.

    Args:
        control: of the modality.
        given: an uploaded file's bytes; the number of an option; those of all that are
            ticked, or an empty text where none is; a text.

    Raises:
        InputError: it is no such value; names the modality.
    """
    try:
        return _value_of(control, given)
    except InputError as error:
        raise InputError(f"modality '{control.name}': {error}") from None


def _value_of(control: Control, given: Sequence[str | bytes]) -> Any:
    if control.form == "picture":
        if len(given) != 1 or not isinstance(given[0], bytes) or not given[0]:
            raise InputError("choose a picture to upload")
        return _picture(given[0])
    texts = [one for one in given if isinstance(one, str)]
    if control.form == "text" and len(texts) == 1:
        read = registry.modality(control.schema.kind).read  # finding a plugin opens files
        with guard(f"kind '{control.schema.kind}': its read"), _nothing_opened():
            return read(control.schema, texts[0])
    numbers = {str(number): number for number in range(len(control.options))}
    if control.form == "choice" and len(texts) == 1 and texts[0] in numbers:
        return torch.tensor(numbers[texts[0]])
    if control.form == "flags" and all(one in numbers for one in texts if one):
        ticked = torch.tensor([numbers[one] for one in texts if one], dtype=torch.long)  # an empty one: none is
        return torch.zeros(control.schema.event_shape, dtype=torch.long).index_fill(0, ticked, 1)
    raise InputError("give a value")


def _control(model: TrainedModel, name: str, schema: Schema) -> Control:
    shape = schema.event_shape
    if not isinstance(_shown(schema, torch.zeros(shape)), str):
        return Control(name, schema, "picture" if len(shape) == 3 and shape[0] in (1, 3) else "none")
    levels = _levels(schema)
    if levels and not shape:
        return Control(name, schema, "choice", tuple(str(_shown(schema, torch.tensor(k))) for k in range(levels)))
    if levels == 2 and len(shape) == 1 and shape[0] <= _MOST_OPTIONS:
        names = getattr(schema, "names", None)
        return Control(name, schema, "flags", tuple(names or map(str, range(shape[0]))))
    example = ""
    if name in model.predictable and model.allows([]):
        with suppress(InputError):
            shown = str(model.sample(1, [name])[name].show())
            registry.modality(schema.kind).read(schema, shown)  # which also makes it import what it needs
            example = shown
    return Control(name, schema, "text", (), example)


def _shown(schema: Schema, stored: Tensor) -> Any:
    """Return what a person sees of one stored value."""
    return show(schema, schema.unpack(stored.to(getattr(torch, schema.dtype))[None])[0])


def _levels(schema: Schema) -> int:
    """Return how many whole numbers from 0 a stored value may be, in every place alike; 0 for many or no such kind."""
    if schema.dtype == "float32":
        return 0
    numbers = torch.arange(_MOST_OPTIONS + 1).to(getattr(torch, schema.dtype))
    every = numbers.reshape(-1, *(1 for _ in schema.event_shape)).expand(-1, *schema.event_shape)
    with suppress(InputError), guard(f"kind '{schema.kind}': its valid"):
        valid = schema.valid(every)
        levels = int(valid.sum())
        return levels if 2 <= levels <= _MOST_OPTIONS and bool(valid[:levels].all()) else 0
    return 0


def _picture(content: bytes) -> Image.Image:
    """Return an uploaded picture, decoded.

    Raises:
        InputError: it is none, or is too large.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise InputError(
                f"the picture has {picture.width} x {picture.height} pixels; upload one of at most "
                f"{MOST_PIXELS // 1_000_000} million"
            )
        picture.load()
        return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        raise InputError(f"the upload is no picture that can be read ({', '.join(FORMATS)})") from None


_reading = ContextVar("reading a text of a form", default=False)


def _refuse(event: str, _: tuple[Any, ...]) -> None:
    if event == "open" and _reading.get():
        raise PermissionError("a text of this page is a value and names no file")


@contextmanager
def _nothing_opened() -> Iterator[None]:
    """Let nothing be opened meanwhile: a kind's `read` takes a path or a text, and this one came from a browser."""
    if not _hooked:
        sys.addaudithook(_refuse)  # there is no way to remove one, so it is added once, and only where it serves
        _hooked.append(True)
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


_hooked: list[bool] = []
