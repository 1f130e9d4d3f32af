"""Paints a portrait's hair, strand by strand: behind the head, on it, and a mustache."""

from __future__ import annotations

import numpy as np

from .portrait import Portrait
from .portrait_canvas import Array, Canvas, Colour, Stamp, along, ellipse, mix, moved, scaled, smooth

_LOCKS = {"cropped": 0.0, "short": 0.0, "medium": 62.0, "long": 125.0}
"""y at which hair of each length ends; 0 where it does not hang."""


def is_long(portrait: Portrait) -> bool:
    """Tell whether the hair hangs down beside the face."""
    return not portrait.face.bald and _LOCKS[portrait.length] > 0


class Sheet:
    """A bundle of hair: strands side by side, each from root to tip.

    Args:
        grid: some of its strands, from one side to the other, `(strands, points, 2)`.
        wave: units by which strands swing sideways.
        turns: how many times they do.
    """

    def __init__(self, grid: Array, wave: float = 0.0, turns: float = 4.0) -> None:
        self.grid, self.wave, self.turns = grid, wave, turns

    def strands(self, at: Array, phase: Array | float = 0.0) -> Array:
        """Return the strands at places `(n,)` between 0 and 1 across the sheet, `(n, points, 2)`."""
        place = np.clip(at, 0, 1) * (len(self.grid) - 1)
        index = np.minimum(place.astype(int), len(self.grid) - 2)
        share = (place - index)[:, None, None]
        lines: Array = self.grid[index] * (1 - share) + self.grid[index + 1] * share
        if self.wave:
            along_it = np.linspace(0, 1, lines.shape[1])
            step = np.gradient(lines, axis=1)
            normal = np.stack([-step[..., 1], step[..., 0]], -1) / (np.linalg.norm(step, axis=-1)[..., None] + 1e-6)
            turn = 2 * np.pi * (self.turns * along_it + 0.9 * at[:, None]) + np.reshape(phase, (-1, 1))
            lines = lines + normal * (self.wave * np.sin(turn) * np.clip(2 * along_it - 0.3, 0, 1))[..., None]
        return lines

    def outline(self) -> Array:
        """Return the outline of the whole sheet."""
        first, last = self.strands(np.array([0.0, 1.0]))
        return np.concatenate([first, self.grid[1:-1, -1], last[::-1], self.grid[1:-1, 0][::-1]])


