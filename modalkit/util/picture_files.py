"""Reading pictures: one rule for all builders, kinds and commands, so that a file means the same everywhere."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from modalkit.errors import InputError, unreadable

_GRAY = ("1", "L", "LA", "La", "I", "F")
_DEEPEST = 65535


def read_picture(source: Path | str | bytes, mode: Literal["L", "RGB"]) -> Image.Image:
    """Return a picture file as 8-bit gray or colour, upright as its EXIF orientation says.

    See `eight_bit` for pictures with more or fewer bits, and for transparency. Only the first picture of an animation
    or of a file with several pages is read.

    Args:
        source: a path, or the content of a file.
        mode: ``"L"``: gray. ``"RGB"``: colour.

    Raises:
        InputError: the file cannot be read as a picture, or its values have no scale that is known.
    """
    path = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many pixels are an error
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source)) as picture:
                return eight_bit(picture, mode)
    except (MemoryError, InputError):
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise unreadable(path, "a picture", error) from error


def eight_bit(picture: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Return a picture as 8-bit gray or colour, upright as its EXIF orientation says.

    - 16 bits: the 8 higher bits are kept, so that 0 to 65535 become 0 to 255.
    - Floats: intensities from 0 to 1.
    - 1 bit: black and white.
    - Transparency: the picture is laid on white, so that colours below transparent pixels do not show.

    Args:
        picture: a picture of any mode.
        mode: ``"L"``: gray. ``"RGB"``: colour.

    Raises:
        InputError: floats outside [0, 1], or whole numbers outside 0 to 65535.

    Example:
        >>> deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
        >>> np.asarray(eight_bit(deep, "L")).tolist()
        [[0, 1, 255]]
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        return _shallow(upright).convert(mode)
    if not (upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info):
        return upright.convert(mode)
    # Pillow converts premultiplied alpha only to the same picture without premultiplication.
    plain = upright.convert({"La": "LA", "RGBa": "RGBA"}.get(upright.mode, upright.mode)).convert("RGBA")
    opacity = plain.getchannel("A")
    white = Image.new("RGB", plain.size, "white")
    return Image.composite(plain.convert("RGB"), white, opacity).convert(mode)


def is_gray(picture: Image.Image) -> bool:
    """Tell whether the type of a picture has no colour. A picture with a palette counts as coloured."""
    return picture.mode in _GRAY or picture.mode.startswith("I;")


def any_colour(paths: Sequence[Path | str]) -> bool:
    """Tell whether any picture file has colour by its type; files that cannot be read are left out."""
    for path in paths:
        with suppress(Exception), Image.open(path) as picture:  # Pillow raises many types for damaged files
            if not is_gray(picture):
                return True
    return False


def _shallow(picture: Image.Image) -> Image.Image:
    """Return a gray picture of 16 bits, 32 bits or floats as one of 8 bits."""
    values = np.asarray(picture)
    lowest, highest = values.min(), values.max()
    if picture.mode == "F":
        if not (lowest >= 0 and highest <= 1):  # NaN fails, too
            raise InputError(
                f"a picture of floats must have intensities from 0 to 1, not {lowest:g} to {highest:g}; divide them by "
                f"the largest possible value, or save 8 or 16 bits"
            )
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if lowest < 0 or highest > _DEEPEST:
        raise InputError(
            f"a picture of 16 or 32 bits must have values from 0 to {_DEEPEST}, not {lowest} to {highest}; save it "
            f"with 8 or 16 bits"
        )
    shallow = (values >> 8).astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):  # the value of transparent pixels
        shallow[values == clear] = 255
    return Image.fromarray(shallow)
