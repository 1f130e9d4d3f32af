"""Time series and sound: files of any form are read, or refused in words; shapes, pictures and densities are right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import here

import modalkit
from modalkit import registry
from modalkit.errors import InputError
from modalkit.plugin import Modality

SERIES, AUDIO = registry.modality("series"), registry.modality("audio")


def refused(kind: Modality[Any], schema: Any, path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        kind.read(schema, str(path))
    assert str(path) in str(caught.value)


@settings(deadline=None, max_examples=25)
@given(channels=st.integers(1, 3), length=st.integers(1, 70), fixed=st.booleans())
def test_series_of_any_length_are_encoded_and_decoded(channels: int, length: int, fixed: bool) -> None:
    network = {"type": "conv1d", "hidden": 4}
    schema = modalkit.schema(
        "series", channels=channels, length=length, network=network, scale=1.0 if fixed else "learned"
    )
    assert SERIES.encoder(schema)(torch.zeros(2, channels, length)).shape == (2, 4)
    made = SERIES.likelihood(schema, SERIES.decoder(schema, 3)(torch.zeros(2, 3)))
    assert made.mean.shape == (2, channels, length)


def test_gaussians_over_a_series() -> None:
    schema = modalkit.schema("series", channels=2, length=3)
    raw, x = torch.randn(4, 2, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    scale = torch.log1p(raw[:, 1].exp()) + 1e-3
    expected = -(((x - raw[:, 0]) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(SERIES.likelihood(schema, raw).log_prob(x), expected.sum((1, 2)))
    baseline = SERIES.likelihood(schema, SERIES.marginal(schema, x))
    torch.testing.assert_close(baseline.mean, x.mean(0, keepdim=True))
    torch.testing.assert_close(baseline.variance, x.var(0, keepdim=True, correction=0))


def test_a_series_that_cannot_be_halved() -> None:
    with pytest.raises(InputError, match="3 steps cannot be halved 2 times"):
        modalkit.schema("series", length=3, network={"type": "conv1d", "widths": [4, 4]})


def test_series_are_read_from_arrays_and_tables(tmp_path: Path) -> None:
    schema = modalkit.schema("series", channels=2, length=3)
    values = np.array([[1, 2, 3], [4, 5, 6]])
    np.save(tmp_path / "x.npy", values)
    (tmp_path / "x.csv").write_text("\ufeffheight,weight\n1,4\n2,5\n3,6\n\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("1,4\n2,5\n3,6")
    for name in ("x.npy", "x.csv", "bare.csv"):
        read = SERIES.read(schema, str(tmp_path / name))
        assert read.dtype == torch.float32 and read.tolist() == values.tolist()
    np.save(tmp_path / "line.npy", values[0])
    assert SERIES.read(modalkit.schema("series", length=3), str(tmp_path / "line.npy")).tolist() == [[1, 2, 3]]


def test_what_is_no_series(tmp_path: Path) -> None:
    schema = modalkit.schema("series", channels=2, length=3)
    for name, text, words in (
        ("word.csv", "1,4\n2,x\n3,6\n", "line 2 is not numbers: 2,x"),
        ("hole.csv", "a,b\n1,4\n2,\n3,6\n", "line 3 is not numbers"),
        ("wide.csv", "1,4,0\n2,5,0\n3,6,0\n", "line 1 has 3 columns, not 2"),
        ("short.csv", "1,4\n2,5\n", r"holds \(2, 2\); give \(2, 3\), channels and steps"),
        ("empty.csv", "", r"holds \(2, 0\)"),
        ("nan.csv", "1,4\n2,nan\n3,6\n", r"channel 1, step 1 \(from 0\) is nan"),
        ("text.npy", "no array", "cannot be read as a series"),
        ("empty.npy", "", "cannot be read as a series"),
    ):
        (tmp_path / name).write_text(text)
        refused(SERIES, schema, tmp_path / name, words)
    np.save(tmp_path / "turned.npy", np.zeros((3, 2)))
    refused(SERIES, schema, tmp_path / "turned.npy", "it is transposed")
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    refused(SERIES, schema, tmp_path / "words.npy", "no array of real numbers")
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    refused(SERIES, schema, tmp_path / "pickle.npy", "allow_pickle=False")
    refused(SERIES, schema, tmp_path / "absent.csv", "there is no such file")


def test_a_series_is_shown_as_lines() -> None:
    schema = modalkit.schema("series", channels=2, length=40)
    chart = SERIES.show(schema, torch.stack([torch.zeros(40), torch.linspace(0, 1, 40)]))
    blue, orange = ((chart == np.array(ink)).all(2) for ink in ([0, 114, 178], [213, 94, 0]))
    assert len(np.argwhere(blue)) > 80 and np.ptp(np.argwhere(blue)[:, 0]) == 0  # it is level
    rows = [np.argwhere(orange[:, column])[0, 0] for column in range(10, 90)]
    assert rows == sorted(rows, reverse=True)  # it rises


# Sound


def tone(folder: Path, hertz: float, rate: int, seconds: float, *, channels: int = 1, name: str = "x.wav") -> Path:
    """Write a sine at half of full scale."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    soundfile.write(folder / name, np.stack([wave] * channels, 1), rate)
    return folder / name


