"""From a waveform to a standardised log-mel spectrogram: batched, differentiable, on any device, without torchaudio."""

import math
from functools import lru_cache

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps  # added before the logarithm


@lru_cache(maxsize=8)
def mel_filters(n_fft: int, n_mels: int, f_min: float, f_max: float, sampling_rate: int) -> Tensor:
    """Return triangular filters on the HTK mel scale, without normalisation (n_fft / 2 + 1, n_mels)."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (f_min, f_max))
    edges = 700 * (10 ** (torch.linspace(low, high, n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1)[:, None]
    # single precision throughout, as the authors' filters: doubles move the result by 1e-4
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel(
    waveform: Tensor,
    *,
    sampling_rate: int = 16_000,
    n_fft: int = 400,
    hop_length: int = 160,
    n_mels: int = 80,
    f_min: float = 50.0,
    f_max: float = 8000.0,
    center: bool = True,
) -> Tensor:
    """Return the natural logarithm of the mel power spectrogram: (..., samples) -> (..., frames, n_mels).

    A frame every `hop_length` samples, its middle on them; the ends are mirrored. Without `center` frames begin there
    instead, and nothing is mirrored. The window is a periodic Hann of `n_fft`.

    Source: hear_api of the authors' code; fixture `mwmae_frontend`.
    """
    window = torch.hann_window(n_fft, device=waveform.device, dtype=waveform.dtype)
    flat = waveform.reshape(-1, waveform.shape[-1])
    spectrum = torch.stft(
        flat, n_fft, hop_length, window=window, center=center, pad_mode="reflect", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    filters = mel_filters(n_fft, n_mels, f_min, f_max, sampling_rate).to(power)
    mel = power.transpose(1, 2) @ filters
    return (mel + EPS).log().reshape(*waveform.shape[:-1], -1, n_mels)


def standardize(values: Tensor, deviation: str = "unbiased") -> Tensor:
    """Standardise a clip's spectrogram (..., T, F) by its own mean and deviation.

    Args:
        deviation: "unbiased" as in the authors' inference, "population" as in their pre-training.
    """
    correction = 1 if deviation == "unbiased" else 0
    mean, std = values.mean((-2, -1), keepdim=True), values.std((-2, -1), keepdim=True, correction=correction)
    return (values - mean) / (std + 1e-8)


def pad_to_units(values: Tensor, frames: int) -> Tensor:
    """Mirror the end of a spectrogram (T, F) until it fills whole units of `frames`.

    Where it does already a whole unit is added, as the authors' code has it; the end of very short ones is mirrored again
    and again.
    """
    missing = frames - len(values) % frames
    places = torch.arange(len(values) + missing, device=values.device)
    period = max(1, 2 * (len(values) - 1))
    places = places % period
    return values[torch.where(places < len(values), places, period - places)]
