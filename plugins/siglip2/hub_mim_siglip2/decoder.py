"""A decoder that reads a picture's features and writes text, word by word or all words at once.

Blocks as in CapPa (Tschannen et al. 2023, arXiv:2306.07915): pre-norm, self-attention, cross-attention, MLP, attention
without biases; used as in LocCa (Wan et al. 2024, arXiv:2403.19596). Shapes: B rows, L tokens, N patches, D channels, V words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from hub_mim.blocks import Attention, Mlp
from hub_mim_siglip2.towers import key_mask


class DecoderAttention(Attention):
    """Attention without biases; keys and values may come from features of another width."""

    def __init__(self, config: Any, width: int, heads: int, context: int | None = None):
        super().__init__(config, width, heads, qkv_bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        if context is not None and context != width:
            self.k_proj, self.v_proj = (nn.Linear(context, width, bias=False) for _ in range(2))


class DecoderLayer(GradientCheckpointingLayer):
    """x + self-attention, then + cross-attention to the picture, then + MLP, each behind a norm."""

    def __init__(self, config: Any, width: int, heads: int, inner: int, context: int):
        super().__init__()
        eps, bias = config.text_config.layer_norm_eps, config.decoder_bias
        self.self_norm = nn.LayerNorm(width, eps=eps, bias=bias)
        self.self_attention = DecoderAttention(config, width, heads)
        self.cross_norm = nn.LayerNorm(width, eps=eps, bias=bias)
        self.cross_attention = DecoderAttention(config, width, heads, context)
        self.mlp_norm = nn.LayerNorm(width, eps=eps, bias=bias)
        self.mlp = Mlp(width, inner, act="gelu_pytorch_tanh")
        if not bias:
            self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, features: Tensor, seen: Tensor, keys: Tensor | None) -> Tensor:
        """Map (B, L, D) to (B, L, D); `seen` and `keys` are added to scores."""
        x = x + self.self_attention(self.self_norm(x), seen)[0]
        x = x + self.cross_attention(self.cross_norm(x), keys, features)[0]
        return x + self.mlp(self.mlp_norm(x))


class CaptionDecoder(nn.Module):
    """Read features (B, N, W) and tokens, give the state behind each place, from which the next word is told.

    Its own words (one more than the vocabulary: the mask token), places, and an untied output.
    """

    def __init__(self, config: Any):
        super().__init__()
        text, width = config.text_config, config.text_config.hidden_size
        self.vocab_size, self.start, self.length = text.vocab_size, config.decoder_start_token_id, config.decoder_length
        self.embed_tokens = nn.Embedding(text.vocab_size + 1, width)
        self.embed_positions = nn.Parameter(torch.empty(1, config.decoder_length, width))
        heads = config.decoder_num_attention_heads or text.num_attention_heads
        inner = config.decoder_intermediate_size or text.intermediate_size
        self.layers = nn.ModuleList(
            DecoderLayer(config, width, heads, inner, config.vision_config.hidden_size)
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width, eps=text.layer_norm_eps)
        self.output = nn.Linear(width, text.vocab_size)
        self.gradient_checkpointing = False

    @torch.no_grad()
    def reset(self) -> None:
        """Fill the places: N(0, 1 / sqrt(D))."""
        init.normal_(self.embed_positions, std=self.embed_positions.shape[-1] ** -0.5)

    def inputs(self, ids: Tensor, parallel: Tensor) -> Tensor:
        """Return what is read (B, L): the words before each place, or the mask token everywhere where `parallel` (B,)."""
        before = nn.functional.pad(ids[:, :-1], (1, 0), value=self.start)
        return torch.where(parallel[:, None], self.vocab_size, before)

    def forward(self, ids: Tensor, features: Tensor, parallel: Tensor, valid: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            ids: int64 (B, L), the text that is to be told. features: (B, N, W), after the tower's last norm.
            parallel: bool (B,), rows whose words are all told at once: no word is read, each place sees all.
            valid: bool (B, N), patches that are no padding; default all.
        Returns:
            (B, L, D), normalised; `output` of it are the logits.
        Raises:
            ValueError: the text is too long.
        """
        length = ids.shape[1]
        if length > self.length:
            raise ValueError(
                f"a text of {length} tokens (caption_ids) is to be decoded; decoder_length is {self.length}"
            )
        x = self.embed_tokens(self.inputs(ids, parallel)) + self.embed_positions[:, :length]
        order = torch.arange(length, device=ids.device)
        seen = (order <= order[:, None]) | parallel[:, None, None, None]
        away = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, torch.finfo(x.dtype).min / 2)
        keys = key_mask(x, valid)
        for layer in self.layers:
            x = layer(x, features, away, keys)
        states: Tensor = self.norm(x)
        return states
