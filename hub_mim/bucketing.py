"""Batches of a number of tokens instead of a number of rows: rows of like lengths together, so that little is padding."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

from hub_mim.checking import takes

MULTIPLE = 8  # rows of a batch, where it has more than that; matrix products like it


class TokenBatches(BatchRebalanceSampler):
    """Draw batches of at most so many tokens, padding counted, each process its share of them.

    Rows are sorted by length, in random order where lengths are equal, cut into batches, and the batches are shuffled. Sizes
    and number of the batches are then those of every epoch, and which rows of one length meet is drawn anew. The authors of
    UNITER sort pools of 8192 shuffled rows instead, which lets lengths mix a little.

    It is a kind of transformers' sampler of that class, which makes Trainer take it as a sampler of whole batches.

    Args:
        lengths: tokens of each row. tokens: of a batch, counting each row as long as the longest of its batch.
        seed: of the order. rank, processes: of this process, of all.
    Raises:
        ValueError: a row alone has more tokens than a batch may have.
    """

    @takes(lengths=">=0 filled ...", tokens=">=1", rank=">=0", processes=">=1")
    def __init__(self, lengths: Sequence[int], tokens: int, *, seed: int = 0, rank: int = 0, processes: int = 1):
        self.each = torch.as_tensor(lengths)
        if int(self.each.max()) > tokens:
            place = int(self.each.argmax())
            raise ValueError(f"row {place} has {int(self.each[place])} tokens, and a batch is to have {tokens} at most")
        self.tokens, self.seed, self.rank, self.processes = tokens, seed, rank, processes
        self.epoch = 0
        self.ends = _cut(self.each.sort(descending=True).values.tolist(), tokens)

    @takes()
    def set_epoch(self, epoch: int) -> None:
        """Draw the order of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.ends) // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        source = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        mixed = torch.randperm(len(self.each), generator=source)
        order = mixed[self.each[mixed].argsort(descending=True, stable=True)].tolist()
        starts = [0, *self.ends[:-1]]
        batches = [order[start:end] for start, end in zip(starts, self.ends, strict=True)]
        turn = torch.randperm(len(batches), generator=source).tolist()
        turn += turn[: -len(turn) % self.processes]  # every process takes as many steps
        for place in turn[self.rank :: self.processes]:
            yield batches[place]


def _cut(lengths: Sequence[int], tokens: int) -> list[int]:
    """Return where batches of rows end, which are sorted by length, the longest first."""
    ends: list[int] = []
    start = 0
    while start < len(lengths):
        size = max(1, tokens // max(1, lengths[start]))
        if size > MULTIPLE:
            size -= size % MULTIPLE
        start = min(start + size, len(lengths))
        ends.append(start)
    return ends


@takes(batch_size=">=1")
def row_lengths(processor: Any, rows: Any, batch_size: int = 256) -> list[int]:
    """Return how many tokens each row has, of all its streams: what the processor's attention masks count.

    Raises:
        ValueError: the batches have no attention masks, because all rows are equally long, or the rows are a stream.
    """
    from hub_mim.data import batches, encode

    if not hasattr(rows, "__len__"):
        raise ValueError("rows of a stream have no known lengths; leave out tokens_per_batch (--tokens-per-batch)")
    found: list[int] = []
    for part in batches(rows, batch_size):
        masks = [value for name, value in encode(processor, part).items() if name.endswith("attention_mask")]
        if not masks:
            raise ValueError(
                "rows of this method have no attention mask, all are equally long; give a batch size instead of "
                "tokens_per_batch (--tokens-per-batch)"
            )
        found += torch.stack([mask.reshape(len(part), -1).sum(1) for mask in masks]).sum(0).tolist()
    return found
