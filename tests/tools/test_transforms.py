from __future__ import annotations

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from modalkit_tools.faces import transforms
from modalkit_tools.faces.transforms import Picture, UnusableError
from PIL import Image
from skimage.feature import canny

from modalkit.errors import InputError

MODEL = transforms.find_model(None)
images = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=40).map(lambda s: (*s, 3)))
quick = settings(max_examples=30, deadline=None)


def noise(height: int, width: int, seed: int = 0) -> Picture:
    """A smooth random picture without a face."""
    raw = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(raw, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX))


def face(seed: int = 0, width: int = 178) -> Picture:
    """A crude face, at the place and of the size that CelebA's have."""
    rng = np.random.default_rng(seed)
    canvas = np.full((436, 356, 3), rng.integers(60, 200, 3), np.uint8)
    middle = np.array([89, 120]) + rng.integers(-6, 7, 2)

    def blob(x: float, y: float, a: float, b: float, *colour: int) -> None:
        at, axes = 2 * (middle + np.array([x, y])), (round(2 * a), round(2 * b))
        cv2.ellipse(canvas, tuple(map(int, at)), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    blob(0, -12, 50, 62, 60, 40, 30)
    blob(0, 0, 42, 56, 225, 180, 150)
    for side in (-17, 17):
        blob(side, -24, 11, 2.5, 70, 45, 35)
        blob(side, -12, 9, 5, 190, 145, 120)
        blob(side, -12, 7.5, 3.6, 245, 245, 245)
        blob(side, -12, 3.6, 3.6, 40, 30, 30)
    blob(0, 6, 5, 14, 235, 195, 168)
    blob(0, 17, 7, 3, 195, 145, 120)
    blob(0, 32, 15, 5, 170, 70, 75)
    soft = cv2.GaussianBlur(canvas, (0, 0), 2)
    return np.asarray(cv2.resize(soft, (width, width * 218 // 178), interpolation=cv2.INTER_AREA))


def encoded(image: Picture, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1])


def with_pillow(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# What a picture is


@quick
@given(images)
def test_gray_is_luminance(image: Picture) -> None:
    expected = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(transforms.luminance(image) - expected).max() <= 0.51


def test_edges_are_scikit_image_canny_on_the_float_picture() -> None:
    gray = transforms.luminance(noise(60, 50))
    for sigma in (1.0, 2.0):
        edges = transforms.find_edges(gray, sigma)
        assert edges.dtype == np.uint8
        assert np.array_equal(edges, 255 * canny(gray.astype(float) / 255, sigma=sigma))
    assert not np.array_equal(transforms.find_edges(gray, 1.0), cv2.Canny(gray, 100, 200))


def test_edges_of_a_step_are_one_line_at_the_step() -> None:
    gray = np.zeros((40, 40), np.uint8)
    gray[:, 20], gray[:, 21:] = 128, 255
    assert (transforms.find_edges(gray, 1.0)[5:-5] == 255 * (np.arange(40) == 20)).all()


@quick
@given(images)
def test_obscured_loses_just_the_right_half_of_the_columns(image: Picture) -> None:
    before, half = image.copy(), image.shape[1] // 2
    obscured = transforms.obscure(image)
    assert not obscured[:, half:].any()
    assert np.array_equal(obscured[:, :half], image[:, :half])
    assert np.array_equal(image, before)


@quick
@given(images)
def test_watermark_is_one_translucent_picture_stretched_over_the_image(image: Picture) -> None:
    height, width = image.shape[:2]
    keep, ink = (
        cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA)[..., None] for p in transforms.watermark()
    )
    assert np.abs(transforms.stamp(image) - (keep * image + ink)).max() <= 1.01


def test_watermark_is_translucent_and_covers_the_whole_width() -> None:
    keep, ink = transforms.watermark()
    assert 0.5 <= keep.min() < keep.max() == 1
    assert 0 == ink.min() < ink.max() <= 127.5
    assert ((keep * 255 + ink) <= 255.001).all()
    marked = keep < 1
    assert 0.1 < marked.mean() < 0.5
    assert all(part.any() for part in np.array_split(marked, 8, axis=1))
    assert transforms.stamp(np.full((700, 900, 3), 255, np.uint8)).max() == 255


def test_mask_fills_the_parts_and_draws_the_jaw_as_a_line() -> None:
    def polygon(x: float, y: float, count: int) -> np.ndarray:
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return np.stack([x + 8 * np.cos(angle), y + 8 * np.sin(angle)], 1)

    places = {(48, 68): (100, 150), (17, 22): (60, 60), (22, 27): (140, 60), (36, 42): (60, 90), (42, 48): (140, 90)}
    points = np.zeros((68, 2))
    points[:17] = np.stack([np.linspace(20, 180, 17), np.full(17, 190)], 1)
    points[27:36] = polygon(100, 120, 9)
    for (start, end), at in places.items():
        points[start:end] = polygon(*at, end - start)
    mask = transforms.draw_mask((200, 200), points.round().astype(np.int32))
    assert set(np.unique(mask)) == {0, 255}
    for x, y in [*places.values(), (100, 120)]:
        assert mask[y, x] == 255
    jaw = mask[170:, 30:170] > 0
    assert set(jaw.sum(0)) <= {2, 3}  # OpenCV draws a width of 2 over up to 3 pixels
    hulls = (mask[:170] > 0).sum()
    assert 0.8 < hulls / sum(n / 2 * 64 * np.sin(2 * np.pi / n) for n in (20, 5, 5, 6, 6, 8)) < 1.5


def test_mask_may_reach_beyond_the_picture() -> None:
    points = np.stack([np.linspace(-50, 90, 68), np.linspace(90, -50, 68)], 1).astype(np.int32)
    assert transforms.draw_mask((40, 30), points).shape == (40, 30)


# Sizes


@quick
@given(st.integers(8, 300), st.integers(8, 300), st.integers(8, 100))
def test_fit_gives_the_size_asked_for_and_keeps_a_plain_picture(height: int, width: int, size: int) -> None:
    fitted = transforms.fit(np.full((height, width, 3), 77, np.uint8), size)
    assert fitted.shape == (size, size, 3)
    assert (fitted == 77).all()


def test_fit_averages_and_crops_the_centre() -> None:
    picture = noise(128, 160)
    blocks = picture.reshape(64, 2, 80, 2, 3).mean((1, 3))  # (128, 160, 3) -> (64, 80, 3)
    assert np.abs(transforms.fit(picture, 64) - blocks[:, 8:72]).max() <= 0.5
    assert np.array_equal(transforms.fit(picture, 128), picture[:, 16:144])
    assert transforms.fit(np.zeros((218, 178), np.uint8), 64).shape == (64, 64)


def test_large_photos_are_reduced_first() -> None:
    assert transforms.reduce(np.zeros((3000, 1000, 3), np.uint8)).shape == (1024, 341, 3)
    assert transforms.reduce(np.zeros((9, 9000), np.uint8)).shape == (1, 1024)
    small = noise(50, 60)
    assert transforms.reduce(small) is small


@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (31, 8), (218, 178), (109, 89), (64, 64), (8, 9000)])
@pytest.mark.parametrize("size", [8, 33])
def test_any_photo_gives_all_pictures_in_the_size_asked_for(shape: tuple[int, int], size: int) -> None:
    made = transforms.transform(encoded(noise(*shape), ".png"), size, 1.0, MODEL)
    channels = {"image": 3, "gray": 1, "edges": 1, "obscured": 3, "watermark": 3}
    assert made.pop("mask") is None
    for name, picture in made.items():
        assert picture is not None
        assert (picture.shape, picture.dtype) == ((channels[name], size, size), np.uint8)


# Faces


def test_pictures_are_made_at_the_photos_own_size_and_then_fitted() -> None:
    image = face()
    made = transforms.transform(encoded(image, ".png"), 64, 1.0, MODEL)
    gray = transforms.luminance(image)
    points = transforms.find_landmarks(gray, MODEL)
    assert points is not None
    whole = {
        "image": image,
        "gray": gray,
        "edges": transforms.find_edges(gray, 1.0),
        "mask": transforms.draw_mask(gray.shape, points),
        "obscured": transforms.obscure(image),
        "watermark": transforms.stamp(image),
    }
    for name, picture in whole.items():
        shown = cv2.resize(picture, (64, 78), interpolation=cv2.INTER_AREA)[7:71]
        expected = shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)
        assert np.array_equal(made[name], expected), name


