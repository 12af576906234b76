"""Embed clips of any length piece by piece: an hour takes no more memory than a minute.

Read twice: once for the mean and the deviation of the whole spectrogram, once to encode it unit by unit. What comes out is
what the extractor and the model give for the whole clip at once, up to rounding.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim_mwmae.feature_extraction_mwmae import read_clip
from hub_mim_mwmae.frontend import log_mel, pad_to_units

SECONDS = 30  # read at a time


def frames(
    model: Any, processor: Any, row: Mapping[str, Any], *, batch_size: int = 64, dtype: Any = None
) -> Iterator[tuple[list[Any], np.ndarray]]:
    """Yield when each time step of a clip begins, in milliseconds, and its embedding; some units at a time.

    Args:
        model: an encoder. processor: its feature extractor. row: with `audio`, see `MwMaeFeatureExtractor.__call__`.
        batch_size: units encoded at a time. dtype: of torch, for autocast.
    Raises:
        ValueError: what the extractor refuses.
    """
    step = model.config.patch_size[0] * processor.hop_length / processor.sampling_rate * 1000
    begun = 0
    for vectors in _encoded(model, processor, row["audio"], batch_size, dtype):
        yield [(begun + place) * step for place in range(len(vectors))], vectors.numpy()
        begun += len(vectors)


def scenes(
    model: Any, processor: Any, row: Mapping[str, Any], *, batch_size: int = 64, dtype: Any = None
) -> Iterator[tuple[list[Any], np.ndarray]]:
    """Yield the one embedding of a clip, the mean over its time steps; see `frames`."""
    total: Any = 0
    count = 0
    for vectors in _encoded(model, processor, row["audio"], batch_size, dtype):
        total = total + vectors.double().sum(0)
        count += len(vectors)
    yield [0], (total / count).float().numpy()[None]


def _encoded(model: Any, processor: Any, clip: Any, batch_size: int, dtype: Any) -> Iterator[Tensor]:
    """Yield the embeddings of time steps (steps, D), some units at a time, without those of padding."""
    length, high = processor.frames, model.config.patch_size[0]
    device = model.device
    for values, real in _units(processor, clip, batch_size):
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            found = model(values.to(device)).frame_embeddings.float().flatten(0, 1).cpu()
        padding = len(values) * length - real
        yield found[: len(found) - padding // high]


def _units(processor: Any, clip: Any, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield standardised units (U, frames, bins) and how many of their frames are no padding."""
    mean, deviation = _statistics(processor, clip)
    length, held, before = (
        processor.frames,
        torch.empty(0, processor.feature_size),
        torch.empty(0, processor.feature_size),
    )
    for block in spectrogram(processor, clip):
        held = torch.cat([held, (block - mean) / (deviation + 1e-8)])
        while len(held) > batch_size * length:  # the last unit waits, since it may have to be mirrored
            ready, held = held[: batch_size * length], held[batch_size * length :]
            before = ready[-length:]
            yield ready.view(-1, length, ready.shape[1]), len(ready)
    real = len(held)
    if real % length:
        context = torch.cat([before, held])
        padded = pad_to_units(context, length)[len(before) :]
        held = padded
    if real:
        yield held.view(-1, length, held.shape[1]), real


