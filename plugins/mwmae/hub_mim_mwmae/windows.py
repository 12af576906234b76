"""Multi-window attention: each head attends within windows of its own size, all heads in one call.

Shapes: B rows, T tokens, H heads, w tokens a window, D channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from hub_mim.blocks import Attention, Block, attention_function

OTHER = -100.0  # added between parts of a shifted window that were not neighbours, as the authors do; not infinite


class BiasTables(nn.ParameterDict):
    """A bias for each distance within a window (2 w - 1,), by the number of the head."""

    def reset(self) -> None:
        """Fill the biases: a truncated normal whose variance is 0.02 over the table's length, as the authors' code does."""
        for table in self.values():
            # variance scaling corrects for the truncation at two deviations
            init.trunc_normal_(table, std=(0.02 / len(table)) ** 0.5 / 0.87962566103423978)


class MultiWindowAttention(Attention):
    """Attention whose heads see windows of different sizes of the flat sequence, with a learned bias by distance.

    A head of window 0 sees everything and has no bias. Windows are blocks of the sequence that do not overlap; where the
    layer is shifted they begin half a window later, and the first and the last half share one.

    Args:
        config, width, num_heads: see `Attention`.
        windows: for each head.
        shifted: whether windows are shifted.
    Source: section 3.1 of the paper.
    """

    def __init__(
        self, config: PreTrainedConfig, width: int, num_heads: int, windows: Sequence[int], *, shifted: bool = False
    ):
        super().__init__(config, width, num_heads)
        self.windows, self.shifted = list(windows), shifted
        self.tables = BiasTables(
            {str(head): nn.Parameter(torch.empty(2 * w - 1)) for head, w in enumerate(windows) if w}
        )

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, context: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within the windows; x (B, T, D). A mask of padding cannot be given."""
        if attention_mask is not None or context is not None:
            raise ValueError("windows take no mask of padding and no context; give rows of one length")
        length = x.shape[1]
        if self.config._attn_implementation == "eager" or any(window and length % window for window in self.windows):
            return super().forward(x, self.bias(length).to(x.dtype)[None], **kwargs)
        parts = self.heads(x, x)
        outs: dict[int, Tensor] = {}
        for window in dict.fromkeys(self.windows):
            heads = [head for head, each in enumerate(self.windows) if each == window]
            y = self._group([part[:, heads] for part in parts], heads, window, **kwargs)
            outs |= dict(zip(heads, y.unbind(1), strict=True))
        return self.o_proj(torch.cat([outs[head] for head in range(len(self.windows))], -1)), None

    def _group(self, parts: list[Tensor], heads: list[int], window: int, **kwargs: Any) -> Tensor:
        """Attend with the heads of one window size, (B, h, T, d) each of query, key, value; windows become rows."""
        options = {"dropout": 0.0, "scaling": self.scaling, **kwargs}
        if not window:
            attend = attention_function(self.config, parts[1])
            return attend(self, *parts, None, **options)[0].transpose(1, 2)
        rows, _, length, _ = parts[0].shape
        count, shift = length // window, window // 2 if self.shifted else 0
        if shift:
            parts = [part.roll(-shift, 2) for part in parts]
        cut = [part.unflatten(2, (count, window)).transpose(1, 2).flatten(0, 1) for part in parts]
        places = torch.arange(window, device=parts[0].device)
        distance = places[:, None] - places + window - 1
        bias = torch.stack([self.tables[str(head)][distance] for head in heads]).to(parts[0].dtype)[None]
        if shift:
            last = bias + _apart(window, shift, bias)
            bias = torch.cat([bias.expand(count - 1, -1, -1, -1), last]).repeat(rows, 1, 1, 1)
        attend = attention_function(self.config, cut[1])
        y = attend(self, *cut, bias, **options)[0]  # rows of windows, w, h, d
        y = y.unflatten(0, (rows, count)).flatten(1, 2).transpose(1, 2)
        return y.roll(shift, 2) if shift else y

    def bias(self, length: int) -> Tensor:
        """Return what is added to the scores (H, T, T): the bias inside windows, a very low number outside.

        The configuration's lengths are whole numbers of windows; of any other, as masks by hand may leave, the last window is
        cut short.
        """
        weight = self.q_proj.weight
        heads = []
        for head, window in enumerate(self.windows):
            if not window:
                heads.append(weight.new_zeros(length, length))
                continue
            places = torch.arange(window, device=weight.device)
            inside = self.tables[str(head)][places[:, None] - places + window - 1]
            heads.append(self._blocks(inside, length, window))
        return torch.stack(heads)

    def _blocks(self, inside: Tensor, length: int, window: int) -> Tensor:
        """Put a window's biases (w, w) onto the diagonal of a matrix (T, T), a very low number elsewhere."""
        count, shift = -(-length // window), window // 2 if self.shifted else 0
        low = torch.finfo(inside.dtype).min
        parts = inside.expand(count, -1, -1)
        if shift:
            parts = torch.cat([parts[:-1], (parts[-1] + _apart(window, shift, inside))[None]])
        same = torch.eye(count, dtype=torch.bool, device=inside.device)[:, None, :, None]
        whole = torch.where(same, parts[:, :, None, :], low).reshape(count * window, count * window)
        whole = whole.roll((shift, shift), (0, 1)) if shift else whole
        return whole[:length, :length]


def _apart(window: int, shift: int, like: Tensor) -> Tensor:
    """Return what is added in the last window of a shifted layer (w, w): its two parts were not neighbours."""
    part = torch.arange(window, device=like.device) // (window - shift)  # whole numbers: inductor cannot compare truths
    return OTHER * (part[:, None] - part).abs().to(like.dtype)


def head_weights(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Work out what each head of a layer attends to (B, H, T, T) and gives (B, H, T, d), to look at."""
    query, key, value = attention.heads(x, x)
    scores = query @ key.transpose(2, 3) * attention.scaling
    if isinstance(attention, MultiWindowAttention):
        scores = scores + attention.bias(x.shape[1])
    weights = scores.softmax(-1)
    return weights, weights @ value


class WindowBlock(Block):
    """A pre-norm block with multi-window attention; subclass it, as `Block`."""

    def __init__(
        self,
        config: PreTrainedConfig,
        width: int,
        num_heads: int,
        inner: int,
        *,
        windows: Sequence[int] = (),
        shifted: bool = False,
        **options: Any,
    ):
        super().__init__(config, width, num_heads, inner, **options)
        if windows:
            self.attention = MultiWindowAttention(config, width, num_heads, windows, shifted=shifted)
