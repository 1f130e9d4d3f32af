"""Paints a portrait's head: skin shaped by light, neck, ears, eyes, brows, nose and mouth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .portrait import Portrait
from .portrait_canvas import Array, Canvas, Stamp, along, ellipse, mirrored, mix, moved, ribbon, scaled, smooth

MOUTH = 41.5
"""y of the closed mouth."""
EYE = 19.4
"""x of the middle of an eye."""
CREASE = (0.68, 0.50, 0.46)
"""What a fold of skin multiplies it by."""
_LEFT, _TOP = -70, -96
"""Face units of the first column and row of the plane on which skin is computed."""
_X = np.arange(_LEFT, 70, dtype=np.float32)
_Y = np.arange(_TOP, 100, dtype=np.float32)


def jaw_drop(portrait: Portrait) -> float:
    """Return by how many units the chin sinks as the mouth opens."""
    return 4.5 * portrait.opening


def draw_neck(canvas: Canvas, portrait: Portrait) -> None:
    """Paint neck and chest, darkest below the chin."""
    skin, wide = portrait.face.skin, 26.5 if portrait.face.male else 20.5
    half = [(wide, 40), (wide + 0.5, 76), (wide + 14, 92), (62, 118)]
    neck = canvas.area(smooth(np.concatenate([half, (np.array(half) * (-1, 1))[::-1]]), closed=True))
    canvas.paint(neck, scaled(skin, 0.88))
    side = 1 if portrait.light[0] > 0 else -1
    canvas.darken(canvas.area(ellipse(-side * (wide + 4), 75, 16, 50), 8).within(neck), (0.72, 0.60, 0.56))
    ((x, y),) = canvas.turn([(0, 66 * portrait.face.chin + jaw_drop(portrait))])
    canvas.darken(canvas.area(ellipse(x - 4 * portrait.light[0], y, 33, 23), 6).within(neck), (0.60, 0.46, 0.42))
    tendons = [smooth([(s * (wide - 5), 82), (s * 10, 96), (s * 4, 104)]) for s in (-1, 1)]
    canvas.darken(canvas.lines(tendons, 1.5, 1.5), CREASE, 0.35)


def draw_ears(canvas: Canvas, portrait: Portrait) -> None:
    """Paint the ears; the head hides more of the one that it turns towards."""
    skin = portrait.face.skin
    for side in (-1, 1):
        at = (side * (41 * portrait.face.width - 30 * max(0.0, side * portrait.view.yaw)), 6)
        shape = np.array([(-4, -7), (2, -9), (5.5, -5), (5, 4), (3, 12), (0, 16), (-4, 13)]) * (side, 1) + at
        ear = canvas.area(smooth(shape, closed=True))
        lit = 0.88 + 0.16 * side * portrait.light[0]
        canvas.paint(ear, (skin[0] * lit, skin[1] * lit * 0.90, skin[2] * lit * 0.87))
        fold = smooth(np.array([(0, -6), (3.2, -4), (2.6, 3), (0.5, 8)]) * (side, 1) + at)
        canvas.darken(canvas.lines([fold], 1.2, 0.5).within(ear), (0.72, 0.55, 0.50), 0.8)


def draw_skin(canvas: Canvas, portrait: Portrait) -> Stamp:
    """Paint the head's skin, and return where it is."""
    head = canvas.area(_outline(portrait), 0.3)
    canvas.paint(head, canvas.project(_complexion(portrait), _LEFT, _TOP, head))
    _draw_folds(canvas, portrait)
    face = portrait.face
    if face.stubble > 0.1:
        beard = smooth(mirrored([(0, 31), (16, 33), (26, 37), (39, 22), (42, 60), (24, 76), (0, 78)]), closed=True)
        tint = mix((0.60, 0.60, 0.64), face.hair_colour, 0.2)
        canvas.darken(canvas.area(canvas.turn(beard), 5).within(head), tint, 0.5 * face.stubble)
    return head