def test_bands_share_every_frequency_between_neighbours() -> None:
    """Triangles on neighbouring centres add up to 1: white noise is heard evenly."""
    schema = modalkit.schema("audio")
    noise = torch.zeros(1, schema.samples, dtype=torch.float64)
    noise[0, 8192] = 1  # an impulse: the same power at all frequencies
    bands = 10 ** ((schema.spectrogram(noise)[0, 0, :, 32] - 1) * 4)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 66, dtype=torch.float64) / 2595) - 1)
    widths = (edges[2:] - edges[:-2]) / 2 / (16_000 / 512)  # a triangle's area, in frequencies
    torch.testing.assert_close(bands[20:], widths[20:] * (2 / 256) ** 2, rtol=0.1, atol=0)


@pytest.mark.parametrize("hertz", [250.0, 1000.0, 4000.0])
def test_a_sine_is_loudest_in_its_band(hertz: float) -> None:
    schema = modalkit.schema("audio", mels=40)
    wave = torch.sin(2 * torch.pi * hertz * torch.arange(16_000, dtype=torch.float64) / 16_000)
    spectrum = schema.spectrogram(wave[None])[0, 0, :, 30]
    mel = 2595 * math.log10(1 + hertz / 700) / (2595 * math.log10(1 + 8000 / 700)) * 41 - 1
    assert abs(int(spectrum.argmax()) - mel) < 1
    assert spectrum.max() == pytest.approx(1, abs=0.1)  # full scale, within 4 dB
    assert schema.spectrogram(wave[None] / 100)[0, 0, :, 30].max() == pytest.approx(float(spectrum.max()) - 1)  # 40 dB


@pytest.mark.parametrize(
    ("rate", "channels", "name"), [(16_000, 1, "a.wav"), (44_100, 2, "b.flac"), (8000, 1, "c.ogg")]
)
def test_sound_of_any_rate_and_number_of_channels(tmp_path: Path, rate: int, channels: int, name: str) -> None:
    schema = modalkit.schema("audio")
    value = AUDIO.read(schema, str(tone(tmp_path, 1000, rate, 1.5, channels=channels, name=name)))
    wave = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    expected = schema.spectrogram(wave[None])[0]
    assert value.dtype == torch.float32 and value.shape == schema.event_shape == (1, 64, 63)
    loud = expected > expected.max() - 0.5  # within 20 dB
    torch.testing.assert_close(
        value[..., 2:-2][loud[..., 2:-2]], expected[..., 2:-2][loud[..., 2:-2]], atol=0.02, rtol=0
    )


def test_short_sound_ends_in_silence_and_is_shown_low_to_high(tmp_path: Path) -> None:
    schema = modalkit.schema("audio")
    value = AUDIO.read(schema, str(tone(tmp_path, 300, 16_000, 0.5)))
    assert (value[..., 40:] == -1).all() and value[..., 10].max() > 0.5
    picture = AUDIO.show(schema, value)
    assert picture.shape == (64, 63) and picture[:, 40:].max() == 0
    assert picture[:, 10].argmax() == 63 - int(value[0, :, 10].argmax()) > 40  # low frequencies are at the bottom


