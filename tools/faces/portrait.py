"""What a drawn portrait shows: its parameters, how they are drawn at random, and the attributes they make true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from .portrait_canvas import Colour, View, mix

Hair = Literal["black", "brown", "blond", "gray", "red"]
Length = Literal["cropped", "short", "medium", "long"]
Hat = Literal["", "beanie", "cap", "fedora"]
Glasses = Literal["", "round", "square"]
Collar = Literal["crew", "vee", "shirt"]
Backdrop = Literal["studio", "gradient", "bokeh"]

SKIN: tuple[Colour, ...] = (
    (0.90, 0.72, 0.61),
    (0.86, 0.66, 0.53),
    (0.76, 0.56, 0.42),
    (0.60, 0.41, 0.30),
    (0.42, 0.28, 0.21),
)
"""Skin from light to dark; pale skin lies beyond the light end."""
PALE: Colour = (0.955, 0.855, 0.805)
HAIR: dict[Hair, Colour] = {
    "black": (0.085, 0.075, 0.075),
    "brown": (0.33, 0.20, 0.12),
    "blond": (0.83, 0.67, 0.40),
    "gray": (0.66, 0.66, 0.67),
    "red": (0.55, 0.21, 0.09),
}
IRISES: tuple[Colour, ...] = (
    (0.25, 0.15, 0.08),
    (0.38, 0.24, 0.12),
    (0.42, 0.42, 0.22),
    (0.32, 0.48, 0.40),
    (0.33, 0.50, 0.66),
    (0.48, 0.55, 0.60),
)


@dataclass(frozen=True)
class Face:
    """The features that stay the same in all portraits of one person.

    Attributes:
        male: shifts most of what follows.
        age: 0 young to 1 old.
        pale: whether the skin is pale; `skin` is its colour.
        skin: colour of skin in plain light.
        width, jaw, chin, cheeks: proportions of the head, 1 (cheeks: 0) for the usual.
        eye_size, eye_gap, eye_tilt: size and distance of the eyes, 1 for the usual; units their outer corners rise.
        iris: colour.
        brow_height, brow_arch: units the brows are raised, and bent.
        bushy: whether the brows are thick.
        nose_width, nose_length, mouth_width, lips: 1 for the usual.
        hair, hair_colour: name and colour of the hair; "red" is none of the attributes.
        wavy: whether the hair is, once it is long enough to tell.
        receding, bald: state of the hairline.
        hairline: units by which it is higher than usual.
        stubble: opacity of the beard's shadow, 0 to 1.
    """

    male: bool
    age: float
    pale: bool
    skin: Colour
    width: float
    jaw: float
    chin: float
    cheeks: float
    eye_size: float
    eye_gap: float
    eye_tilt: float
    iris: Colour
    brow_height: float
    brow_arch: float
    bushy: bool
    nose_width: float
    nose_length: float
    mouth_width: float
    lips: float
    hair: Hair
    hair_colour: Colour
    wavy: bool
    receding: bool
    bald: bool
    hairline: float
    stubble: float


@dataclass(frozen=True)
class Portrait:
    """One portrait of a face.

    Attributes:
        face: who it is.
        view: how the head stands.
        length, parting, volume: hair style; the parting in units from the middle, the volume in units.
        bangs, swept: whether hair falls over the forehead, and whether its top is combed to one side.
        hat, hat_colour: kind of hat, or the empty string.
        glasses, frame, tint: kind of glasses, or the empty string; colour of the frame; darkness of the lenses.
        mustache: whether there is one.
        makeup, lipstick, shadow: whether lips, lids and cheeks are painted, and in which colours.
        smile: how much the mouth's corners rise, -0.3 to 1; a smile from 0.5.
        opening: how far the mouth is open, 0 (closed) to 1.
        gaze: units by which the irises are off their middle.
        light: tangents of the light's direction, to the viewer's right and downwards.
        warmth: tint of the light, -1 (cold) to 1 (warm).
        collar, clothes: what is worn.
        backdrop, far, near: kind of background and its two colours.
        grain, blur: standard deviation of the sensor's noise, and of its blur in pixels.
        texture: seed of strands, bokeh and noise.
    """

    face: Face
    view: View
    length: Length
    parting: float
    volume: float
    bangs: bool
    swept: bool
    hat: Hat
    hat_colour: Colour
    glasses: Glasses
    frame: Colour
    tint: float
    mustache: bool
    makeup: bool
    lipstick: Colour
    shadow: Colour
    smile: float
    opening: float
    gaze: tuple[float, float]
    light: tuple[float, float]
    warmth: float
    collar: Collar
    clothes: Colour
    backdrop: Backdrop
    far: Colour
    near: Colour
    grain: float
    blur: float
    texture: int


def attributes(portrait: Portrait) -> dict[str, bool]:
    """Return CelebA's 18 attributes that the six-way experiments use, as they are to be seen in a portrait."""
    face, hat = portrait.face, bool(portrait.hat)
    hair = not face.bald and not (hat and portrait.length == "cropped")  # a hat leaves sideburns to be seen, if any
    shape = hair and portrait.length != "cropped" and not (hat and portrait.length == "short")
    return {
        "Bald": face.bald and not hat,
        "Bangs": portrait.bangs and hair and not hat,
        "Black_Hair": hair and face.hair == "black",
        "Blond_Hair": hair and face.hair == "blond",
        "Brown_Hair": hair and face.hair == "brown",
        "Bushy_Eyebrows": face.bushy,
        "Eyeglasses": bool(portrait.glasses),
        "Gray_Hair": hair and face.hair == "gray",
        "Heavy_Makeup": portrait.makeup,
        "Male": face.male,
        "Mouth_Slightly_Open": portrait.opening > 0,
        "Mustache": portrait.mustache,
        "Pale_Skin": face.pale,
        "Receding_Hairline": face.receding and not face.bald and not hat and not portrait.bangs,
        "Smiling": portrait.smile >= 0.5,
        "Straight_Hair": shape and not face.wavy,
        "Wavy_Hair": shape and face.wavy,
        "Wearing_Hat": hat,
    }