@pytest.mark.parametrize("width", [178, 89, 500])
def test_faces_are_found_at_any_size_and_where_they_are(width: int) -> None:
    image = face(1, width)
    points = transforms.find_landmarks(transforms.luminance(image), MODEL)
    assert points is not None
    assert points.shape == (68, 2)
    x, y = points.mean(0) / image.shape[1]
    assert 0.35 < x < 0.65
    assert 0.5 < y < 0.9


def test_the_largest_face_wins() -> None:
    wide = np.full((300, 500, 3), 120, np.uint8)
    wide[20:283, 10:225] = face(2, 215)
    wide[100:246, 350:470] = face(3, 120)[:146]
    for image, left in ((wide, True), (wide[:, ::-1], False)):
        points = transforms.find_landmarks(transforms.luminance(np.ascontiguousarray(image)), MODEL)
        assert points is not None
        assert (points[:, 0].mean() < 250) == left


def test_a_photo_is_transformed_alike_whatever_came_before() -> None:
    data = [encoded(face(seed), ".jpg") for seed in range(3)]
    once = [transforms.transform(d, 32, 1.0, MODEL) for d in data]
    again = [transforms.transform(d, 32, 1.0, MODEL) for d in reversed(data)]
    for one, other in zip(once, reversed(again), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("where", "share"), [("img_align_celeba.zip", 0.93), ("full_size_sample", 0.90)])
