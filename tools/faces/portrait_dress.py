"""Paints what surrounds a portrait's face: backdrop, clothes, glasses and hats."""

from __future__ import annotations

import cv2
import numpy as np

from .portrait import Portrait
from .portrait_canvas import (
    HEIGHT,
    OVERSAMPLE,
    WIDTH,
    Array,
    Canvas,
    Colour,
    along,
    ellipse,
    mirrored,
    mix,
    moved,
    ribbon,
    scaled,
    smooth,
)


def draw_backdrop(canvas: Canvas, portrait: Portrait, rng: np.random.Generator) -> None:
    """Paint the background: a lit studio wall, a gradient, or lights out of focus. It is blurred, so few pixels do."""
    down, across = np.mgrid[0:1:28j, 0:1:23j]
    side = np.sign(portrait.light[0])
    if portrait.backdrop == "studio":
        share = np.clip(1.15 - 1.3 * np.hypot(across - 0.5 - 0.22 * side, 0.9 * (down - 0.38)), 0, 1)
    else:
        share = np.clip(0.5 + 0.45 * side * (across - 0.5) + 0.7 * (0.5 - down), 0, 1)
    size = (WIDTH * OVERSAMPLE, HEIGHT * OVERSAMPLE)
    share = cv2.resize(share.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    for plane, far, near in zip(canvas.planes, portrait.far, portrait.near, strict=True):
        plane[:] = far + (near - far) * share
    if portrait.backdrop == "bokeh":
        for _ in range(7):
            x, y = rng.uniform((-90, -110), (90, 90)).tolist()
            tone = mix(portrait.near, (1.0, 0.95, 0.85), float(rng.uniform(0.1, 0.5)))
            radius = float(rng.uniform(8, 22))
            canvas.paint(canvas.area(ellipse(x, y, radius, radius), 1.5), tone, float(rng.uniform(0.2, 0.45)))


def draw_clothes(canvas: Canvas, portrait: Portrait) -> None:
    """Paint shoulders, lit from the light's side, and a collar."""
    colour, wide = portrait.clothes, 78 if portrait.face.male else 68
    neck = 25 if portrait.face.male else 23
    dip = {"crew": 93, "vee": 116, "shirt": 106}[portrait.collar]
    line = [
        (-neck - 5, 83),
        (-0.55 * neck, 0.45 * 83 + 0.55 * dip),
        (0, dip),
        (0.55 * neck, 0.45 * 83 + 0.55 * dip),
        (neck + 5, 83),
    ]
    if portrait.collar == "crew":
        line = [(-neck - 6, 82), (-0.6 * neck, dip - 1), (0, dip + 2), (0.6 * neck, dip - 1), (neck + 6, 82)]
    right = [(neck + 18, 87), (wide - 12, 95), (wide + 6, 106), (wide + 16, 130)]
    edge = smooth([line[-1], *right])
    outline = np.concatenate([smooth(line), edge, (edge * (-1, 1))[::-1]])
    cloth = canvas.area(outline, 0.3)
    canvas.paint(cloth, scaled(colour, 0.85))
    side = 1 if portrait.light[0] > 0 else -1
    canvas.paint(canvas.area(ellipse(side * 50, 96, 32, 10), 7).within(cloth), mix(colour, (1, 1, 1), 0.25), 0.45)
    canvas.darken(canvas.area(ellipse(-side * 62, 116, 30, 24), 8).within(cloth), (0.5, 0.5, 0.55), 0.7)
    folds = [smooth([(s * 30, 96), (s * 41, 104), (s * 47, 118)]) for s in (-1, 1)]
    canvas.darken(canvas.lines(folds, 2.0, 1.5).within(cloth), (0.5, 0.5, 0.5), 0.5)
    if portrait.collar == "shirt":
        for s in (-1, 1):
            flap = smooth(
                np.array([(neck + 3, 76), (neck + 11, 83), (22, 104), (4, 108), (13, 94)]) * (s, 1),
                closed=True,
                steps=4,
            )
            canvas.darken(canvas.area(moved(flap, 0, 2), 1.5), (0.5, 0.5, 0.5), 0.5)
            canvas.paint(canvas.area(flap, 0.3), mix(colour, (1, 1, 1), 0.22 if s == side else 0.08))
    else:
        canvas.darken(canvas.lines([moved(smooth(line), 0, 1.6)], 1.0, 0.4).within(cloth), (0.6, 0.6, 0.6), 0.7)


def _lens(kind: str, side: int) -> Array:
    """Return the outline of one lens."""
    if kind == "round":
        return ellipse(side * 20, 1.5, 13.2, 12.2)
    shape = [(6.5, -6), (10, -8.4), (31, -8.4), (34.4, -6), (33, 8), (29, 11.2), (12, 11.2), (7.8, 8)]
    return smooth(np.array(shape) * (side, 1), closed=True, steps=5)


def draw_glasses(canvas: Canvas, portrait: Portrait) -> None:
    """Paint glasses: lenses with a reflection, rims, bridge and temples."""
    if not portrait.glasses:
        return
    rims: list[Array] = []
    for side in (-1, 1):
        lens = canvas.turn(_lens(portrait.glasses, side), 5)
        glass = canvas.area(lens)
        canvas.darken(glass, (0.25, 0.26, 0.30), portrait.tint)
        x, y = lens.mean(0)
        streak = np.array([(x - 2, y - 12), (x + 4, y - 12), (x - 4, y + 12), (x - 10, y + 12)])
        canvas.paint(canvas.area(streak, 0.6).within(glass), (1, 1, 1), 0.14)
        rims.append(np.concatenate([lens, lens[:1]]))
        outer = 33.2 if portrait.glasses == "round" else 34.2
        rims.append(np.concatenate([canvas.turn([(side * outer, -3)], 5), [(side * 43.5 * portrait.face.width, -2.0)]]))
    inner = 6.8 if portrait.glasses == "round" else 6.5
    rims.append(canvas.turn(smooth([(-inner, -0.5), (0, -2.8), (inner, -0.5)]), 7))
    canvas.darken(canvas.lines([moved(r, 0, 2) for r in rims], 1.6, 1.0), (0.6, 0.5, 0.48), 0.5)
    canvas.paint(canvas.lines(rims, 1.7), portrait.frame, 0.95)
    canvas.paint(canvas.lines([moved(r, -0.3, -0.4) for r in rims], 0.5), mix(portrait.frame, (1, 1, 1), 0.45), 0.5)


def draw_hat(canvas: Canvas, portrait: Portrait) -> None:
    """Paint the hat, with the shadow of its brim on the face."""
    if portrait.hat:
        shadow = canvas.area(canvas.turn(ellipse(0, -26, 42, 9)), 3)
        canvas.darken(shadow, (0.55, 0.45, 0.43), 0.7)
        {"beanie": _draw_beanie, "cap": _draw_cap, "fedora": _draw_fedora}[portrait.hat](canvas, portrait)


def _dome(canvas: Canvas, portrait: Portrait, top: float, wide: float, brim: float) -> tuple[Array, Colour]:
    """Paint the rounded body of a hat and return its lower edge and its colour."""
    colour, side = portrait.hat_colour, 1 if portrait.light[0] > 0 else -1
    lower = smooth([(-wide, brim + 6), (-0.6 * wide, brim), (0, brim - 2), (0.6 * wide, brim), (wide, brim + 6)])
    lower = lower + (canvas.turn([(0, brim)])[0] - (0, brim)) * 0.6
    half = [(0, top), (0.55 * wide, top + 4), (0.92 * wide, 0.55 * top + 0.45 * brim)]
    upper = smooth([lower[-1], *half[::-1], *(np.array(half[1:]) * (-1, 1)), lower[0]])
    body = canvas.area(np.concatenate([lower, upper]), 0.4)
    canvas.paint(body, scaled(colour, 0.85))
    canvas.paint(
        canvas.area(ellipse(side * 0.35 * wide, 0.7 * top + 0.3 * brim, 0.4 * wide, 10), 7).within(body),
        mix(colour, (1, 1, 1), 0.3),
        0.6,
    )
    canvas.darken(
        canvas.area(ellipse(-side * 0.95 * wide, 0.5 * (top + brim), 0.4 * wide, 34), 8).within(body),
        (0.42, 0.42, 0.46),
        0.8,
    )
    return lower, colour


def _draw_beanie(canvas: Canvas, portrait: Portrait) -> None:
    """Paint a knitted cap with a turned-up band."""
    lower, colour = _dome(canvas, portrait, -88, 46.5, -27)
    ribs = [np.array([p, (p[0] * 0.55, -82)]) for p in along(lower, 17)[1:-1]]
    canvas.darken(canvas.lines(ribs, 0.8, 0.5), (0.6, 0.6, 0.6), 0.35)
    band = np.concatenate([moved(lower, 0, 1), (lower * (1.01, 1) - (0, 13))[::-1]])
    stamp = canvas.area(band, 0.4)
    canvas.darken(canvas.lines([lower - (0, 13)], 1.6, 0.8), (0.5, 0.5, 0.5), 0.8)
    canvas.paint(stamp, mix(scaled(colour, 0.95), (1, 1, 1), 0.08), 0.8)
    stitches = [np.array([moved(p, 0, 1), moved(p, 0, -13)]) for p in along(lower, 34)]
    canvas.darken(canvas.lines(stitches, 0.8, 0.4).within(stamp), (0.5, 0.5, 0.5), 0.6)


def _draw_cap(canvas: Canvas, portrait: Portrait) -> None:
    """Paint a cap with a peak."""
    _, colour = _dome(canvas, portrait, -82, 46, -32)
    seam = [smooth([(x * 0.2, -83), (x * 0.8, -62), (x, -40)]) for x in (-24, 0, 24)]
    canvas.darken(canvas.lines(seam, 0.6, 0.4), (0.5, 0.5, 0.5), 0.6)
    shift = canvas.turn([(0, -36)], 8)[0] - (0, -36)
    peak = mirrored([(0, -36), (24, -34), (44, -28), (45.5, -21), (30, -20), (0, -22)])
    shape = canvas.area(smooth(peak, closed=True) + shift, 0.4)
    canvas.paint(shape, scaled(colour, 0.6))
    canvas.paint(canvas.area(ellipse(shift[0], -31, 28, 3), 3).within(shape), mix(colour, (1, 1, 1), 0.2), 0.6)


def _draw_fedora(canvas: Canvas, portrait: Portrait) -> None:
    """Paint a hat with a ribbon and a brim all round."""
    lower, colour = _dome(canvas, portrait, -90, 43, -35)
    band = canvas.area(np.concatenate([lower, (lower * (0.99, 1) - (0, 8))[::-1]]), 0.3)
    canvas.paint(band, scaled(colour, 0.35), 0.9)
    brim = smooth([(-70, -31), (-45, -33), (0, -30), (45, -33), (70, -31)])
    shape = canvas.area(ribbon(brim + (canvas.turn([(0, -36)])[0] - (0, -36)) * 0.6, (2, 9, 11, 9, 2)), 0.5)
    canvas.paint(shape, scaled(colour, 0.72))
    canvas.paint(canvas.area(ellipse(0, -35, 60, 2), 1.5).within(shape), mix(colour, (1, 1, 1), 0.3), 0.6)
