"""HEAR's interface (Turian et al. 2022, arXiv:2203.03022), so that its evaluation tools run: point them at this module.

heareval.embeddings.runner hub_mim_mwmae.hear --model runs/mine --tasks-dir tasks
"""

from typing import Any

import torch
from torch import Tensor

from hub_mim_mwmae.frontend import log_mel, pad_to_units, standardize

RATE = 16_000
UNITS = 32  # encoded at a time: an hour of sound takes no more memory than a minute


class HearModel(torch.nn.Module):
    """A model as HEAR wants it: with its sampling rate and the sizes of its embeddings."""

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        self.sample_rate = RATE
        self.scene_embedding_size = encoder.config.hidden_size * encoder.config.grid[1]
        self.timestamp_embedding_size = self.scene_embedding_size


def load_model(model_file_path: str = "") -> HearModel:
    """Load a checkpoint: folder or Hub id.

    Raises:
        ValueError: no checkpoint was named; there is no released one in this layout.
    """
    from hub_mim import loading

    if not model_file_path:
        raise ValueError("name a checkpoint (--model FOLDER_OR_ID); none is built in")
    return HearModel(loading.load(model_file_path).eval())


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Return an embedding for each time step (B, t, F' * D), and when it begins, in milliseconds (B, t).

    Args:
        audio: (B, samples) at 16 kHz, in [-1, 1].
    """
    with torch.no_grad():
        return timestamp_embeddings(audio, model.encoder)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Return one embedding a clip (B, F' * D): the mean over time."""
    return get_timestamp_embeddings(audio, model)[0].mean(1)


def timestamp_embeddings(audio: Tensor, encoder: Any) -> tuple[Tensor, Tensor]:
    """Embed clips of one length by an encoder; see `get_timestamp_embeddings`.

    The spectrogram of the whole clip is standardised, mirrored at its end to whole units, encoded unit by unit; embeddings of
    what was added are cut off by the authors' rule.
    """
    config = encoder.config
    frames, high = config.spectrogram_size[0], config.patch_size[0]
    values = standardize(log_mel(audio))
    missing = frames - values.shape[1] % frames
    padded = torch.stack([pad_to_units(row, frames) for row in values])
    units = padded.reshape(-1, frames, padded.shape[2])
    parts = [encoder(part).frame_embeddings for part in units.split(UNITS)]
    embeddings = torch.cat(parts).reshape(len(audio), -1, parts[0].shape[-1])
    embeddings = embeddings[:, : embeddings.shape[1] - int(frames // high * missing / frames)]
    step = audio.shape[1] / RATE * 1000 / embeddings.shape[1]
    timestamps = torch.arange(embeddings.shape[1], device=audio.device) * step
    return embeddings, timestamps.expand(len(audio), -1)
