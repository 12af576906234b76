"""The pre-norm Transformer block that most methods share, on transformers' attention interface.

A plugin subclasses `Block` once for its encoder and once for its decoder: transformers records hidden states by the
class of the layer, so one class for both would mix them. Models are built on the meta device and filled afterwards, so
a constant table is only given room in `__init__` and is filled in `_init_weights`, else it holds noise or zeros:

    self.register_buffer("positions", torch.empty(num_tokens, width), persistent=False)  # in __init__

    def _init_weights(self, module):
        init_linear_norm(module)
        if isinstance(module, MyEmbeddings):
            init.copy_(module.positions, sincos_1d(torch.arange(num_tokens), width))  # transformers.initialization

Shapes: B rows, T tokens, D channels, H heads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hub_mim.checking import takes


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend by matrix products and a softmax in float32 or better: the reference for the other implementations.

    Args:
        module: the attention layer; its `training` flag decides about dropout.
        query: (B, H, T, D / H).
        key: (B, H, S, D / H).
        value: (B, H, S, D / H).
        attention_mask: added to the scores, broadcast to (B, H, T, S).
        scaling: of the scores; default (D / H) ** -0.5.
        dropout: share of attention weights dropped in training.
        kwargs: ignored; other implementations take more.
    Returns:
        (B, T, H, D / H) and the weights (B, H, T, S).
    Source: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.
    """
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


SHORT = 16  # keys; below, torch's softmax and fused attention for the CPU take the scores one by one


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as `eager_attention`, with a softmax in four vectorised steps: for few keys on a CPU.

    Forward and backward take 0.4 to 0.8 of the time of torch's fused attention for fewer than 16 keys and heads of up to
    16 channels, about the same for 64 (torch 2.13, one thread).

    Args:
        attention_mask: added to the scores, or bool, True where a key is seen.
        module, query, key, value, scaling, dropout, kwargs: see `eager_attention`.
    Returns:
        (B, T, H, D / H) and None.
    """
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    total = weights.sum(-1, keepdim=True)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value / total).transpose(1, 2).contiguous(), None


LONG = 512  # keys up to which the matrix of scores may be held


def attention_function(config: PreTrainedConfig, key: Tensor) -> Callable[..., Any]:
    """Return the attention that a configuration asks for; for "sdpa" on a CPU the fastest of what gives the same.

    torch's fused one is slow there for few keys, and backwards in 16 bits: in bfloat16 a step of ViT-B MAE spends 28 % of its
    time in the backward pass of the fused kernel, three times what float32 needs, while matrix products go to the CPU's own
    units for 16 bits.
    """
    usual: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    if config._attn_implementation != "sdpa" or key.device.type != "cpu":
        return usual
    if key.dtype == torch.float32:
        return short_attention if key.shape[2] < SHORT else usual
    return eager_for_sdpa if key.dtype == torch.bfloat16 and key.shape[2] <= LONG else usual


def eager_for_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Call `eager_attention` with the bool mask that fused attention takes, True where a key is seen."""
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        low = torch.finfo(torch.float32).min
        attention_mask = torch.zeros_like(attention_mask, dtype=torch.float32).masked_fill(~attention_mask, low)
    y, _ = eager_attention(module, query, key, value, attention_mask, **kwargs)
    return y, None