def _outline(portrait: Portrait) -> Array:
    """Return the outline of the head, ears and hair aside, as it appears."""
    face = portrait.face
    top = [(0, -70), (20, -66), (34, -51), (40.5, -27), (41.5, 0)]
    half = np.array([*top, (40, 23), (35.5, 43), (27.5, 56.5), (17, 66.5), (7.5, 71.5), (0, 72.5)])
    half[:, 0] *= face.width * (1 + (face.jaw - 1) * np.clip((half[:, 1] - 10) / 45, 0, 1))
    half[4:7, 0] += face.cheeks + 0.6 * max(0.0, portrait.smile)
    half[:, 1] *= np.where(half[:, 1] > 0, face.chin, 1)
    half[:, 1] += jaw_drop(portrait) * np.clip((half[:, 1] - 30) / 35, 0, 1)
    return portrait.view.turn(smooth(mirrored(half), closed=True))


def _humps(portrait: Portrait, table: Sequence[tuple[float, ...]]) -> Array:
    """Return a sum of Gaussian humps on the skin's plane, as they appear once the head is turned.

    Args:
        portrait: whose head.
        table: x, y, half-width, half-height and height of each hump; one off the middle stands for both sides.
    """
    rows = np.array([*table, *((-x, *rest) for x, *rest in table if x)])
    at = portrait.view.turn(rows[:, :2], 4.0)
    x, y, wide, high, height = np.concatenate([at, rows[:, 2:]], 1).astype(np.float32).T[..., None]
    across, down = np.exp(((_X - x) / wide) ** 2 / -2), height * np.exp(((_Y - y) / high) ** 2 / -2)
    summed: Array = down.T @ across  # (rows, humps) @ (humps, columns)
    return summed


def _relief(portrait: Portrait) -> Array:
    """Return how far the skin stands out towards the viewer, in units, on the skin's plane."""
    face, smile, drop = portrait.face, max(0.0, portrait.smile), jaw_drop(portrait)
    tip, eye, broad = 22 * face.nose_length, EYE * face.eye_gap, face.nose_width
    skull = 1 - (_X / 48) ** 2 - (((_Y - 2) / (82 + drop)) ** 2)[:, None]
    bridge = [(0, 1 + t * (tip - 3), (3.8 + 2.0 * t) * broad, 6, 1.0 + 1.2 * t) for t in (0, 0.25, 0.5, 0.75, 1)]
    relief: Array = 36 * np.sqrt(np.maximum(skull, 0.04)) + _humps(
        portrait,
        [
            *bridge,
            (0, tip, 5.6 * broad, 4.8, 4.6),
            (7.4 * broad, tip + 2.5, 3.4, 3.2, 2.6),  # wings of the nose
            (eye, -11, 11, 3.6, 1.6),  # brow ridge
            (eye - 3, -1.5, 8.5, 5.5, -4.0),  # eye socket
            (eye, 0.5, 6.5, 4.0, 2.4),  # the eyeball in it
            (25, 20 - 2 * smile, 9, 8, 2.6 + 1.4 * smile),  # cheekbone
            (29, 41, 6, 9, -1.4 - 0.8 * face.age),  # hollow below it
            (0, MOUTH, 14, 8, 2.8),
            (0, MOUTH + 12.5 + drop, 9, 3, -2.2),
            (0, 63 * face.chin + drop, 9, 6, 2.8),
            (0, 32.5, 1.8, 3.5, -0.8),  # philtrum
            (14, -34, 15, 11, 1.2),  # forehead
            (37, -20, 5, 10, -1.8),  # temple
        ],
    )
    return relief.astype(np.float32)