T = TypeVar("T")


def _pick(rng: np.random.Generator, shares: dict[T, float]) -> T:
    """Draw a key with a probability proportional to its value."""
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _near(rng: np.random.Generator, usual: float, spread: float) -> float:
    """Draw from a normal distribution, at most two standard deviations off."""
    return usual + spread * float(np.clip(rng.standard_normal(), -2, 2))


def _skin(rng: np.random.Generator, pale: bool) -> tuple[float, Colour]:
    """Return the depth of a skin, 0 light to 1 dark, and its colour."""
    depth = 0.0 if pale else float(rng.beta(0.9, 1.6))
    at = depth * (len(SKIN) - 1)
    index = min(int(at), len(SKIN) - 2)
    tone = PALE if pale else mix(SKIN[index], SKIN[index + 1], at - index)
    r, g, b = (t * _near(rng, 1, 0.012) for t in tone)
    return depth, (r, g, b)


def _hair(rng: np.random.Generator, depth: float, age: float) -> tuple[Hair, Colour]:
    """Return the name and colour of a hair that goes with a skin's depth and an age."""
    gray = max(0.0, age - 0.55) * 5
    light = max(0.0, 1 - 2.2 * depth)
    shares: dict[Hair, float] = {"black": 0.7, "brown": 0.7, "blond": 0.8 * light, "red": 0.2 * light, "gray": gray}
    name = _pick(rng, shares)
    bright = _near(rng, 1, 0.10)
    r, g, b = HAIR[name]
    return name, (r * bright, g * bright * _near(rng, 1, 0.02), b * bright)


def draw_face(rng: np.random.Generator) -> Face:
    """Choose the features of a person at random."""
    male = bool(rng.random() < 0.45)
    age = float(rng.beta(1.3, 1.7))
    pale = bool(rng.random() < 0.14)
    depth, skin = _skin(rng, pale)
    hair, hair_colour = _hair(rng, depth, age)
    irises = dict.fromkeys(IRISES[:2], 1.0) | dict.fromkeys(IRISES[2:], max(0.0, 1 - 2.5 * depth))
    bald = bool(rng.random() < (0.05 + 0.12 * age if male else 0.0))
    return Face(
        male=male,
        age=age,
        pale=pale,
        skin=skin,
        width=_near(rng, 1.0 if male else 0.97, 0.025),
        jaw=_near(rng, 1.04 if male else 0.95, 0.03),
        chin=_near(rng, 1.01 if male else 0.97, 0.02),
        cheeks=_near(rng, 0, 0.6),
        eye_size=_near(rng, 0.98 if male else 1.08, 0.05),
        eye_gap=_near(rng, 1, 0.025),
        eye_tilt=_near(rng, 0.2 if male else 0.7, 0.5),
        iris=_pick(rng, irises),
        brow_height=_near(rng, 0 if male else 0.8, 0.8),
        brow_arch=_near(rng, 0.6 if male else 1.5, 0.5),
        bushy=bool(rng.random() < (0.38 if male else 0.10)),
        nose_width=_near(rng, (1.06 if male else 0.94) + 0.12 * depth, 0.05),
        nose_length=_near(rng, 1.02 if male else 0.97, 0.04),
        mouth_width=_near(rng, 1, 0.05),
        lips=_near(rng, (0.85 if male else 1.08) + 0.25 * depth, 0.10),
        hair=hair,
        hair_colour=hair_colour,
        wavy=bool(rng.random() < (0.4 if male else 0.5)),
        receding=bool(male and rng.random() < 0.08 + 0.35 * age) or bool(rng.random() < 0.015),
        bald=bald,
        hairline=_near(rng, 1.0 if male else 0.0, 1.5),
        stubble=float(rng.random() ** 2) if male else 0.0,
    )


