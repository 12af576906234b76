"""From waveforms to frames of a log-spectrum: values (B, T, C), coordinates (B, T, P), attention_mask (B, T)."""

import math
import random
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from hub_mim.patches import sincos_1d

EXAMPLE = {"frame_length": 32}
FIXED = ("num_coordinates",)  # configuration fields that follow from the processor alone


class MyMethodProcessor(ProcessorMixin):
    """Cut waveforms into frames and take the logarithm of each frame's power spectrum.

    Args:
        frame_length: samples a frame; frames do not overlap.
    """

    def __init__(self, frame_length: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self.frame_length = frame_length

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def __call__(self, rows: Any = None, audio: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows with `audio` (a list of samples in [-1, 1]), or a list of waveforms of any lengths."""
        waves = [row["audio"] for row in rows] if rows is not None else audio
        frames = [self._frames(torch.as_tensor(wave, dtype=torch.float32)) for wave in waves]
        values = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
        count = torch.tensor([len(each) for each in frames])
        coordinates = sincos_1d(torch.arange(values.shape[1]), 16).expand(len(frames), -1, -1).clone()
        there = torch.arange(values.shape[1]) < count[:, None]
        return BatchFeature({"values": values, "coordinates": coordinates, "attention_mask": there})

    def _frames(self, wave: torch.Tensor) -> torch.Tensor:
        if wave.dim() == 2:  # channels first: their mean
            wave = wave.mean(0)
        if wave.dim() != 1 or not len(wave):
            raise ValueError(
                f"a waveform has the shape {tuple(wave.shape)}; it must be (samples,) or (channels, samples)"
            )
        if not wave.isfinite().all():
            raise ValueError("a waveform holds samples that are no numbers")
        wave = torch.nn.functional.pad(wave, (0, -len(wave) % self.frame_length))
        power = torch.fft.rfft(wave.view(-1, self.frame_length) * torch.hann_window(self.frame_length)).abs().square()
        return (power + 1e-4).log10() / 2


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return chirps of different lengths."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        start, slope, length = 0.02 + 0.2 * source.random(), 4e-4 * source.random(), source.randrange(160, 320)
        rows.append({"audio": [0.5 * math.sin((start + slope * step) * step) for step in range(length)]})
    return rows


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return waveforms at the edge of what users have."""
    return {
        "one sample": [{"audio": [0.1]}],
        "two channels": [{"audio": [[0.1] * 40, [0.2] * 40]}],
        "silence": [{"audio": [0.0] * 100}],
        "nothing": [{"audio": []}],
    }