def _complexion(portrait: Portrait) -> list[Array]:
    """Return red, green and blue of lit skin on the skin's plane: Lambert shading of the relief, and gloss.

    Shadows on skin turn red rather than gray, since it scatters red light most: each channel is the shade to
    its own power.
    """
    face, slope = portrait.face, np.gradient(_relief(portrait))
    slant = 1 / np.sqrt(slope[0] ** 2 + slope[1] ** 2 + 1)

    def facing(x: float, y: float, z: float) -> Array:
        x, y, z = np.array([x, y, z], np.float32) / np.float32(np.sqrt(x * x + y * y + z * z))
        cosine: Array = np.maximum((z - slope[1] * x - slope[0] * y) * slant, 0)
        return cosine

    shade = 0.30 + 0.76 * facing(*portrait.light, 1)
    gloss = 0.10 * facing(*portrait.light, 2) ** 28
    cast = (-6 * portrait.light[0], 22 * face.nose_length + 9)
    shade *= 1 - _humps(
        portrait,
        [
            (EYE - 2, -4, 9, 4, 0.13),  # little light reaches the eyes' inner corners
            (EYE - 1, 9, 8, 3, 0.05 + 0.10 * face.age),
            (40, 40, 10, 16, 0.08),
        ],
    )
    shade *= 1 - 0.20 * np.outer(np.exp(-(((_Y - cast[1]) / 3.2) ** 2) / 2), np.exp(-(((_X - cast[0]) / 8) ** 2) / 2))
    depth = np.log(shade)
    red = 0.40 if portrait.makeup else 0.15
    blush = _humps(portrait, [(27, 20, 9, 7, red), (0, 22, 7, 6, 0.12), (0, 62, 8, 6, 0.06)])
    powers, fades = (0.80, 1.05, 1.15), (0.02, 0.45, 0.38)
    planes = [
        tone * np.exp(power * depth) * (1 - fade * blush) + gloss
        for tone, power, fade in zip(face.skin, powers, fades, strict=True)
    ]
    if portrait.makeup:
        lids = np.minimum(_humps(portrait, [(EYE + 1, -5, 8, 3.2, 0.62)]), 0.8)
        planes = [plane + (tone - plane) * lids for plane, tone in zip(planes, portrait.shadow, strict=True)]
    return [plane.astype(np.float32) for plane in planes]


def _draw_folds(canvas: Canvas, portrait: Portrait) -> None:
    """Paint the folds that age and a smile draw."""
    face, smile = portrait.face, max(0.0, portrait.smile)
    fold = smooth([(10.5 * face.nose_width, 26), (17, 33), (21.5 + 2 * smile, 42), (22, 47)])
    bag = smooth([(EYE - 8, 5), (EYE, 8), (EYE + 7, 6)])
    feet = [np.array([(29.5, 1.0), (34, 1 + dy)]) for dy in (-3, 0, 3)]
    for side in ((-1, 1), (1, 1)):
        cheek = canvas.area(ribbon(canvas.turn(fold * side), (0.5, 2.4, 0.4)), 0.8)
        canvas.darken(cheek, CREASE, 0.25 * face.age + 0.5 * smile)
        canvas.darken(canvas.lines([canvas.turn(bag * side)], 0.8, 0.6), CREASE, 0.12 + 0.45 * face.age)
        if face.age > 0.4:
            canvas.darken(canvas.lines([canvas.turn(f * side) for f in feet], 0.5, 0.4), CREASE, 0.7 * face.age - 0.28)
    if face.age > 0.45:
        brow = [canvas.turn(smooth([(-22, y), (-8, y - 1), (8, y - 1), (22, y)])) for y in (-25, -31, -37)]
        canvas.darken(canvas.lines(brow, 0.7, 0.5), CREASE, 0.8 * (face.age - 0.45))


def draw_eyes(canvas: Canvas, portrait: Portrait) -> None:
    """Paint both eyes."""
    for side in (-1, 1):
        _draw_eye(canvas, portrait, side)


