"""From sounds of any rate, length and number of channels to MW-MAE's spectrograms."""

import io
from collections.abc import Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor

from hub_mim_mwmae.frontend import log_mel, standardize


class MwMaeFeatureExtractor(SequenceFeatureExtractor):
    """Make log-mel spectrograms, each standardised by its whole clip, mirrored at the end to whole units.

    Args:
        feature_size: mel bins. sampling_rate: to which everything is resampled, in Hz.
        padding_value: of units behind the end of shorter clips.
        n_fft, hop_length: of the spectrum, in samples. f_min, f_max: of the filters, in Hz.
        frames: of one unit. max_units: of a clip; longer ones are cut. None = all.
        encode_once: whether training keeps all spectrograms in memory instead of making them anew in each epoch (64 KB a
            clip); needs `max_units=1`.
        deviation: "unbiased" as in the authors' inference, or "population" as in their pre-training.
    Raises:
        ValueError: a setting out of range.
    """

    model_input_names = ["input_values", "num_frames"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        n_fft: int = 400,
        hop_length: int = 160,
        f_min: float = 50.0,
        f_max: float = 8000.0,
        frames: int = 200,
        max_units: int | None = None,
        deviation: str = "unbiased",
        encode_once: bool = False,
        **kwargs: Any,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.n_fft, self.hop_length, self.f_min, self.f_max = n_fft, hop_length, f_min, f_max
        self.frames, self.max_units, self.deviation = frames, max_units, deviation
        self.encode_once = encode_once
        if encode_once and max_units is None:
            raise ValueError("encode_once needs clips of one length: say how many units to keep (max_units)")
        if not 0 <= f_min < f_max <= sampling_rate / 2:
            raise ValueError(
                f"f_min {f_min} and f_max {f_max} must rise and lie within half the sampling rate {sampling_rate}"
            )
        if deviation not in ("unbiased", "population"):
            raise ValueError(f"deviation is {deviation!r}; it must be 'unbiased' or 'population'")
        if max_units is not None and max_units < 1:
            raise ValueError(f"max_units is {max_units}; it must be at least 1, or None")

    @classmethod
    def for_config(cls, fields: Mapping[str, Any]) -> "MwMaeFeatureExtractor":
        """Return the extractor that a configuration with these fields needs."""
        frames, bins = fields.get("spectrogram_size") or (200, 80)
        return cls(feature_size=bins, frames=frames)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Return `input_values`, float32 (B, U * frames, bins), and `num_frames`, int64 (B,), frames that are no padding.

        Args:
            audio: a clip or a list of clips: samples (N,) or (channels, N) in [-1, 1]; a dict with "array" and
                "sampling_rate", or with "bytes" or "path" of a file, as `datasets` has them; a path. soundfile reads the files.
            sampling_rate: of arrays that do not tell theirs; default the extractor's own.
            return_tensors: "pt", or None for the same.
        Raises:
            ValueError: no samples, samples that are no numbers, a file that cannot be read, too short a clip.
        """
        clips = audio if isinstance(audio, Sequence) and not _is_clip(audio) else [audio]
        waves = [self._wave(clip, sampling_rate) for clip in clips]
        mels = [self._spectrogram(wave) for wave in waves]
        own = [mel if self.max_units is None else mel[: self.max_units * self.frames] for mel in mels]
        units = self.max_units if self.encode_once else max(-(-len(mel) // self.frames) for mel in own)
        assert units is not None
        longest = units * self.frames
        values = torch.stack([self._padded(mel, longest) for mel in own])
        return BatchFeature({"input_values": values, "num_frames": torch.tensor([len(mel) for mel in own])})

    def _wave(self, clip: Any, sampling_rate: int | None) -> Tensor:
        """Return one clip at the extractor's rate (N,)."""
        samples, rate = read_clip(clip, sampling_rate or self.sampling_rate)
        if not len(samples):
            raise ValueError("a clip has no samples")
        if not np.isfinite(samples).all():
            raise ValueError(f"a clip holds {int((~np.isfinite(samples)).sum())} samples that are no numbers")
        if rate != self.sampling_rate:
            from scipy.signal import resample_poly

            common = gcd(rate, self.sampling_rate)
            samples = resample_poly(samples, self.sampling_rate // common, rate // common).astype(np.float32)
        if len(samples) <= self.n_fft // 2:
            least = (self.n_fft // 2 + 1) / self.sampling_rate * 1000
            raise ValueError(
                f"a clip of {len(samples)} samples at {self.sampling_rate} Hz is too short; the least is {least:.0f} ms"
            )
        return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))

    def _spectrogram(self, wave: Tensor) -> Tensor:
        values = log_mel(
            wave,
            sampling_rate=self.sampling_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            n_mels=self.feature_size,
            f_min=self.f_min,
            f_max=self.f_max,
        )
        return standardize(values, self.deviation)

    def _padded(self, values: Tensor, length: int) -> Tensor:
        """Mirror the end to whole units of its own, and fill up to a length."""
        from hub_mim_mwmae.frontend import pad_to_units

        whole = values if len(values) % self.frames == 0 else pad_to_units(values, self.frames)
        rest = whole.new_full((length - len(whole), whole.shape[1]), self.padding_value)
        return torch.cat([whole, rest])


def _is_clip(audio: Any) -> bool:
    """Tell whether a sequence is samples, not a list of clips."""
    return isinstance(audio, str) or (len(audio) > 0 and isinstance(audio[0], int | float))


def read_clip(clip: Any, rate: int) -> tuple[np.ndarray, int]:
    """Return a clip's samples, channels averaged, float32 (N,), and its rate; see `MwMaeFeatureExtractor.__call__`.

    Raises:
        ValueError: a file that cannot be read, or samples of another shape.
    """
    if isinstance(clip, Mapping) and clip.get("array") is not None:
        rate, clip = int(clip.get("sampling_rate") or rate), clip["array"]
    elif isinstance(clip, str | Path | Mapping):
        return _read_file(clip)
    samples = np.asarray(clip.detach().cpu() if isinstance(clip, Tensor) else clip, np.float32)
    if samples.ndim == 2:
        samples = samples.mean(0 if samples.shape[0] <= samples.shape[1] else 1)
    if samples.ndim != 1:
        raise ValueError(f"a clip has the shape {samples.shape}; it must be (samples,) or (channels, samples)")
    return samples, rate


def _read_file(clip: Any) -> tuple[np.ndarray, int]:
    import soundfile

    content = clip.get("bytes") if isinstance(clip, Mapping) else None
    path = clip.get("path") if isinstance(clip, Mapping) else clip
    name = Path(path).name if path else "a clip"
    if content is None and path is None:
        raise ValueError("a clip holds neither samples nor a file")
    try:
        samples, rate = soundfile.read(
            io.BytesIO(content) if content is not None else str(path), dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"{name} cannot be read as sound ({error})") from None
    return samples.mean(1), int(rate)