def _statistics(processor: Any, clip: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of a clip's whole spectrogram."""
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    shift: Tensor | None = None  # of the first block: squares of what is far from 0 would lose digits
    for block in spectrogram(processor, clip):
        values = block.double()
        shift = values.mean() if shift is None else shift
        count, total = count + values.numel(), total + (values - shift).sum()
        squares = squares + (values - shift).square().sum()
    assert shift is not None
    mean = total / count
    correction = 1 if processor.deviation == "unbiased" else 0
    deviation = ((squares - count * mean.square()).clamp(min=0) / max(1, count - correction)).sqrt()
    return (mean + shift).float(), deviation.float()


def spectrogram(processor: Any, clip: Any) -> Iterator[Tensor]:
    """Yield the log-mel spectrogram of a clip in blocks (frames, bins), as `frontend.log_mel` of the whole has it."""
    half, hop = processor.n_fft // 2, processor.hop_length
    options = {
        "sampling_rate": processor.sampling_rate,
        "n_fft": processor.n_fft,
        "hop_length": hop,
        "n_mels": processor.feature_size,
        "f_min": processor.f_min,
        "f_max": processor.f_max,
        "center": False,
    }
    for block in _with_mirrored_ends(waveform(clip, processor.sampling_rate), half, hop):
        yield log_mel(torch.from_numpy(block), **options)


def _with_mirrored_ends(blocks: Iterator[np.ndarray], half: int, hop: int) -> Iterator[np.ndarray]:
    """Yield samples in blocks of whole frames that overlap as frames do, the two ends of all mirrored."""
    held = np.empty(0, np.float32)
    begun = False
    for block in blocks:
        held = np.concatenate([held, block])
        if len(held) <= 2 * half + hop:
            continue
        if not begun:
            held, begun = np.concatenate([held[half:0:-1], held]), True
        ready = (len(held) - half - 1 - 2 * half) // hop  # leaves what the end is mirrored from
        if ready > 0:
            yield held[: (ready - 1) * hop + 2 * half]
            held = held[ready * hop :]
    if not begun:
        if len(held) <= half:
            raise ValueError(f"a clip of {len(held)} samples is too short; the least is {half + 1}")
        held = np.concatenate([held[half:0:-1], held])
    held = np.concatenate([held, held[-2 : -half - 2 : -1]])
    if len(held) >= 2 * half:
        yield held


def waveform(clip: Any, rate: int) -> Iterator[np.ndarray]:
    """Yield the samples of a clip at a rate, channels averaged, float32, in blocks.

    Raises:
        ValueError: a file that cannot be read, no samples, samples that are no numbers.
    """
    own, blocks = _open(clip, rate)
    count = 0
    for block in blocks if own == rate else _resampled(blocks, own, rate):
        if not np.isfinite(block).all():
            raise ValueError(f"a clip holds {int((~np.isfinite(block)).sum())} samples that are no numbers")
        count += len(block)
        yield np.ascontiguousarray(block, np.float32)
    if not count:
        raise ValueError("a clip has no samples")


def _open(clip: Any, rate: int) -> tuple[int, Iterator[np.ndarray]]:
    """Return a clip's rate and its samples in blocks; files are read piece by piece."""
    import soundfile

    if not (isinstance(clip, str | Path) or (isinstance(clip, Mapping) and clip.get("array") is None)):
        samples, own = read_clip(clip, rate)
        return own, iter([samples])
    content = clip.get("bytes") if isinstance(clip, Mapping) else None
    path = clip.get("path") if isinstance(clip, Mapping) else clip
    name = Path(str(path)).name if path else "a clip"
    try:
        file = soundfile.SoundFile(io.BytesIO(content) if content is not None else str(path))
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as sound ({error})") from None
    return int(file.samplerate), _blocks(file, name)


def _blocks(file: Any, name: str) -> Iterator[np.ndarray]:
    import soundfile

    with file:
        try:
            for block in file.blocks(blocksize=SECONDS * file.samplerate, dtype="float32", always_2d=True):
                yield block.mean(1)
        except (soundfile.SoundFileError, OSError, RuntimeError) as error:
            raise ValueError(f"{name} cannot be read as sound to its end ({error})") from None


def _resampled(blocks: Iterator[np.ndarray], own: int, rate: int) -> Iterator[np.ndarray]:
    """Yield what `scipy.signal.resample_poly` makes of the whole, block by block: its filter looks a short way only."""
    from scipy.signal import resample_poly

    up, down = rate // gcd(own, rate), own // gcd(own, rate)
    margin = -(-(10 * max(up, down) // up + 2) // down) * down
    held, before, done = np.empty(0, np.float32), 0, False
    source = iter(blocks)
    while not done:
        block = next(source, None)
        done = block is None
        held = held if block is None else np.concatenate([held, block])
        ready = len(held) - before if done else (len(held) - before - margin) // down * down
        if ready <= 0:
            continue
        made = resample_poly(held[: before + ready + (0 if done else margin)], up, down)
        first = before * up // down
        yield made[first:] if done else made[first : first + ready * up // down]
        kept = min(margin, before + ready)
        held, before = held[before + ready - kept :], kept