def _draw_eye(canvas: Canvas, portrait: Portrait, side: int) -> None:
    """Paint one eye: white, iris, pupil, glint and lids. Its own x points away from the nose."""
    face, size = portrait.face, portrait.face.eye_size
    squint = 0.7 * max(0.0, portrait.smile) + 0.5 * face.age
    w, up, low, tilt = 8.7 * size, 4.7 * size - 0.6 * squint, 3.2 * size - 0.8 * squint, face.eye_tilt

    def place(points: Array) -> Array:
        return canvas.turn(points * (side, 1) + (side * EYE * face.eye_gap, 0))

    upper = smooth([(-w, 1.7), (-0.6 * w, -0.5 * up), (-0.1 * w, -up), (0.5 * w, -0.78 * up), (w, -tilt)])
    lower = smooth([(w, -tilt), (0.5 * w, 0.75 * low), (-0.1 * w, low), (-0.65 * w, 0.75 * low), (-w, 1.7)])
    opening = canvas.area(place(np.concatenate([upper, lower])), 0.2)
    canvas.paint(opening, (0.94, 0.91, 0.89))
    gaze_x, gaze_y = side * portrait.gaze[0], portrait.gaze[1] - 0.5
    iris = 4.5 * size

    def disc(radius: float, dx: float = 0.0, dy: float = 0.0, soft: float = 0.3) -> Stamp:
        return canvas.area(place(ellipse(gaze_x + dx, gaze_y + dy, radius, radius, 20)), soft).within(opening)

    canvas.paint(disc(iris), scaled(face.iris, 0.35))
    canvas.paint(disc(iris * 0.84), face.iris)
    canvas.paint(disc(iris * 0.5, 0, iris * 0.35, 0.7), scaled(face.iris, 1.7), 0.7)
    canvas.paint(disc(iris * 0.46), (0.02, 0.02, 0.02))
    canvas.darken(canvas.lines([place(upper)], 2.6, 0.7).within(opening), (0.45, 0.40, 0.40), 0.8)
    canvas.paint(disc(1.0, side * (1.5 if portrait.light[0] > 0 else -1.5), -1.6), (1, 1, 1), 0.95)

    line = scaled(face.skin, 0.42)
    canvas.paint(canvas.lines([place(lower[2:])], 0.6, 0.2), line, 0.5)
    crease = upper * (1.04, 1) - (0, 2.8 * size)
    canvas.paint(canvas.area(place(ribbon(crease, (0.3, 1.2, 1.0, 0.3))), 0.4), line, 0.55)
    thick = 2.2 if portrait.makeup else (1.1 if face.male else 1.5)
    corner = [(w + (2.2 if portrait.makeup else 0.6), -tilt - (1.6 if portrait.makeup else 0.2))]
    rim = np.concatenate([upper - (0, 0.3), corner])
    canvas.paint(canvas.area(place(ribbon(rim, (0.5, thick, thick, 0.4))), 0.2), (0.06, 0.04, 0.04), 0.92)
    if portrait.makeup:
        roots = along(upper, 9)[2:]
        tips = roots + np.stack([np.linspace(-0.5, 3.2, 7), np.linspace(-2.8, -2.2, 7)], 1)
        canvas.paint(canvas.lines([place(pair) for pair in np.stack([roots, tips], 1)], 0.5), (0.05, 0.03, 0.03), 0.85)
        canvas.paint(canvas.lines([place(lower[2:20])], 0.8, 0.3), (0.05, 0.03, 0.03), 0.6)


