"""Sound as a log-mel spectrogram: convolutions over time and frequency, Gaussian or Laplace likelihood."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from modalkit.errors import InputError, unreadable
from modalkit.nn import Dcgan, ImageNetwork, Reshape, check_size
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import Modality, Proposal

from .vector import GaussianSchema, likelihood, marginal, with_scale

if TYPE_CHECKING:
    from modalkit.plugin import Picture

_LEAST_POWER = 1e-8  # -80 dB
_LONGEST = 10.0  # seconds of a proposed clip
_HIGHEST_RATE = 16_000  # samples a second of a proposed clip
_ROUNDS = 32  # of replacing phases; more change the sound little


class AudioSchema(GaussianSchema):
    """A clip of sound; its values are log-mel spectrograms `(1, mels, frames)`, low frequencies first.

    They are in units of 40 dB: 1 is the power of a sine at full scale, -1 is 80 dB below it or silence. `spectrogram`
    makes them of waveforms, and a frame stands at every `hop` samples, from the first on.
    """

    sample_rate: PositiveInt = Field(16_000, description="Samples a second; files with another rate are resampled.")
    seconds: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Length of a clip: longer files are cut, shorter ones end in zeros."
    )
    mels: PositiveInt = Field(64, description="Frequency bands, evenly spaced in mel from 0 to half the sample rate.")
    window: int = Field(512, ge=2, description="Samples under each frame's Hann window (n_fft).")
    hop: PositiveInt = Field(256, description="Samples from one frame to the next.")
    network: ImageNetwork = Dcgan()

    least_scale: ClassVar[float] = 0.025
    """1 dB: silence is exactly -1, where a density could otherwise grow without bound."""

    @model_validator(mode="after")
    def _each_band_hears(self) -> AudioSchema:
        # A frequency is in two bands at most. Filters of millions of bands would fill the memory.
        too_many = self.mels > 2 * (self.window // 2 + 1)
        if too_many or not bool(filterbank(self.sample_rate, self.window, self.mels).any(1).all()):
            raise ValueError(
                f"{self.mels} 'mels' are too many for a 'window' of {self.window} samples: between its frequencies, "
                f"{self.sample_rate / self.window:g} Hz apart, the lowest bands are empty; give fewer, or a longer one"
            )
        check_size(self.network, self.event_shape[1:])
        return self

    @property
    def samples(self) -> int:
        """Samples of a clip."""
        return max(1, round(self.seconds * self.sample_rate))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """One channel, bands, frames."""
        return (1, self.mels, 1 + self.samples // self.hop)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Return log-mel spectrograms `(rows, 1, mels, frames)` of waveforms `(rows, samples)`, full scale at ±1.

        `1 + log10(max(power, 1e-8)) / 4`, where the power of a sine at full scale is 1 in its nearest frequency.

        >>> AudioSchema(kind="audio").spectrogram(torch.zeros(2, 16_000)).shape
        torch.Size([2, 1, 64, 63])
        """
        window = torch.hann_window(self.window, dtype=waveform.dtype, device=waveform.device)
        waves = torch.stft(
            waveform, self.window, self.hop, window=window, center=True, pad_mode="constant", return_complex=True
        )
        power = (waves.abs() * 2 / window.sum()).square()  # (rows, frequencies, frames)
        bands = filterbank(self.sample_rate, self.window, self.mels).to(power) @ power  # (rows, mels, frames)
        return 1 + bands.clamp(min=_LEAST_POWER).log10().unsqueeze(1) / 4

    def waveform(self, spectrogram: Tensor, rounds: int = _ROUNDS) -> Tensor:
        """Return sound `(samples,)` whose spectrogram is close to one of `spectrogram`'s, `(1, mels, frames)`.

        Bands are spread over the window's frequencies by least squares. Phases, which a spectrogram lacks, begin at
        random, always the same, and become those of the sound that they make, again and again.

        Args:
            spectrogram: in units of 40 dB.
            rounds: how often phases are replaced.

        Source: Griffin & Lim 1984, "Signal estimation from modified short-time Fourier transform".
        """
        bands = 10 ** (4 * (spectrogram[0].double() - 1)) - _LEAST_POWER  # (mels, frames)
        filters = filterbank(self.sample_rate, self.window, self.mels)
        window = torch.hann_window(self.window, dtype=torch.float64)
        power = (torch.linalg.pinv(filters) @ bands).clamp(min=0)  # (frequencies, frames)
        size = power.sqrt() * window.sum() / 2
        angle = 2 * math.pi * torch.rand(size.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        waves = torch.polar(size, angle)
        sound = torch.istft(waves, self.window, self.hop, window=window, length=self.samples)
        for _ in range(rounds):
            again = torch.stft(
                sound, self.window, self.hop, window=window, pad_mode="constant", return_complex=True
            )  # (frequencies, frames)
            sound = torch.istft(
                torch.polar(size, again.angle()), self.window, self.hop, window=window, length=self.samples
            )
        return sound


@cache
def filterbank(sample_rate: int, window: int, mels: int) -> Tensor:
    """Return the weight of each of a window's frequencies in each mel band, `(mels, window // 2 + 1)`.

    Triangles that rise from 0 to 1 and fall to 0 between their neighbours' centres, which are evenly spaced on
    `mel(f) = 2595 log10(1 + f / 700)` from 0 to half the sample rate.

    Source: O'Shaughnessy 1987, "Speech communication", for the scale; Davis & Mermelstein 1980 for the triangles.
    """
    most = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, most, mels + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    frequency = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    rise = (frequency - edges[:-2, None]) / edges.diff()[:-1, None]  # (mels, frequencies)
    fall = (edges[2:, None] - frequency) / edges.diff()[1:, None]
    return torch.minimum(rise, fall).clamp(min=0)


def encoder(schema: AudioSchema) -> nn.Module:
    """Return the encoder that the schema's network asks for."""
    return make_encoder(schema.network, schema.event_shape)


def decoder(schema: AudioSchema, latent_dim: int) -> nn.Module:
    """Return the decoder of the schema's network; raw: `(rows, *raw_shape)`, or what `nn.Scaled` makes of it."""
    outputs = 2 if schema.predicts_scale else 1
    layers = make_decoder(schema.network, latent_dim, (outputs, *schema.event_shape[1:]))
    # (rows, 2, mels, frames) -> (rows, 2, 1, mels, frames)
    return with_scale(schema, nn.Sequential(layers, Reshape(schema.raw_shape)))


def show(schema: AudioSchema, value: Tensor) -> Picture:
    """Return the spectrogram as a gray picture, time to the right and low frequencies at the bottom."""
    pixels: Picture = ((value[0].flip(0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels


def read(schema: AudioSchema, source: str) -> Tensor:
    """Read the start of a sound file (WAV, FLAC, OGG, MP3 …): channels averaged, resampled, cut or padded with zeros.

    Raises:
        InputError: it is no sound file that can be read.
    """
    from scipy.signal import resample_poly

    try:
        import soundfile  # an OSError where its library is missing

        with soundfile.SoundFile(source) as file:
            rate: int = file.samplerate
            sound = file.read(math.ceil(schema.samples * rate / schema.sample_rate), always_2d=True)  # (time, channels)
    except (OSError, RuntimeError, TypeError) as error:  # libsndfile's own are RuntimeErrors
        raise unreadable(source, "sound", error) from error
    if not len(sound) or not math.isfinite(float(abs(sound).sum())):
        raise InputError(f"{source}: holds {'NaN or infinity' if len(sound) else 'no sound'}")
    common = math.gcd(rate, schema.sample_rate)
    heard = resample_poly(sound.mean(1), schema.sample_rate // common, rate // common)[: schema.samples]
    waveform = torch.zeros(schema.samples, dtype=torch.float64)
    waveform[: len(heard)] = torch.from_numpy(heard)
    return schema.spectrogram(waveform[None])[0].to(torch.get_default_dtype())


def files(schema: AudioSchema, value: Tensor) -> dict[str, bytes]:
    """Return the sound as .wav, 16 bits; nothing if frames lie so far apart that they do not determine it."""
    if 2 * schema.hop > schema.window:
        return {}
    import soundfile

    content = io.BytesIO()
    sound = schema.waveform(value).clamp(-1, 1)
    soundfile.write(content, sound.numpy(), schema.sample_rate, format="WAV", subtype="PCM_16")
    return {".wav": content.getvalue()}


def _from_files(paths: Sequence[str], size: int) -> dict[str, Any]:
    """Return the fields for sound files: clips as long as the median file, up to 10 s, at most 16,000 samples a second.

    Raises:
        InputError: none of them can be read.
    """
    import soundfile

    lengths, rates = [], [_HIGHEST_RATE]
    for path in paths:
        try:
            found = soundfile.info(path)
        except (OSError, soundfile.SoundFileError):
            continue
        lengths.append(found.duration)
        rates.append(found.samplerate)
    if not lengths:
        raise InputError(f"{Path(paths[0]).parent}: none of its sounds can be read")
    return {"sample_rate": min(rates), "seconds": round(min(median(lengths), _LONGEST), 2)}


MODALITY = Modality(
    kind="audio",
    summary="sound as a log-mel spectrogram; Gaussian or Laplace likelihood with fixed or learned scale",
    schema=AudioSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    marginal=marginal,
    files=files,
    proposal=Proposal(80, suffixes=(".wav", ".flac", ".ogg", ".mp3"), files=_from_files),
)
