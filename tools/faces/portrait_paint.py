"""Paints a portrait from its parameters, back to front."""

from __future__ import annotations

import cv2
import numpy as np

from . import portrait_dress as dress
from . import portrait_face as head
from . import portrait_hair as hair
from .portrait import Portrait
from .portrait_canvas import Array, Canvas


def paint(portrait: Portrait) -> Array:
    """Paint a portrait.

    Args:
        portrait: what it shows; the same parameters give the same pixels.

    Returns:
        uint8 `(218, 178, 3)`: red, green, blue.
    """
    rng = np.random.default_rng(portrait.texture)
    canvas = Canvas(portrait.view)
    dress.draw_backdrop(canvas, portrait, rng)
    hair.draw_back_hair(canvas, portrait, rng)
    head.draw_neck(canvas, portrait)
    dress.draw_clothes(canvas, portrait)
    head.draw_ears(canvas, portrait)
    face = head.draw_skin(canvas, portrait)
    head.draw_nose(canvas, portrait)
    head.draw_mouth(canvas, portrait)
    head.draw_eyes(canvas, portrait)
    head.draw_brows(canvas, portrait, rng)
    hair.draw_mustache(canvas, portrait, rng)
    dress.draw_glasses(canvas, portrait)
    hair.draw_hair(canvas, portrait, rng, face)
    dress.draw_hat(canvas, portrait)
    return _photograph(canvas.finish() * _light(portrait), portrait, rng)


def _photograph(picture: Array, portrait: Portrait, rng: np.random.Generator) -> Array:
    """Return what a camera makes of a picture: a little blur and, more in the dark, a little noise."""
    blurred = cv2.GaussianBlur(picture, (5, 5), portrait.blur)
    noise = rng.standard_normal(picture.shape[:2], np.float32) * np.float32(portrait.grain)
    noisy = blurred + noise[..., None]
    pixels: Array = np.rint(noisy.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _light(portrait: Portrait) -> Array:
    """Return what the light's colour multiplies red, green and blue by."""
    warm = 0.05 * portrait.warmth
    return np.array([1 + warm, 1.0, 1 - 1.4 * warm], np.float32)
