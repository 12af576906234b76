"""Generated clips: a tone that rises or falls under noise, so that hidden parts follow from visible ones."""

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.feature_extraction_mwmae import MwMaeFeatureExtractor

RATE = 16_000


def sample(count: int = 64, seed: int = 0, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Return rows with `audio` (bytes of a wav file, as `datasets` has them) and `label`: 1 where the tone rises."""
    source = np.random.default_rng(seed)
    return [_row(source, seconds) for _ in range(count)]


def _row(source: np.random.Generator, seconds: float) -> dict[str, Any]:
    rises, time = int(source.integers(2)), np.arange(int(seconds * RATE)) / RATE
    low, high = source.uniform(200, 800), source.uniform(1500, 4000)
    start, end = (low, high) if rises else (high, low)
    phase = 2 * np.pi * (start * time + (end - start) * time**2 / (2 * seconds))
    beats = 0.6 + 0.4 * np.sin(2 * np.pi * source.uniform(2, 6) * time)
    wave = 0.3 * beats * np.sin(phase) + source.normal(0, 0.01, len(time))
    return {"audio": {"bytes": _wav(wave, RATE), "path": "rising.wav" if rises else "falling.wav"}, "label": rises}


def _wav(samples: np.ndarray, rate: int) -> bytes:
    """Return samples (N,) or (N, channels) as a 16-bit wav file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def example() -> Example:
    """Return the example of the plugin's checks."""
    config = MwMaeConfig(
        spectrogram_size=[28, 16],
        patch_size=[4, 8],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=20,
        window_sizes=[5, 0],
        decoder_window_sizes=[3, 5, 0],
        shift_windows=True,
        use_cls_token=True,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.1,
        initializer_range=0.03,
        mask_ratio=0.65,
        norm_patch_loss=True,
        loss_weights={"spectrogram": 0.5},
    )
    rows = [{"audio": row["audio"]} for row in sample(4, seconds=0.2)]
    tone = np.sin(np.arange(3200) ** 1.2 / 9)
    rows[2]["audio"]["bytes"] = _wav(
        np.stack([tone, -0.4 * tone], 1), 8000
    )  # two channels, half the rate, twice as long
    return Example(
        config=config,
        rows=rows,
        processor=MwMaeFeatureExtractor(feature_size=16, frames=28, f_max=7000.0, deviation="population", max_units=1),
        corrupt=corrupt,
        hidden=hidden,
        odd_rows=odd_rows(),
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many patches are hidden: exactly 10 of 14."""
    count = torch.full((len(batch["input_values"]),), 10)
    return count, count


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge: silence, a clip of a moment, none at all, samples that are no numbers, another rate."""
    return {
        "silence": [{"audio": np.zeros(4000, np.float32)}],
        "a moment": [{"audio": np.ones(100, np.float32)}],
        "nothing": [{"audio": np.zeros(0, np.float32)}],
        "no numbers": [{"audio": np.full(4000, np.nan, np.float32)}],
        "two channels": [{"audio": np.sin(np.arange(8000).reshape(2, 4000) / 7).astype(np.float32)}],
        "another rate": [{"audio": {"array": np.sin(np.arange(9000) / 7).astype(np.float32), "sampling_rate": 44_100}}],
    }


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace hidden patches by noise."""
    values = batch["input_values"]
    grid = mask.view(-1, 7, 2).repeat_interleave(4, 1).repeat_interleave(8, 2)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    return batch | {"input_values": torch.where(grid, noise, values)}