def draw_brows(canvas: Canvas, portrait: Portrait, rng: np.random.Generator) -> None:
    """Paint the brows: a soft band with short hairs in it."""
    face = portrait.face
    thick, count = (5.8, 40) if face.bushy else (3.5 if face.male else 2.6, 26)
    colour = scaled(face.hair_colour, 0.55 if face.hair in ("blond", "gray") else 0.8)
    y = -10.4 - face.brow_height - (1.2 if face.bushy else 0.4)
    spine = smooth([(8.5, y + 0.8), (16, y - 1.0), (25.5, y - 1.2 - face.brow_arch), (36, y + 3.2)])
    shape = ribbon(spine, (0.8 * thick, thick, 0.85 * thick, 0.25))
    # Hairs rise near the nose and lie down along the brow towards the temple.
    share = np.linspace(0, 1, count)[:, None]
    flow = np.gradient(along(spine, count), axis=0)
    flow /= np.linalg.norm(flow, axis=1, keepdims=True)
    lay = flow * (0.25 + share) + np.array([0, -1.0]) * (1 - share) ** 1.5
    for side in ((-1, 1), (1, 1)):
        band = canvas.area(canvas.turn(shape * side), 0.6)
        canvas.paint(band, colour, 0.80 if face.bushy else 0.60)
        roots = along(spine, count) + rng.normal(0, 0.15, (count, 2)) * (1, thick * (1.1 - share[:, 0]).mean())
        tips = roots + lay * (0.55 * thick + 0.8) * (1.1 - 0.5 * share)
        hairs = [canvas.turn(pair * side) for pair in np.stack([roots, tips], 1)]
        canvas.paint(canvas.lines(hairs, 0.5), scaled(colour, 0.65), 0.7)


def draw_nose(canvas: Canvas, portrait: Portrait) -> None:
    """Paint what shading alone does not show of the nose: nostrils, wings, and the light on ridge and tip."""
    face, side = portrait.face, 1 if portrait.light[0] > 0 else -1
    base, broad = 22 * face.nose_length + 5, face.nose_width
    dark = scaled(face.skin, 0.40)
    nostril = smooth([(2.0, 0.9), (4.2, -0.8), (6.4, -0.2), (5.8, 1.1), (3.2, 1.6)], closed=True, steps=5)
    wing = smooth([(7.6, -6), (9.6, -2.6), (9.2, 0.8), (6.2, 1.9)])
    ridge = smooth([(6.8, -9), (4.6, 0), (5.2, 9), (6.4, 16)])
    for s in (-1, 1):
        edge = (s * broad, 1)
        flank = canvas.area(ribbon(canvas.turn(ridge * (s, 1), 3), (3.5, 2.5, 2.5, 1)), 2.2)
        canvas.darken(flank, (0.72, 0.58, 0.54), 0.20 if s == side else 0.55)
        canvas.paint(canvas.area(canvas.turn(nostril * edge + (0, base), 4), 0.5), scaled(face.skin, 0.22), 0.8)
        rim = canvas.area(ribbon(canvas.turn(wing * edge + (0, base), 3), (0.4, 1.3, 1.3, 0.4)), 0.6)
        canvas.paint(rim, dark, 0.6)
    under = smooth([(-3.4, base + 1.2), (0, base + 2.8), (3.4, base + 1.2)])
    canvas.paint(canvas.area(ribbon(canvas.turn(under, 4), (0.4, 1.2, 0.4)), 0.5), dark, 0.5)
    shine = (1, 0.97, 0.93)
    canvas.paint(canvas.area(canvas.turn(ellipse(0.8 * side, 9, 1.2, 8), 5), 1.4), shine, 0.20)
    canvas.paint(canvas.area(canvas.turn(ellipse(1.2 * side, base - 6.5, 2.4, 1.8), 7), 1.2), shine, 0.38)