def _vivid(rng: np.random.Generator, low: float, high: float, grayness: float) -> Colour:
    """Draw a colour of any hue, between two brightnesses, mixed with `grayness` of gray."""
    value = float(rng.uniform(low, high))
    hue = rng.random(3)
    r, g, b = (value * (grayness + (1 - grayness) * h / hue.max()) for h in hue)
    return (float(r), float(g), float(b))


def draw_view(rng: np.random.Generator) -> View:
    """Draw how a head stands."""
    return View(
        scale=_near(rng, 0.985, 0.02),
        roll=_near(rng, 0, 0.035),
        yaw=_near(rng, 0, 0.09),
        pitch=_near(rng, 0, 0.03),
        shift=(_near(rng, 0, 1.2), _near(rng, 0, 1.2)),
    )


def draw_portrait(face: Face, rng: np.random.Generator) -> Portrait:
    """Choose the circumstances of one portrait at random: hair length, clothes, pose, light."""
    male = face.male
    lengths: dict[Length, float] = (
        {"cropped": 0.35, "short": 0.55, "medium": 0.10} if male else {"short": 0.10, "medium": 0.35, "long": 0.55}
    )
    length = "short" if face.receding and rng.random() < 0.7 else _pick(rng, lengths)
    smiling = bool(rng.random() < (0.42 if male else 0.55))
    is_open = bool(rng.random() < (0.70 if smiling else 0.25))
    hats: dict[Hat, float] = {"": 0.91 if male else 0.94, "beanie": 0.03, "cap": 0.04 if male else 0.01, "fedora": 0.02}
    kinds: dict[Glasses, float] = {"": 0.82 if male else 0.92, "round": 0.05, "square": 0.09 if male else 0.04}
    backdrops: dict[Backdrop, float] = {"studio": 0.35, "gradient": 0.35, "bokeh": 0.30}
    # Cropped hair cannot hang, and a receding hairline is to be seen.
    style = 1.0 if length == "cropped" or face.receding else float(rng.random())
    dim = bool(rng.random() < 0.5)
    return Portrait(
        face=face,
        view=draw_view(rng),
        length=length,
        parting=_near(rng, 0, 9),
        volume=float(rng.uniform(3, 9)),
        bangs=style < (0.06 if male else 0.26),
        swept=(0.06 if male else 0.26) <= style < 0.65,
        hat=_pick(rng, hats),
        hat_colour=_vivid(rng, 0.15, 0.7, 0.55),
        glasses=_pick(rng, kinds),
        frame=_pick(rng, {(0.05, 0.05, 0.06): 3.0, (0.25, 0.13, 0.07): 1.0, (0.35, 0.06, 0.08): 0.5}),
        tint=float(rng.uniform(0, 0.12)) if rng.random() < 0.85 else float(rng.uniform(0.25, 0.45)),
        mustache=bool(male and rng.random() < 0.16),
        makeup=bool(rng.random() < (0.004 if male else 0.60 - 0.2 * face.age)),
        lipstick=_pick(rng, {(0.75, 0.12, 0.18): 1.0, (0.80, 0.25, 0.35): 1.0, (0.60, 0.10, 0.22): 0.8}),
        shadow=_pick(rng, {(0.25, 0.16, 0.14): 1.0, (0.30, 0.20, 0.34): 0.7, (0.18, 0.22, 0.32): 0.6}),
        smile=float(rng.uniform(0.65, 1.0)) if smiling else float(rng.uniform(-0.3, 0.15)),
        opening=float(rng.uniform(0.4, 1.0)) if is_open else 0.0,
        gaze=(_near(rng, 0, 0.5), _near(rng, 0, 0.25)),
        light=(_near(rng, 0, 0.35), float(rng.uniform(-0.75, -0.25))),
        warmth=_near(rng, 0.1, 0.4),
        collar=_pick(rng, {"crew": 1.0, "vee": 1.0, "shirt": 1.2 if male else 0.5}),
        clothes=_vivid(rng, 0.08, 0.85, 0.6),
        backdrop=_pick(rng, backdrops),
        far=_vivid(rng, 0.10, 0.40, 0.65) if dim else _vivid(rng, 0.55, 0.92, 0.82),
        near=_vivid(rng, 0.15, 0.50, 0.55) if dim else _vivid(rng, 0.55, 0.95, 0.78),
        grain=float(rng.uniform(0.002, 0.008)),
        blur=float(rng.uniform(0.25, 0.6)),
        texture=int(rng.integers(2**31)),
    )