def test_what_is_no_sound(tmp_path: Path) -> None:
    schema = modalkit.schema("audio")
    (tmp_path / "text.wav").write_text("no sound")
    refused(AUDIO, schema, tmp_path / "absent.wav", "there is no such file")
    refused(AUDIO, schema, tmp_path / "text.wav", "cannot be read as sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    refused(AUDIO, schema, tmp_path / "empty.wav", "no sound")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan]), 16_000, subtype="FLOAT")
    refused(AUDIO, schema, tmp_path / "nan.wav", "NaN or infinity")


def test_more_bands_than_the_window_tells_apart() -> None:
    with pytest.raises(InputError, match=r"128 'mels' are too many for a 'window' of 256 samples.*62\.5 Hz apart"):
        modalkit.schema("audio", mels=128, window=256)
    with pytest.raises(InputError, match="too small"):
        modalkit.schema("audio", seconds=0.02)


def test_a_dataset_of_sound_files(tmp_path: Path) -> None:
    schema = modalkit.schema("audio", seconds=0.2, mels=16)
    paths = [str(tone(tmp_path, hertz, 8000, 0.2, name=f"{hertz}.wav")) for hertz in (300, 900, 2000)]
    modalkit.write_dataset(tmp_path / "sounds", {"sound": schema}, {"sound": paths})
    stored = modalkit.Dataset(tmp_path / "sounds")[torch.arange(3)].values["sound"]
    assert stored.dtype == torch.float32 and torch.equal(stored[1], AUDIO.read(schema, paths[1]))


def test_a_series_is_written_as_it_is_read(tmp_path: Path) -> None:
    schema, values = modalkit.schema("series", channels=2, length=5), torch.randn(2, 5)
    made = SERIES.files(schema, values)
    (tmp_path / "x.csv").write_bytes(made[".csv"])
    assert list(made) == [".csv"] and made[".csv"].splitlines()[0] == b"channel 0,channel 1"
    torch.testing.assert_close(SERIES.read(schema, str(tmp_path / "x.csv")), values)


@pytest.mark.parametrize("hertz", [440.0, 3000.0])
def test_sound_comes_back_from_its_spectrogram(tmp_path: Path, hertz: float) -> None:
    schema = modalkit.schema("audio", seconds=0.5)
    wave = 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(schema.samples) / schema.sample_rate)
    there = schema.spectrogram(wave[None])[0]
    (tmp_path / "x.wav").write_bytes(AUDIO.files(schema, there)[".wav"])
    heard, rate = soundfile.read(tmp_path / "x.wav")
    assert rate == schema.sample_rate and heard.shape == (schema.samples,)
    loudest = np.abs(np.fft.rfft(heard)).argmax() * rate / len(heard)
    wide = 700 * (1 + hertz / 700) * math.log(10) / 2595 * 2840 / 65  # Hz between bands there
    assert abs(loudest - hertz) < wide
    back = AUDIO.read(schema, str(tmp_path / "x.wav"))
    loud = there > 0.2  # within 32 dB of full scale
    assert (back - there)[loud].abs().mean() < 0.1  # 4 dB
    assert AUDIO.files(schema, there) == AUDIO.files(schema, there)


def test_frames_too_far_apart_make_no_sound() -> None:
    schema = modalkit.schema("audio", seconds=0.5, window=512, hop=400)
    assert AUDIO.files(schema, schema.unpack(schema.zeros(1))[0]) == {}


def test_numbers_leave_the_shell_in_the_form_of_their_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=(16, 1, 1))
    recipe = {
        "modalities": {
            "beat": {"kind": "series", "channels": 2, "length": 8},
            "hum": {"kind": "audio", "seconds": 0.2, "sample_rate": 4000, "mels": 16, "window": 128, "hop": 64},
            "steps": {"kind": "counts", "size": 2, "names": ["left", "right"]},
        },
        "model": {"latent_dim": 2},
        "train": {"max_steps": 1},
    }
    schemas = {name: modalkit.schema(**entry) for name, entry in recipe["modalities"].items()}
    data = {
        "beat": (level + rng.normal(size=(16, 2, 8))).astype("float32"),
        "hum": np.clip(level[:, None] + rng.normal(size=(16, *schemas["hum"].event_shape)), -1, 1).astype("float32"),
        "steps": rng.poisson(4, size=(16, 2)),
    }
    modalkit.train(recipe, data, tmp_path / "run", progress=False)
    done = here(
        "translate",
        "run",
        "--given",
        "steps=3 4",
        "--want",
        "beat,hum,steps",
        "--samples",
        2,
        "-o",
        "out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    for stem in ("mean", "1"):
        beat = np.load(out / f"beat-{stem}.npy")
        assert beat.shape == (2, 8)
        assert np.allclose(np.loadtxt(out / f"beat-{stem}.csv", delimiter=",", skiprows=1).T, beat, rtol=1e-5)
        assert np.load(out / f"hum-{stem}.npy").shape == schemas["hum"].event_shape
        assert soundfile.info(out / f"hum-{stem}.wav").frames == 800
        assert np.load(out / f"steps-{stem}.npy").dtype == np.int64
    lines = [line.split(",") for line in (out / "answer.csv").read_text().splitlines()]
    assert lines[0] == ["", "left", "right"] and [line[0] for line in lines[1:]] == ["mean", "0", "1"]
    assert [int(one) for one in lines[2][1:]] == np.load(out / "steps-0.npy").tolist()
    assert here("sample", "run", "-n", 3, "-o", "drawn", cwd=tmp_path).returncode == 0
    table = np.loadtxt(tmp_path / "drawn" / "samples.csv", delimiter=",", skiprows=1)
    assert table.tolist() == [np.load(tmp_path / "drawn" / f"steps-{row}.npy").tolist() for row in range(3)]
    assert (tmp_path / "drawn" / "hum-2.wav").is_file() and (tmp_path / "drawn" / "beat-2.csv").is_file()
