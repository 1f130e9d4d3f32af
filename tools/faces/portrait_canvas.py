"""A canvas that the portraits are painted on: smooth outlines, soft anti-aliased stamps, colours between them.

Everything is measured in *face units*: one unit is one pixel of the final picture when the head has its usual
size, the origin lies between the eyes, x points to the viewer's right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

WIDTH, HEIGHT = 178, 218
"""Size of a finished portrait in pixels: that of CelebA's aligned images."""
OVERSAMPLE = 2
"""Canvas pixels a side of one final pixel."""
EYES_AT = (89.0, 112.0)
"""Where CelebA's alignment puts the point between the eyes, in final pixels."""
_SUBPIXEL = 4
"""Fractional bits of the coordinates handed to OpenCV."""
_CENTRE, _DEPTH = np.array([0.0, 5.0]), 30.0
_CURVE = _DEPTH / np.array([46.0, 90.0])
"""The ellipsoid that a face is taken as: its middle, its depth, and that over its half-axes."""
_ONE = 2**_SUBPIXEL
_EXACT = (cv2.LINE_AA, _SUBPIXEL)


@dataclass(frozen=True)
class View:
    """How the head stands before the camera.

    Attributes:
        scale: size of the head, 1 for the usual.
        roll: tilt in radians, clockwise.
        yaw: turn towards the viewer's right in radians.
        pitch: nod downwards in radians.
        shift: final pixels by which the point between the eyes is off `EYES_AT`.
    """

    scale: float = 1.0
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> Array:
        """Return the 2x3 matrix from face units to canvas pixels."""
        c, s = np.cos(self.roll) * self.scale * OVERSAMPLE, np.sin(self.roll) * self.scale * OVERSAMPLE
        at = (np.array(EYES_AT) + self.shift) * OVERSAMPLE
        return np.array([[c, -s, at[0]], [s, c, at[1]]])

    def turn(self, points: Any, lift: float = 0.0) -> Array:
        """Return where points on the face's surface, `(n, 2)`, appear once the head is turned.

        The face is taken as an ellipsoid; silhouettes need no turning, since an ellipsoid's hardly moves.

        Args:
            points: where they lie on a head seen from the front.
            lift: by how many units they stand out from the surface, as a nose or glasses do.
        """
        flat = np.asarray(points, float)
        off = (flat - _CENTRE) * _CURVE
        depth = np.sqrt(np.maximum(_DEPTH**2 - np.einsum("ni,ni->n", off, off), 0))
        depth += lift
        turned = flat * (math.cos(self.yaw), 1)
        turned += depth[:, None] * (math.sin(self.yaw), math.sin(self.pitch))
        return turned


@dataclass(frozen=True)
class Stamp:
    """How much of each canvas pixel a shape covers, within the shape's bounding box.

    Attributes:
        top: first row of the box.
        left: first column of the box.
        alpha: coverage in [0, 1], float32 `(rows, columns)`.
    """

    top: int
    left: int
    alpha: Array

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the stamp covers."""
        rows, columns = self.alpha.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)

    def within(self, other: Stamp) -> Stamp:
        """Return this stamp where `other` covers the canvas too."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = max(top, min(self.box[0].stop, other.box[0].stop))
        right = max(left, min(self.box[1].stop, other.box[1].stop))
        mine = self.alpha[top - self.top : bottom - self.top, left - self.left : right - self.left]
        theirs = other.alpha[top - other.top : bottom - other.top, left - other.left : right - other.left]
        return Stamp(top, left, mine * theirs)


