"""What models of words and regions share: the prediction of words by their own table, pairs that do not match, and what a
batch has besides."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_mim.masking import noise

# what a processor's batch has besides, which an encoder alone does not read
ROW_FACTS = (
    "soft_labels",
    "object_labels",
    "object_confidence",
    "attribute_labels",
    "attribute_confidence",
    "matched_label",
    "answer",
    "num_items_in_batch",
)

# words and regions of a picture, as both models take them, see `hub_mim.checking`
PAIR = {
    "input_ids": "int >=0 <vocab_size B T",
    "visual_feats": "float B N visual_feat_dim",
    "visual_pos": "float B N visual_pos_dim",
    "attention_mask": "mask B T",
    "visual_attention_mask": "mask B N",
    "token_type_ids": "int >=0 <type_vocab_size B T",
}


def for_encoder(given: dict[str, Any]) -> dict[str, Any]:
    """Return what of a batch an encoder reads."""
    return {name: value for name, value in given.items() if name not in ROW_FACTS}


def real_tokens(mask: Tensor | None, tokens: Tensor) -> Tensor:
    """Return which of some tokens (B, S, ...) are no padding, bool (B, S); without a mask all are."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()


def mismatch(candidates: Tensor, ratio: float, source: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Draw rows whose text and picture shall not belong together, and the other row of the batch that each takes one from.

    Args:
        candidates: bool (B,), rows that may be drawn. ratio: chance of each. source: of randomness, see `masking.noise`.
    Returns:
        bool (B,), drawn; int64 (B,), the row to take from, its own for the others. One row alone is never drawn.
    """
    rows = len(candidates)
    apart = candidates & (noise((rows, 1), stream=14, **source)[:, 0] < ratio) & (rows > 1)
    own = torch.arange(rows, device=candidates.device)
    step = 1 + (noise((rows, 1), stream=15, **source)[:, 0] * max(1, rows - 1)).long().clamp(max=max(0, rows - 2))
    return apart, torch.where(apart, (own + step) % rows, own)


class WordHead(nn.Module):
    """BERT's head, by its names of weights; the decoder is the table of words.

    Args:
        transform: linear layer, activation and norm before it. width: of the hidden states. words: of the vocabulary.
    """

    def __init__(self, transform: nn.Module, width: int, words: int):
        super().__init__()
        self.transform = transform
        self.decoder = nn.Linear(width, words, bias=False)
        self.bias = nn.Parameter(torch.empty(words))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., H) to (..., V)."""
        return F.linear(self.transform(x), self.decoder.weight, self.bias)


class PredictsWords:
    """For a model whose `cls.predictions` is a `WordHead`, or that has none: tied, and resized with the vocabulary."""

    def get_output_embeddings(self) -> Any:
        """Return the decoder of words, None where there is none."""
        return self.cls.predictions.decoder if hasattr(self, "cls") else None

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the decoder of words."""
        self.cls.predictions.decoder = value  # type: ignore[attr-defined]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize the table of words, and the bias of their prediction with it; see transformers."""
        table: nn.Embedding = super().resize_token_embeddings(  # type: ignore[misc]
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        if hasattr(self, "cls"):
            old, count = self.cls.predictions.bias, table.weight.shape[0]
            bias = old.new_zeros(count)
            bias[: min(len(old), count)] = old[:count].detach()
            self.cls.predictions.bias = nn.Parameter(bias)
        return table