class Attention(nn.Module):
    """Multi-head self-attention, or cross-attention where a context is given.

    Args:
        config: read for `_attn_implementation` only.
        width: D.
        num_heads: H, divides D.
        qkv_bias: biases on queries, keys and values.
        dropout: share of attention weights dropped in training.
    Raises:
        ValueError: D is no multiple of H.
    """

    @takes(width=">=1", num_heads=">=1", dropout=">=0 <=1")
    def __init__(
        self, config: PreTrainedConfig, width: int, num_heads: int, *, qkv_bias: bool = True, dropout: float = 0.0
    ):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of the number of attention heads {num_heads}")
        self.config = config
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def heads(self, x: Tensor, source: Tensor) -> list[Tensor]:
        """Return queries of x (B, T, D), keys and values of the source (B, S, D), each (B, H, length, D / H)."""
        projected = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        return [each.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in projected]

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, context: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from x (B, T, D) to the context (B, S, D), itself by default; returns (B, T, D) and weights."""
        # under autocast each projection would cast its input for itself
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        x = x.to(kind)
        source = x if context is None else context.to(kind)
        query, key, value = self.heads(x, source)
        attend = attention_function(self.config, key)
        dropout = self.dropout if self.training else 0.0
        y, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(y.flatten(2)), weights


class Mlp(nn.Module):
    """Two linear layers with an activation between; `act` is a name of transformers' ("gelu" is the exact one)."""

    @takes(width=">=1", inner=">=1", dropout=">=0 <=1")
    def __init__(self, width: int, inner: int, *, act: str = "gelu", dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.act = ACT2FN[act]
        self.fc2 = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return self.dropout(self.fc2(self.act(self.fc1(x))))


class DropPath(nn.Module):
    """Leave out a branch for a random share of rows in training, and scale it up for the others.

    Args:
        share: of rows, in [0, 1).
    Source: Huang et al. 2016 (arXiv:1603.09382), section 3, per row as in timm.
    """

    @takes()
    def __init__(self, share: float):
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"drop path {share} is not in [0, 1), as its share must be")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.share
        return torch.where(kept, x / (1 - self.share), 0)


class Block(GradientCheckpointingLayer):
    """Pre-norm Transformer block: x + attention(norm(x)), then x + mlp(norm(x)); subclass it, see the module.

    Args:
        config: read for `_attn_implementation` only.
        width: D.
        num_heads: H.
        inner: width of the MLP.
        layer_norm_eps: of both norms.
        qkv_bias: biases on queries, keys and values.
        act: activation of the MLP.
        dropout: after the attention's and the MLP's output, in training.
        attention_dropout: of the attention weights, in training.
        drop_path: share of rows for which attention, and again for which the MLP, is left out in training.
    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), eq. 2 and 3.
    """

    @takes(
        width=">=1", num_heads=">=1", inner=">=1", layer_norm_eps=">=0", dropout=">=0 <=1", attention_dropout=">=0 <=1"
    )
    def __init__(
        self,
        config: PreTrainedConfig,
        width: int,
        num_heads: int,
        inner: int,
        *,
        layer_norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        act: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attention = Attention(config, width, num_heads, qkv_bias=qkv_bias, dropout=attention_dropout)
        self.layernorm_after = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = Mlp(width, inner, act=act, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Map (B, T, D) to (B, T, D); the mask is what the attention implementation takes."""
        attended, _ = self.attention(self.layernorm_before(x), attention_mask, **kwargs)
        x = x + self.drop_path(self.dropout(attended))
        return x + self.drop_path(self.mlp(self.layernorm_after(x)))


@takes(depth=">=0", width=">=1", num_heads=">=1", inner=">=1", drop_path=">=0 <1")
def build_blocks(
    kind: type[Block],
    config: PreTrainedConfig,
    depth: int,
    width: int,
    num_heads: int,
    inner: int,
    *,
    drop_path: float = 0.0,
    **options: Any,
) -> nn.ModuleList:
    """Return `depth` blocks; the share of rows for which a branch is left out rises from 0 to `drop_path` at the last.

    Args:
        kind: the plugin's own subclass of `Block`.
        config, width, num_heads, inner, options: see `Block`.
    """
    shares = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
    return nn.ModuleList(kind(config, width, num_heads, inner, drop_path=share, **options) for share in shares)


def attention_only(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is passed on to the attention of a decoder: not what asks the encoder for its outputs."""
    return {name: value for name, value in kwargs.items() if not name.startswith(("output_", "return_"))}


@torch.no_grad()
def init_linear_norm(module: nn.Module) -> None:
    """Fill a linear layer (Xavier uniform, zero bias) or a norm (1, 0), as MAE's code does, if `module` is one.

    For a model's `_init_weights`: `init` leaves alone what was loaded from a checkpoint.
    """
    if isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