class Canvas:
    """A picture being painted, in three float32 planes of `OVERSAMPLE` times the final size.

    Args:
        view: how the head stands; every shape is placed by it.
    """

    def __init__(self, view: View) -> None:
        self.view, self._matrix = view, view.matrix()
        # From face units to the fixed-point numbers that OpenCV draws with.
        self._turned = np.ascontiguousarray(self._matrix[:, :2].T * _ONE)
        self._origin = self._matrix[:, 2] * _ONE
        self.planes = np.zeros((3, HEIGHT * OVERSAMPLE, WIDTH * OVERSAMPLE), np.float32)

    def turn(self, points: Any, lift: float = 0.0) -> Array:
        """Return `View.turn` of the points."""
        return self.view.turn(points, lift)

    def area(self, outline: Any, soft: float = 0.0) -> Stamp:
        """Return the stamp of a filled outline `(n, 2)`, its edge blurred over about `soft` units."""
        return self._stamp(
            np.asarray(outline), soft, 0, lambda mask, points: cv2.fillPoly(mask, [points], 255, *_EXACT)
        )

    def lines(self, paths: Sequence[Array] | Array, width: float, soft: float = 0.0) -> Stamp:
        """Return the stamp of open lines, each `(n, 2)`, `width` units wide."""
        thick, split = self._thick(width), _Split(paths)
        return self._stamp(
            split.points,
            soft,
            thick,
            lambda mask, points: cv2.polylines(mask, split(points), False, 255, thick, *_EXACT),
        )

    def streaks(self, stamp: Stamp, strokes: Sequence[tuple[Sequence[Array], float, float]]) -> Array:
        """Return brightness within a stamp's box: 1, but for open lines each `width` units wide of brightness `tone`.

        Args:
            stamp: its box is where.
            strokes: lines, width and tone (0 to 2) of each group, the last on top.

        Returns:
            float32 `(rows, columns)`.
        """
        brightness = np.full(stamp.alpha.shape, 128, np.uint8)
        for paths, width, tone in strokes:
            split = _Split(paths)
            points = self._fixed(split.points) - np.array([stamp.left, stamp.top], np.int32) * _ONE
            cv2.polylines(brightness, split(points), False, round(128 * tone), self._thick(width), *_EXACT)
        return brightness * np.float32(1 / 128)

    def _thick(self, width: float) -> int:
        return max(1, round(width * OVERSAMPLE * self.view.scale))

    def _fixed(self, points: Array) -> Array:
        fixed: Array = (points @ self._turned + self._origin).astype(np.int32)
        return fixed

    def _stamp(self, points: Array, soft: float, margin: int, draw: Callable[[Array, Array], Any]) -> Stamp:
        fixed = self._fixed(points)
        spread = round(soft * OVERSAMPLE * self.view.scale)
        margin += 2 * spread + 2
        x, y, wide, high = cv2.boundingRect(fixed)
        rows, columns = self.planes.shape[1:]
        left, top = min(max(x // _ONE - margin, 0), columns), min(max(y // _ONE - margin, 0), rows)
        right = max(min((x + wide) // _ONE + margin + 1, columns), left)
        bottom = max(min((y + high) // _ONE + margin + 1, rows), top)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        if mask.size:
            draw(mask, fixed - np.array([left, top], np.int32) * _ONE)
            if spread:  # two box filters: close to a Gaussian, at a cost that does not grow with its width
                box = (2 * spread + 1, 2 * spread + 1)
                mask = cv2.blur(cv2.blur(mask, box), box)
        return Stamp(top, left, mask * np.float32(1 / 255))

    def paint(self, stamp: Stamp, colour: Colour | Array, opacity: float = 1.0) -> None:
        """Lay a colour, or planes `(3, rows, columns)` of the stamp's size, over what a stamp covers."""
        there = self.planes[:, *stamp.box]
        change = _planes(colour) - there
        change *= stamp.alpha * np.float32(opacity) if opacity < 1 else stamp.alpha
        there += change

    def darken(self, stamp: Stamp, tint: Colour, opacity: float = 1.0) -> None:
        """Multiply what a stamp covers by a colour, as a shadow does."""
        fade = stamp.alpha * ((_planes(tint) - 1) * np.float32(opacity))
        fade += 1
        self.planes[:, *stamp.box] *= fade

    def project(self, planes: Sequence[Array], left: float, top: float, stamp: Stamp) -> Array:
        """Carry planes computed in face units onto the pixels of a stamp's box.

        Args:
            planes: each `(rows, columns)`, one element a face unit; beyond it, their edge values continue.
            left: x of the first column.
            top: y of the first row.
            stamp: its box is where.

        Returns:
            float32 `(planes, box rows, box columns)`.
        """
        matrix = self._matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (left, top) - (stamp.left, stamp.top)
        size = stamp.alpha.shape[::-1]
        return np.stack(
            [cv2.warpAffine(p, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in planes]
        )

    def finish(self) -> Array:
        """Return the picture at its final size, float32 `(HEIGHT, WIDTH, 3)` of red, green, blue in [0, 1]."""
        small = [cv2.resize(p, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for p in self.planes]
        return np.stack(small, -1).clip(0, 1)


class _Split:
    """Cuts the joined points of several lines into those lines again."""

    def __init__(self, paths: Sequence[Array] | Array) -> None:
        self.points = np.concatenate(paths)
        self._ends = np.cumsum([len(p) for p in paths]).tolist()

    def __call__(self, points: Array) -> list[Array]:
        return [points[a:b] for a, b in zip([0, *self._ends], self._ends, strict=False)]


def _planes(colour: Colour | Array) -> Array:
    """Return a colour, or planes of colours, as an array that broadcasts over planes."""
    return colour if isinstance(colour, np.ndarray) else np.array(colour, np.float32).reshape(3, 1, 1)


@cache
def _spline(n: int, closed: bool, steps: int) -> Array:
    """Return the matrix that turns `n` points into a Catmull-Rom curve through them."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    weights = t ** np.arange(4) @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    segments = n if closed else n - 1
    matrix = np.zeros((segments * steps + (not closed), n))
    for segment in range(segments):
        for neighbour in range(4):
            index = segment + neighbour - 1
            index = index % n if closed else min(max(index, 0), n - 1)
            matrix[segment * steps : (segment + 1) * steps, index] += weights[:, neighbour]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def smooth(points: Any, closed: bool = False, steps: int = 8) -> Array:
    """Return a Catmull-Rom curve through points.

    Args:
        points: `(n, 2)`.
        closed: whether the last point leads back to the first.
        steps: points of the curve for each one given.

    Returns:
        `(n * steps, 2)` if closed, else `((n - 1) * steps + 1, 2)`.

    >>> smooth([(0, 0), (1, 0), (2, 0)], steps=2)[:, 0].tolist()
    [0.0, 0.4375, 1.0, 1.5625, 2.0]
    """
    points = np.asarray(points, float)
    curve: Array = _spline(len(points), closed, steps) @ points
    return curve


@cache
def _places(length: int, n: int) -> Array:
    """Return the matrix that picks `n` points spread evenly over `length` ones."""
    at = np.linspace(0, length - 1, n)
    return np.asarray(np.maximum(0, 1 - abs(at[:, None] - np.arange(length))))


def along(curve: Array, n: int) -> Array:
    """Return `n` points `(n, 2)` spread evenly over a curve's points."""
    points: Array = _places(len(curve), n) @ curve
    return points


def ribbon(path: Array, widths: Sequence[float]) -> Array:
    """Return the outline of a line whose width changes along it.

    Args:
        path: `(n, 2)`.
        widths: the widths at places spread evenly along it.

    Returns:
        `(2 * n, 2)`.
    """
    step = np.empty_like(path)
    step[1:-1], step[0], step[-1] = path[2:] - path[:-2], path[1] - path[0], path[-1] - path[-2]
    half = _places(len(widths), len(path)) @ widths / (2 * np.sqrt((step**2).sum(1)) + 1e-9)
    aside = step[:, ::-1] * half[:, None] * (-1, 1)
    return np.concatenate([path + aside, (path - aside)[::-1]])


def mirrored(half: Any) -> Array:
    """Return a closed symmetric control polygon from its right half, which starts and ends on the axis x = 0."""
    half = np.asarray(half, float)
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


@cache
def _circle(n: int) -> Array:
    """Return `n` points of the unit circle."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def ellipse(x: float, y: float, rx: float, ry: float, n: int = 32) -> Array:
    """Return the outline `(n, 2)` of an ellipse."""
    return _circle(n) * (rx, ry) + (x, y)


def moved(points: Array, x: float, y: float) -> Array:
    """Return points `(n, 2)` moved by an offset."""
    return np.asarray(points + np.array([x, y]))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour that lies `share` of the way from `a` to `b`."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour made `factor` times as bright, at most white."""
    return (min(1.0, colour[0] * factor), min(1.0, colour[1] * factor), min(1.0, colour[2] * factor))