def draw_mouth(canvas: Canvas, portrait: Portrait) -> None:
    """Paint the mouth: what shows inside if it is open, both lips, and their shadows."""
    face, smile, glad = portrait.face, portrait.smile, max(0.0, portrait.smile)
    w = 17 * face.mouth_width * (1 + 0.16 * glad - 0.10 * portrait.opening * (1 - glad))
    gap = 2.6 + (6.8 - 1.8 * glad) * portrait.opening if portrait.opening else 0.0
    corner, middle = MOUTH - 3.4 * smile, MOUTH + 1.2 * smile - 0.25 * gap
    full = 4.3 * face.lips * (1 - 0.22 * glad)
    natural = mix(scaled(face.skin, 0.8), (0.62, 0.25, 0.26), 0.5)
    lip = mix(natural, portrait.lipstick, 0.8) if portrait.makeup else natural

    def place(points: Array) -> Array:
        return canvas.turn(points, 2)

    rise, top, low = corner - middle, middle - full, middle + gap + 1.45 * full
    ends = [(-w, corner), (w, corner)]
    side = np.array([(0.2 * w, top - 0.5), (0.55 * w, top + 0.9 + 0.3 * rise)])
    bow = smooth([ends[0], *(side * (-1, 1))[::-1], (0, top + 0.6), *side, ends[1]])
    seam = smooth(
        [ends[0], (-0.5 * w, middle + 0.45 * rise), (0, middle + 0.5), (0.5 * w, middle + 0.45 * rise), ends[1]]
    )
    # A smile parts the lips up to its corners, other mouths in their middle.
    parting = np.sin(np.linspace(0, np.pi, len(seam))) ** (1.6 - 0.9 * glad)
    inner = seam + np.stack([np.zeros(len(seam)), gap * parting], 1)
    side = np.array([(0.2 * w, low), (0.58 * w, low - 2.6 + 0.35 * rise)])
    bottom = smooth([ends[0], *(side * (-1, 1))[::-1], *side, ends[1]], steps=6)
    canvas.darken(canvas.area(place(ellipse(0, low + 2.6, 0.55 * w, 2.0)), 1.4), (0.66, 0.50, 0.48), 0.7)
    if gap:
        _draw_inside(canvas, place(seam), place(inner), gap, glad)
    upper = canvas.area(place(np.concatenate([bow, seam[::-1]])), 0.3)
    lower = canvas.area(place(np.concatenate([inner, bottom[::-1]])), 0.4)
    canvas.paint(upper, scaled(lip, 0.80), 0.92)
    canvas.paint(lower, lip, 0.90)
    gloss = canvas.area(place(ellipse(2 * portrait.light[0], low - 0.55 * full, 0.32 * w, 0.9)), 1.0).within(lower)
    canvas.paint(gloss, (1, 0.92, 0.90), 0.45 if portrait.makeup else 0.25)
    line = canvas.area(place(ribbon(seam, (0.5, 1.1, 1.1, 1.1, 0.5))), 0.2)
    canvas.paint(line, scaled(mix(lip, (0.25, 0.08, 0.08), 0.6), 0.55), 0.85)
    for x, y in ends:
        canvas.darken(canvas.area(place(ellipse(x, y, 1.6, 1.4, 12)), 0.8), (0.55, 0.40, 0.38), 0.7)


def _draw_inside(canvas: Canvas, upper: Array, lower: Array, gap: float, glad: float) -> None:
    """Paint teeth and tongue between the lips' inner edges."""
    inside = canvas.area(np.concatenate([upper, lower[::-1]]), 0.2)
    canvas.paint(inside, (0.20, 0.06, 0.06))
    x, y = upper.mean(0)
    canvas.paint(canvas.area(ellipse(x, y + gap + 1.5, 8, 2.6), 0.8).within(inside), (0.66, 0.32, 0.32), 0.8)
    reach = min(0.9 * gap, 1.8 + 3.2 * glad)
    shown = canvas.area(np.concatenate([upper, moved(upper, 0, reach)[::-1]]), 0.3).within(inside)
    canvas.paint(shown, (0.93, 0.91, 0.87))
    gaps = [np.array([p, moved(p, 0, reach)]) for p in along(upper, 13)[2:-2]]
    canvas.darken(canvas.lines(gaps, 0.5, 0.3).within(shown), (0.80, 0.76, 0.74), 0.6)
    canvas.darken(canvas.lines([upper[3:-3]], 1.4, 0.8).within(shown), (0.6, 0.5, 0.5), 0.6)