def test_real_faces_are_found(real_data: Path, where: str, share: float) -> None:
    source = real_data / "celeba" / where
    if source.is_file():  # at half size
        with zipfile.ZipFile(source) as archive:
            data = [archive.read(name) for name in sorted(archive.namelist())[:60]]
    else:
        data = [path.read_bytes() for path in sorted(source.iterdir())]
    found = [transforms.find_landmarks(transforms.luminance(transforms.decode(d)), MODEL) is not None for d in data]
    assert np.mean(found) >= share


# Files


def test_decode_reads_every_format_alike() -> None:
    image = noise(40, 30)
    for suffix in (".png", ".bmp"):
        assert np.array_equal(transforms.decode(encoded(image, suffix)), image)
    webp = bytes(cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    assert np.array_equal(transforms.decode(webp), image)
    assert np.abs(transforms.decode(encoded(image, ".jpg")).astype(int) - image).mean() < 4


def test_gray_alpha_palette_and_deep_pictures_become_rgb() -> None:
    gray = transforms.luminance(noise(40, 30))
    three = np.repeat(gray[..., None], 3, 2)
    assert np.array_equal(transforms.decode(encoded(gray, ".png")), three)
    assert transforms.decode(encoded(gray, ".jpg")).shape == (40, 30, 3)
    alpha = Image.fromarray(np.concatenate([three, np.full((40, 30, 1), 255, np.uint8)], 2))
    assert np.array_equal(transforms.decode(with_pillow(alpha, "PNG")), three)
    assert transforms.decode(with_pillow(Image.fromarray(three).quantize(8), "PNG")).shape == (40, 30, 3)
    deep = bytes(cv2.imencode(".png", gray.astype(np.uint16) * 257)[1])
    assert np.array_equal(transforms.decode(deep), three)


def test_exif_orientation_is_honoured() -> None:
    image, exif = Image.fromarray(noise(40, 30)), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = transforms.decode(with_pillow(image, "JPEG", exif=exif, quality=95))
    assert turned.shape == (30, 40, 3)
    upright = transforms.decode(with_pillow(image, "JPEG", quality=95))
    assert np.array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.97])
def test_truncated_files_are_refused(suffix: str, kept: float) -> None:
    data = encoded(noise(120, 90), suffix)
    with pytest.raises(UnusableError, match=r"truncated|damaged"):
        transforms.decode(data[: int(len(data) * kept)])


def test_a_thumbnails_end_does_not_hide_that_a_jpeg_is_truncated() -> None:
    thumbnail, picture = encoded(noise(16, 16), ".jpg"), encoded(noise(120, 90), ".jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = picture[:2] + segment + b"\xff" + picture[2:]  # and a fill byte, which the format allows
    assert np.array_equal(transforms.decode(data), transforms.decode(picture))
    with pytest.raises(UnusableError, match="truncated"):
        transforms.decode(data[:-400])
    progressive = with_pillow(Image.fromarray(noise(120, 90)), "JPEG", progressive=True)
    assert transforms.decode(progressive + b"more than the picture").shape == (120, 90, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a text that was renamed", "not an image"),
        (encoded(np.zeros((7, 50, 3), np.uint8), ".png"), "50 x 7 pixels"),
        (b"\xff\xd8\xff\xd9", "not an image"),
        (b"\xff\xd8", "truncated"),
    ],
)
def test_what_is_no_photo_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        transforms.decode(data)


@quick
@given(st.binary(max_size=300), st.integers(0, 2000))
def test_damaged_bytes_are_decoded_or_refused_but_never_crash(junk: bytes, at: int) -> None:
    data = encoded(noise(60, 50), ".jpg")
    for broken in (junk, data[:at] + junk, data[:at] + junk + data[at + len(junk) :]):
        try:
            assert transforms.decode(broken).ndim == 3
        except UnusableError as error:
            assert str(error)


# The landmark model


def test_a_missing_model_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nothing\.dat.*pip install face_recognition_models.*--landmark-model"):
        transforms.find_model(tmp_path / "nothing.dat")
    monkeypatch.setattr(transforms, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: `pip install face_recognition_models`"):
        transforms.find_model(None)


def test_a_file_that_is_no_68_point_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dat").write_text("no model")
    gray = transforms.luminance(face())
    with pytest.raises(InputError, match=r"text\.dat.*not a landmark model"):
        transforms.find_landmarks(gray, tmp_path / "text.dat")
    five = MODEL.with_name("shape_predictor_5_face_landmarks.dat")
    with pytest.raises(InputError, match="predicts 5 points"):
        transforms.find_landmarks(gray, five)
