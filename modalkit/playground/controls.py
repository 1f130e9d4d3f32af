"""How the user gives a value of each modality: an upload, a choice, tick boxes or a text, depending on its kind."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from modalkit import registry
from modalkit.errors import InputError, guard
from modalkit.inference import TrainedModel
from modalkit.pictures import show, shown_as_picture
from modalkit.plugin import Schema

MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MOST_OPTIONS = 100


@dataclass(frozen=True)
class Control:
    """How the page asks for a value of one modality.

    Attributes:
        name: name of the modality.
        schema: schema of the modality.
        form: ``picture``: an uploaded picture. ``choice``: one of the options. ``flags``: any of the options. ``text``:
            a text. ``none``: no value can be given, because the kind shows pictures but cannot read any.
        options: what the user can choose or tick.
        example: a text that the kind can read.
    """

    name: str
    schema: Schema
    form: Literal["picture", "choice", "flags", "text", "none"]
    options: tuple[str, ...] = ()
    example: str = ""


def controls(model: TrainedModel) -> list[Control]:
    """Return a control for each modality of a model, and behind them one for each covariate."""
    return [_control(model, name, schema) for name, schema in {**model.schemas, **model.covariates}.items()]


def value_of(control: Control, given: Sequence[str | bytes]) -> Any:
    """Turn the entries of a form into a value that `TrainedModel` takes. This never opens a file.

    Args:
        control: control of the modality.
        given: the bytes of an uploaded file; the number of the chosen option; the numbers of all ticked options, or an
            empty text if none is ticked; or a text.

    Raises:
        InputError: the entries do not fit the control; the message names the modality.
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
        read = registry.modality(control.schema.kind).read  # outside of the guard: loading a plugin opens files
        with guard(f"kind '{control.schema.kind}': its read"), _nothing_opened():
            return read(control.schema, texts[0])
    numbers = {str(number): number for number in range(len(control.options))}
    if control.form == "choice" and len(texts) == 1 and texts[0] in numbers:
        return torch.tensor(numbers[texts[0]])
    if control.form == "flags" and all(one in numbers for one in texts if one):
        ticked = torch.tensor([numbers[one] for one in texts if one], dtype=torch.long)  # empty if none is ticked
        return torch.zeros(control.schema.event_shape, dtype=torch.long).index_fill(0, ticked, 1)
    raise InputError("give a value")


def _control(model: TrainedModel, name: str, schema: Schema) -> Control:
    """Choose how to ask for a modality."""
    shape = schema.event_shape
    if shown_as_picture(schema):
        return Control(name, schema, "picture" if len(shape) == 3 and shape[0] in (1, 3) else "none")
    if 2 <= schema.levels <= _MOST_OPTIONS and not shape:
        stored = torch.arange(schema.levels).to(getattr(torch, schema.dtype))
        return Control(name, schema, "choice", tuple(str(show(schema, one)) for one in schema.unpack(stored)))
    if schema.levels == 2 and len(shape) == 1 and shape[0] <= _MOST_OPTIONS:
        return Control(name, schema, "flags", schema.part_names or tuple(map(str, range(shape[0]))))
    return Control(name, schema, "text", (), _example(model, name, schema))


def _example(model: TrainedModel, name: str, schema: Schema) -> str:
    """Return a text that the modality's kind can read, sampled from the model; empty if there is none."""
    if name in model.predictable and model.allows([]):
        with suppress(InputError):
            shown = str(model.sample(1, [name])[name].show())
            registry.modality(schema.kind).read(schema, shown)  # the first call also imports what it needs
            return shown
    return ""


def _picture(content: bytes) -> Image.Image:
    """Decode an uploaded picture.

    Raises:
        InputError: the upload is not a picture, or is too large.
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
    """Forbid this thread to open files: a kind's `read` takes a path or a text, and this text came from a browser."""
    if not _hooked:
        sys.addaudithook(_refuse)  # a hook cannot be removed, so it is added once, when it is first needed
        _hooked.append(True)
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


_hooked: list[bool] = []
