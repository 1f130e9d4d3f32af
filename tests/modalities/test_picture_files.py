"""Pictures of every depth mean the same as their 8-bit twin, wherever they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from modalkit_tools.faces import transforms
from PIL import Image
from support.toys import here

from modalkit import registry
from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.inference.values import as_batch
from modalkit.playground.controls import Control, value_of

SIZE = 16
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
BITS = RNG.random((SIZE, SIZE)) < 0.5
CLEAR = RNG.random((SIZE, SIZE)) < 0.3
SCHEMAS = {1: registry.schema("image", size=SIZE, channels=1), 3: registry.schema("image", size=SIZE, channels=3)}


def with_pillow(picture: Image.Image, suffix: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, {".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **how)
    return file.getvalue()


def gray16(suffix: str, **how: Any) -> bytes:
    return with_pillow(Image.fromarray(GRAY.astype(np.uint16) * 257), suffix, **how)


def colour16(suffix: str, alpha: bool = False) -> bytes:
    deep = COLOUR[..., ::-1].astype(np.uint16) * 257
    if alpha:
        deep = np.concatenate([deep, np.where(CLEAR, 0, 65535).astype(np.uint16)[..., None]], 2)
    return bytes(cv2.imencode(suffix, deep)[1])


def palette(clear: bool) -> bytes:
    picture = Image.fromarray((COLOUR > 127).astype(np.uint8) * 255).quantize(8)
    return with_pillow(picture, ".png", **({"transparency": picture.getpixel((0, 0))} if clear else {}))


def palette_twin(clear: bool) -> np.ndarray[Any, Any]:
    twin = (COLOUR > 127).astype(np.uint8) * 255
    return np.where((twin == twin[0, 0]).all(2, keepdims=True), 255, twin) if clear else twin


def over_white(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(CLEAR.reshape(SIZE, SIZE, *[1] * (picture.ndim - 2)), 255, picture)


def turned() -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter clockwise
    return {"exif": exif}


OPACITY = np.where(CLEAR, 0, 255).astype(np.uint8)
KEY = int(GRAY[0, 0])
PICTURES: dict[str, tuple[str, Callable[[], bytes], np.ndarray[Any, Any]]] = {
    "16-bit PNG": (".png", lambda: gray16(".png"), GRAY),
    "16-bit TIFF": (".tif", lambda: gray16(".tif"), GRAY),
    "16-bit TIFF, upside down": (".tif", lambda: gray16(".tif", **turned()), np.rot90(GRAY, -1)),
    "16-bit TIFF, big-endian": (
        ".tif",
        lambda: with_pillow(Image.fromarray((GRAY.astype(np.uint16) * 257).astype(">u2")), ".tif"),
        GRAY,
    ),
    "16-bit PNG, a transparent value": (
        ".png",
        lambda: gray16(".png", transparency=KEY * 257),
        np.where(GRAY == KEY, 255, GRAY),
    ),
    "16-bit PGM": (".pgm", lambda: with_pillow(Image.fromarray(GRAY.astype(np.int32) * 257), ".ppm"), GRAY),
    "16-bit colour": (".png", lambda: colour16(".png"), COLOUR),
    "16-bit colour, transparent": (".png", lambda: colour16(".png", alpha=True), over_white(COLOUR)),
    "float TIFF": (".tif", lambda: with_pillow(Image.fromarray(GRAY.astype(np.float32) / 255), ".tif"), GRAY),
    "1-bit PNG": (".png", lambda: with_pillow(Image.fromarray(BITS), ".png"), BITS.astype(np.uint8) * 255),
    "1-bit TIFF": (".tif", lambda: with_pillow(Image.fromarray(BITS), ".tif"), BITS.astype(np.uint8) * 255),
    "palette": (".png", lambda: palette(False), palette_twin(False)),
    "palette, a transparent colour": (".png", lambda: palette(True), palette_twin(True)),
    "gray with alpha": (
        ".png",
        lambda: with_pillow(Image.fromarray(np.stack([GRAY, OPACITY], 2)), ".png"),
        over_white(GRAY),
    ),
    "colour with alpha": (
        ".png",
        lambda: with_pillow(Image.fromarray(np.concatenate([COLOUR, OPACITY[..., None]], 2)), ".png"),
        over_white(COLOUR),
    ),
    "gray PNG, a transparent value": (
        ".png",
        lambda: with_pillow(Image.fromarray(GRAY), ".png", transparency=KEY),
        np.where(GRAY == KEY, 255, GRAY),
    ),
    "8-bit PNG on its side": (
        ".png",
        lambda: with_pillow(Image.fromarray(COLOUR), ".png", **turned()),
        np.rot90(COLOUR, -1),
    ),
}


def stored(twin: np.ndarray[Any, Any]) -> tuple[int, torch.Tensor]:
    """Return the number of channels and the bytes `(channels, height, width)` of an 8-bit picture."""
    pixels = torch.from_numpy(np.ascontiguousarray(twin))
    return (1, pixels[None]) if twin.ndim == 2 else (3, pixels.permute(2, 0, 1))


@pytest.mark.parametrize("name", PICTURES)
def test_questions_take_a_picture_as_its_8_bit_twin(name: str, tmp_path: Path) -> None:
    suffix, content, twin = PICTURES[name]
    channels, expected = stored(twin)
    (path := tmp_path / f"picture{suffix}").write_bytes(content())
    schemas = {"x": SCHEMAS[channels]}
    assert torch.equal(as_batch(schemas, {"x": path}).values["x"][0], expected)
    with Image.open(path) as picture:
        assert torch.equal(as_batch(schemas, {"x": picture}).values["x"][0], expected)
    if suffix != ".pgm":  # the page lists the formats that it takes
        uploaded = value_of(Control("x", schemas["x"], "picture"), [path.read_bytes()])
        assert torch.equal(as_batch(schemas, {"x": uploaded}).values["x"][0], expected)


def test_the_folder_builder_takes_pictures_as_their_8_bit_twins(tmp_path: Path) -> None:
    wanted = {name: (content, twin) for name, (suffix, content, twin) in PICTURES.items() if suffix != ".pgm"}
    for number, (name, (content, _)) in enumerate(wanted.items()):
        (folder := tmp_path / "own" / f"m{number:02}").mkdir(parents=True)
        (folder / f"1{PICTURES[name][0]}").write_bytes(content())
    assert here("build-dataset", "folder", "own", "--size", SIZE, "--out", "d", "--yes", cwd=tmp_path).returncode == 0
    data = Dataset(tmp_path / "d")
    batch = data[torch.arange(1)]
    for number, (name, (_, twin)) in enumerate(wanted.items()):
        assert torch.equal(batch.values[f"m{number:02}"][0], stored(twin)[1]), name


@pytest.mark.parametrize("name", PICTURES)
def test_photos_of_faces_are_decoded_as_their_8_bit_twins(name: str) -> None:
    twin = PICTURES[name][2]
    colour = twin if twin.ndim == 3 else np.repeat(twin[..., None], 3, 2)
    assert np.array_equal(transforms.decode(PICTURES[name][1]()), colour)


@pytest.mark.parametrize("quality", [40, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_photos_of_faces_are_decoded_as_other_pictures_are(quality: int, subsampling: int, tmp_path: Path) -> None:
    soft = cv2.GaussianBlur(RNG.integers(0, 256, (45, 33, 3), dtype=np.uint8), (0, 0), 2)
    jpeg = with_pillow(Image.fromarray(soft), ".jpeg", quality=quality, subsampling=subsampling, **turned())
    (path := tmp_path / "photo.jpg").write_bytes(jpeg)
    schema = registry.schema("image", size=(33, 45), channels=3)
    read = as_batch({"x": schema}, {"x": path}).values["x"][0]
    assert torch.equal(read, stored(transforms.decode(jpeg))[1])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((SIZE, SIZE), 1.5, np.float32), "from 0 to 1, not 1.5 to 1.5"),
        (np.full((SIZE, SIZE), np.nan, np.float32), "not nan"),
        (np.full((SIZE, SIZE), -1, np.int32), "from 0 to 65535, not -1 to -1"),
        (np.full((SIZE, SIZE), 70_000, np.int32), "from 0 to 65535, not 70000 to 70000"),
    ],
)
def test_values_without_a_known_scale_are_refused(values: np.ndarray[Any, Any], said: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.tif").write_bytes(with_pillow(Image.fromarray(values), ".tif"))
    for given in (path, Image.fromarray(values)):
        with pytest.raises(InputError, match=said):
            as_batch({"x": SCHEMAS[1]}, {"x": given})
    with pytest.raises(transforms.UnusableError, match=said):
        transforms.decode(path.read_bytes())


def test_arrays_of_booleans_are_black_and_white() -> None:
    white = torch.from_numpy(BITS) * torch.tensor(255, dtype=torch.uint8)
    for given in (BITS, BITS[None], BITS[None, None].repeat(2, 0)):
        stored = as_batch({"x": SCHEMAS[1]}, {"x": given}).values["x"][0]
        assert torch.equal(stored[0], white)
    larger = as_batch({"x": SCHEMAS[1]}, {"x": np.ones((2 * SIZE, SIZE), bool)}).values["x"]
    assert bool((larger == 255).all())
