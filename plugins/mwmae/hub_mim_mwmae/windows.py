"""Multi-window attention: each head attends within windows of its own size, all heads in one call.

Shapes: B rows, T tokens, H heads, w tokens a window, D channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from hub_mim.blocks import Attention, Block

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
        return super().forward(x, self.bias(x.shape[1]).to(x.dtype)[None], **kwargs)

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
            late = torch.arange(window, device=inside.device) >= window - shift
            apart = torch.where(late[:, None] == late, 0.0, OTHER).to(inside.dtype)
            parts = torch.cat([parts[:-1], (parts[-1] + apart)[None]])
        same = torch.eye(count, dtype=torch.bool, device=inside.device)[:, None, :, None]
        whole = torch.where(same, parts[:, :, None, :], low).reshape(count * window, count * window)
        whole = whole.roll((shift, shift), (0, 1)) if shift else whole
        return whole[:length, :length]


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