def draw_sheet(
    canvas: Canvas, sheet: Sheet, colour: Colour, rng: np.random.Generator, count: int, light: float
) -> Stamp:
    """Paint a sheet of hair: its body, dark and light strands in it, stray ones at its rim.

    Args:
        canvas: where.
        sheet: what.
        colour: of the hair in plain light.
        rng: places the strands.
        count: strands of each of the two tones.
        light: brightness, 1 in plain light, less behind the head.

    Returns:
        Where it is.
    """
    body = canvas.area(sheet.outline(), 0.4)
    strokes = []
    fair = max(colour)  # the darker hair is, the brighter its light strands, and the fairer, the fainter its dark ones
    tones = (0.66 + 0.2 * fair, 1.5, count // 4), (0.56 + 0.28 * fair, 0.5, count), (1.7 - 0.65 * fair, 0.5, count)
    for tone, width, n in tones:
        lines = sheet.strands(rng.random(n), rng.normal(0, 0.35, n))
        points = lines.shape[1]
        start = rng.integers(0, points // 3 + 1, n).tolist()
        stop = rng.integers(points // 2 + 1, points + 1, n).tolist()
        strokes.append(([line[a:b] for line, a, b in zip(lines, start, stop, strict=True)], width, tone))
    streaks = canvas.streaks(body, strokes)
    canvas.paint(body, np.stack([streaks * np.float32(0.85 * light * c) for c in colour]))
    stray = sheet.strands(np.concatenate([rng.normal(0, 0.02, 5), rng.normal(1, 0.02, 5)]), rng.normal(0, 1.2, 10))
    canvas.paint(canvas.lines(stray + rng.normal(0, 0.9, (10, 1, 2)), 0.5), scaled(colour, 0.8 * light), 0.35)
    return body


def _crown(portrait: Portrait, volume: float) -> Array:
    """Return the hair's outer contour from the left ear over the top to the right ear, `(49, 2)`."""
    wide, up = portrait.face.width, volume
    side = 2.0 + 0.35 * volume
    right = np.array(
        [
            (0, -71 - up),
            (21, -67 - up),
            (36 + 0.5 * side, -50 - 0.7 * up),
            (43 + side, -26),
            (43.5 + side, 0),
            (41.5, 14),
        ],
        float,
    )
    right[:, 0] *= wide
    curve = smooth(np.concatenate([right[:0:-1] * (-1, 1), right]))
    lean = _head_shift(portrait)
    return along(curve, 49) + lean


def _head_shift(portrait: Portrait) -> Array:
    """Return by how much the top of the head appears shifted as it turns."""
    return moved(portrait.view.turn([(0, -66)])[0], 0, 66)


def _hairline(portrait: Portrait) -> Array:
    """Return where hair begins, from the left sideburn over the forehead to the right one, `(49, 2)`."""
    face = portrait.face
    high = -43 - face.hairline
    if face.receding:
        right = [(0, high - 9), (9, high - 11), (20, high - 16), (29, high - 3), (36, -27), (39.5, -8), (40, 10)]
    else:
        right = [(0, high - 3), (12, high - 2), (22, high + 3), (30, -32), (36, -21), (39, -8), (40, 10)]
    half = np.array(right, float) * (face.width, 1)
    return portrait.view.turn(along(smooth(np.concatenate([half[:0:-1] * (-1, 1), half])), 49))


def draw_back_hair(canvas: Canvas, portrait: Portrait, rng: np.random.Generator) -> None:
    """Paint the hair that hangs behind the neck."""
    if not is_long(portrait):
        return
    end, wave = _LOCKS[portrait.length], 2.2 if portrait.face.wavy else 0.0
    wide = portrait.volume + 45
    edge = smooth(
        [(30, -62), (wide - 1, -20), (wide, 15), (wide + 3, 0.55 * end), (wide - (1 if end > 80 else 12), end)]
    )
    rows = np.stack([edge * (s, 1) for s in np.linspace(-1, 1, 9)])
    rows[1:-1, -1, 1] += rng.normal(0, 2.0, 7)
    draw_sheet(
        canvas, Sheet(rows + _head_shift(portrait) * 0.5, wave, end / 26), portrait.face.hair_colour, rng, 70, 0.62
    )


def draw_hair(canvas: Canvas, portrait: Portrait, rng: np.random.Generator, head: Stamp) -> None:
    """Paint the hair on the head and before the shoulders, with the shadow that it throws on the forehead."""
    face = portrait.face
    if face.bald:
        return
    if portrait.hat and not is_long(portrait):
        if portrait.length == "short":
            _draw_sideburns(canvas, portrait, rng)
        return
    crown, line = _crown(portrait, _volume(portrait)), _hairline(portrait)
    shadow = canvas.area(np.concatenate([crown, moved(line, 0, 2.5)[::-1]]), 2.0)
    canvas.darken(shadow.within(head), (0.62, 0.48, 0.44), 0.75)
    if is_long(portrait):
        _draw_curtains(canvas, portrait, rng, crown, line)
    else:
        _draw_short(canvas, portrait, rng, crown, line)
    if portrait.swept and not portrait.hat:
        _draw_sweep(canvas, portrait, rng, head)
    if portrait.bangs and not portrait.hat:
        _draw_bangs(canvas, portrait, rng, head)
    _draw_shine(canvas, portrait, canvas.area(np.concatenate([crown, line[::-1]])))


def _volume(portrait: Portrait) -> float:
    """Return by how many units the hair stands off the skull."""
    flat = {"cropped": 0.3, "short": 1.0, "medium": 0.9, "long": 0.9}[portrait.length]
    return flat * portrait.volume * (0.55 if portrait.face.receding or portrait.hat else 1.0)


def _draw_sideburns(canvas: Canvas, portrait: Portrait, rng: np.random.Generator) -> None:
    """Paint the little of short hair that a hat leaves to be seen."""
    outer, inner = smooth([(43, -34), (43.5, -12), (42, 8)]), smooth([(35, -34), (38, -12), (39.5, 10)])
    for side in (-1, 1):
        rows = np.stack([outer, inner]) * (side * portrait.face.width, 1)
        draw_sheet(canvas, Sheet(rows), portrait.face.hair_colour, rng, 20, 1.0)


def _draw_short(canvas: Canvas, portrait: Portrait, rng: np.random.Generator, crown: Array, line: Array) -> None:
    """Paint short hair: strands rise from the hairline to the crown, combed away from the parting."""
    face = portrait.face
    wavy = face.wavy and portrait.length == "short"
    n, points = len(crown), 10
    lean = np.linspace(-1, 1, n) - portrait.parting / 40
    comb = np.clip(np.arange(n) + (11 if portrait.length == "short" else 3) * np.clip(3 * lean, -1, 1), 0, n - 1)
    tips = np.stack([np.interp(comb, np.arange(n), crown[:, k]) for k in (0, 1)], 1)
    if wavy:  # curls make the contour bumpy
        tips += np.stack([1.6 * np.sin(np.arange(n) * 1.15), 1.8 * np.cos(np.arange(n) * 1.3)], 1)
    else:
        tips += rng.normal(0, 0.5, tips.shape)
    share = np.linspace(0, 1, points)[None, :, None]
    grid = line[:, None] * (1 - share) + tips[:, None] * share  # (strands, points, 2)
    bulge = np.sin(np.pi * share) * (np.array([portrait.parting * 0.12, -3.0]) if portrait.length == "short" else 0)
    draw_sheet(canvas, Sheet(grid + bulge, 1.3 if wavy else 0.0, 1.6), face.hair_colour, rng, 150, 1.0)


def _draw_curtains(canvas: Canvas, portrait: Portrait, rng: np.random.Generator, crown: Array, line: Array) -> None:
    """Paint hair that falls from the parting to either side, down to its length."""
    face, end = portrait.face, _LOCKS[portrait.length]
    wave, wide = (2.4 if face.wavy else 0.0), portrait.volume
    middle = len(crown) // 2 + round(portrait.parting / 3)
    order = [(1, slice(middle, None)), (-1, slice(middle, None, -1))]
    for side, part in order if portrait.parting < 0 else order[::-1]:
        outer = [*along(crown[part], 7)[:-1], (side * (45 + wide), 20), (side * (47 + wide), 0.6 * end)]
        inner = [*along(line[part], 7)[:-1], (side * 40, 14), (side * (37 if end > 80 else 35), 0.55 * end)]
        outer += [(side * (45 + wide - (0 if end > 80 else 7)), end)]
        inner += [(side * (34 if end > 80 else 32), end - 3)]
        a, b = smooth(outer, steps=5), smooth(inner, steps=5)
        rows = np.stack([a + (b - a) * t for t in np.linspace(0, 1, 7)])
        rows[1:-1, -1, 1] += rng.normal(0, 2.0, 5)
        draw_sheet(canvas, Sheet(rows, wave, 3 + end / 40), face.hair_colour, rng, 70, 1.0)


def _draw_sweep(canvas: Canvas, portrait: Portrait, rng: np.random.Generator, head: Stamp) -> None:
    """Paint hair swept from the parting over the top of the forehead to the other temple."""
    p, side = portrait.parting, -1 if portrait.parting > 0 else 1
    wide, up = portrait.face.width * side, _volume(portrait)
    upper = smooth(
        [(p, -64 - 0.8 * up), (p + 12 * side, -66 - 0.8 * up), (31 * wide, -54 - 0.4 * up), (41 * wide, -26)]
    )
    lower = smooth([(p - 2 * side, -47), (p + 12 * side, -44), (24 * wide, -36), (39.5 * wide, -13)])
    rows = np.stack([upper + (lower - upper) * t for t in np.linspace(0, 1, 9)])
    rows[1:-1, -1] += rng.normal(0, 1.2, (7, 2))
    shape = portrait.view.turn(rows.reshape(-1, 2), 1).reshape(rows.shape)  # (strands * points, 2) and back
    canvas.darken(canvas.area(shape[-1] + (0, 1.5), 1.5).within(head), (0.62, 0.48, 0.44), 0.7)
    wave = 1.6 if portrait.face.wavy else 0.0
    draw_sheet(canvas, Sheet(shape, wave, 2), portrait.face.hair_colour, rng, 60, 1.0)


def _draw_bangs(canvas: Canvas, portrait: Portrait, rng: np.random.Generator, head: Stamp) -> None:
    """Paint a fringe that covers the forehead."""
    n, points = 25, 10
    across = np.linspace(-1, 1, n)
    roots = np.stack([across * 15 + portrait.parting * 0.5, -62 + 7 * across**2], 1)
    length = -17.5 + 4.0 * across**2 + rng.normal(0, 1.2, n)
    tips = np.stack([across * 37.5 * portrait.face.width, length], 1)
    share = np.linspace(0, 1, points)[None, :, None]
    spread = share ** np.array([0.75, 1.2])  # first outwards over the skull, then down
    grid = roots[:, None] * (1 - spread) + tips[:, None] * spread  # (strands, points, 2)
    shape = portrait.view.turn(grid.reshape(-1, 2), 1).reshape(grid.shape)  # (strands * points, 2) and back
    shadow = np.concatenate([shape[0], shape[1:-1, -1] + (0, 3.0), shape[-1][::-1]])
    canvas.darken(canvas.area(shadow, 1.4).within(head), (0.62, 0.48, 0.44), 0.8)
    draw_sheet(canvas, Sheet(shape, 0.9 if portrait.face.wavy else 0.0, 1.5), portrait.face.hair_colour, rng, 90, 0.97)


def _draw_shine(canvas: Canvas, portrait: Portrait, hair: Stamp) -> None:
    """Paint the soft light on top of the hair, and the shade at its sides."""
    colour = portrait.face.hair_colour
    x = 26 * portrait.light[0] + _head_shift(portrait)[0]
    glow = canvas.area(ellipse(x, -63 - 0.4 * _volume(portrait), 20, 4.5), 4.5).within(hair)
    canvas.paint(glow, mix(colour, (1.0, 0.95, 0.88), 0.45), 0.55)
    side = -1 if portrait.light[0] > 0 else 1
    canvas.darken(canvas.area(ellipse(side * 46, -20, 12, 42), 6).within(hair), (0.6, 0.58, 0.58), 0.6)


def draw_mustache(canvas: Canvas, portrait: Portrait, rng: np.random.Generator) -> None:
    """Paint a mustache between nose and mouth."""
    if not portrait.mustache:
        return
    n, points = 21, 6
    across = np.linspace(-1, 1, n)
    lift = 2.0 * max(0.0, portrait.smile) * abs(across)
    roots = np.stack([across * 9, 31.0 + 2.6 * abs(across) - lift], 1)
    tips = np.stack([across * 19, 37.2 + 3.6 * abs(across) ** 1.5 - lift + rng.normal(0, 0.4, n)], 1)
    share = np.linspace(0, 1, points)[None, :, None]
    grid = roots[:, None] * (1 - share) + tips[:, None] * share  # (strands, points, 2)
    shape = portrait.view.turn(grid.reshape(-1, 2), 2).reshape(grid.shape)  # (strands * points, 2) and back
    draw_sheet(canvas, Sheet(shape), scaled(portrait.face.hair_colour, 0.8), rng, 60, 1.0)
