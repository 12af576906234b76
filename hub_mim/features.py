"""Frozen features: one vector a row from any encoder that transformers' AutoModel loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes
from hub_mim.method import suggest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

POOLINGS = ("auto", "pooler", "mean", "first", "max")
RAW_SIDE = 16  # pictures are averaged to so many places a side before they are compared as they are
RAW_WORDS = 1024


def batch_features(model: Any, processor: Any, rows: Any, *, pooling: str = "auto", dtype: Any = None) -> np.ndarray:
    """Return the features of one batch of rows, float32 (rows, width).

    Args:
        model: an encoder in evaluation mode: `last_hidden_state` and perhaps `pooler_output`.
        processor: see `data.encode`.
        rows: list of dicts.
        pooling: "auto": the model's own pooled vector where it is no layer that pre-training never saw, else "mean";
            "pooler"; over the valid tokens "mean" or "max"; "first": the class token.
        dtype: of torch, for autocast; None computes as the weights are.
    Raises:
        ValueError: a pooling that is none or that the model does not have; features that are no numbers.
    """
    import torch

    from hub_mim.data import encode

    if pooling not in POOLINGS:
        raise ValueError(f"no pooling {pooling!r}{suggest(pooling, POOLINGS)}; there are {', '.join(POOLINGS)}")
    batch = {name: value.to(model.device) for name, value in encode(processor, rows).items()}
    # not inference_mode: what a model keeps between calls, as BEiT its places, could not be trained with afterwards
    with torch.no_grad(), torch.autocast(model.device.type, dtype) if dtype else nullcontext():
        pooled = pool(model, model(**batch), batch, pooling).float()
    bad = ~pooled.isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(f"the features of row {int(bad.nonzero()[0])} of a batch hold values that are no numbers")
    return pooled.cpu().numpy()


@takes(batch_size=">=1")
def iterate_features(
    model: Any, processor: Any, rows: Any, *, batch_size: int = 64, **options: Any
) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Yield one batch of rows after another with its features.

    Args:
        model: put into evaluation mode. processor, options: see `batch_features`.
        rows: a Dataset, a stream or a list of dicts.
        batch_size: rows at a time.
    """
    from hub_mim.data import batches

    model.eval()
    for part in batches(rows, batch_size):
        yield part, batch_features(model, processor, part, **options)


def features(model: Any, processor: Any, rows: Any, **options: Any) -> np.ndarray:
    """Return the features of all rows, float32 (rows, width); see `iterate_features`.

    Raises:
        ValueError: there are no rows.
    """
    import numpy as np

    parts = [vectors for _, vectors in iterate_features(model, processor, rows, **options)]
    if not parts:
        raise ValueError("there are no rows")
    return np.concatenate(parts)


def pool(model: Any, output: Any, batch: dict[str, Tensor], pooling: str = "auto") -> Tensor:
    """Return one vector a row (B, D) from an encoder's output; see `batch_features`.

    Raises:
        ValueError: the model has no pooled output.
    """
    pooled = output.get("pooler_output")
    if pooling == "pooler" or (pooling == "auto" and pooled is not None and not has_own_pooler(model)):
        if pooled is None:
            raise ValueError(f"{type(model).__name__} has no pooler_output; pool by mean, first or max")
        return pooled.flatten(1)
    hidden = as_tokens(output)
    if pooling == "first":
        return hidden[:, 0]
    valid = valid_tokens(output, batch, hidden)
    if pooling == "max":
        return hidden.masked_fill(~valid[..., None], float("-inf")).amax(1)
    weights = valid[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def has_own_pooler(model: Any) -> bool:
    """Tell whether the pooled output comes from a layer with weights, which most pre-training never trains."""
    pooler = getattr(model, "pooler", None)
    return pooler is not None and any(True for _ in pooler.parameters())


def as_tokens(output: Any) -> Tensor:
    """Return an encoder's last hidden state as tokens (B, T, D)."""
    hidden: Tensor = output.last_hidden_state
    if hidden.dim() == 4:  # (B, C, H, W) of convolutional and some windowed encoders
        hidden = hidden.flatten(2).transpose(1, 2)
    return hidden


def valid_tokens(output: Any, batch: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """Return which tokens are no padding, bool (B, T)."""
    import torch

    for mask in (output.get("valid"), batch.get("attention_mask"), batch.get("padding_mask")):
        if mask is not None and mask.shape == hidden.shape[:2]:
            return mask.bool()
    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)


@takes()
def untrained(model: Any, seed: int) -> Any:
    """Return a model of the same architecture with fresh weights, the same on every call with one seed."""
    import torch

    from hub_mim.starting import fresh_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fresh_model(model)


@takes(batch_size=">=1")
def raw_features(processor: Any, rows: Any, batch_size: int = 256) -> np.ndarray:
    """Return the input itself as vectors: what a probe makes of it without any model.

    Pictures are averaged to 16 by 16 places, sequences to the mean and spread of each channel, words counted; missing
    values are 0.
    """
    import numpy as np
    import torch

    from hub_mim.data import batches, encode

    parts = []
    for part in batches(rows, batch_size):
        tensors = [_plain(value) for value in encode(processor, part).values() if value.shape[:1] == (len(part),)]
        parts.append(torch.cat([tensor for tensor in tensors if tensor is not None], 1).numpy())
    return np.concatenate(parts)


def _plain(value: Tensor) -> Tensor | None:
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    if value.dtype == torch.bool or value.dim() < 2:
        return None
    if not value.is_floating_point() and value.dtype != torch.uint8:  # numbers of words; uint8 are pictures
        counts = torch.zeros(len(value), RAW_WORDS)
        flat = value.flatten(1) % RAW_WORDS
        return counts.scatter_add_(1, flat, torch.ones(flat.shape))
    value = value.float().nan_to_num(0.0, 0.0, 0.0)
    if value.dim() >= 4:
        return adaptive_avg_pool2d(value.flatten(1, -3), RAW_SIDE).flatten(1)
    return torch.cat([value.mean(1), value.std(1, correction=0)], 1) if value.dim() == 3 else value
