"""Draw masks: a score per token (higher = hide sooner) and a budget per row.

A mask is bool, True = hidden. Shapes: B rows, T tokens, V visible tokens, D channels. Every draw comes from `row_seed`
(one int64 per row: the same mask on any device, worker and world size) or from a `torch.Generator`; torch's global
source is used only when neither is given. Rows may have different numbers of valid and of visible tokens.

What to call: `random_mask` for tokens, patches, and the cells of a table (`valid` = observed); `block_mask` for blocks
of a grid; `span_mask` for spans of a sequence; `stream_masks` for several modalities that share one budget;
`pattern_mask` for the gaps of other rows of a table; `replace_tokens` for BERT's 80/10/10 of tokens chosen by
`random_mask`. A law of your own: `noise` (or any score), `budget`, `hide_highest`. Then `keep_visible` and `restore`.
All but `dirichlet` and `stream_masks` compile whole, `keep_visible` where its width is given.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hub_mim.checking import takes

EVALUATION = -1  # the epoch number of evaluation masks: the same ones every time

# splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 10), as signed int64
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class Masking(NamedTuple):
    """What is hidden from the encoder and where the loss is taken; the two differ in many methods. Both bool (B, T)."""

    hidden: Tensor
    scored: Tensor


class Kept(NamedTuple):
    """The visible tokens of each row, packed to the left.

    tokens: (B, V, D); places: int64 (B, V), where each came from; valid: bool (B, V), False where a row has fewer.
    """

    tokens: Tensor
    places: Tensor
    valid: Tensor


# --- randomness ----------------------------------------------------------------------------------------------------


@takes(index="int B")
def row_seeds(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Return one seed per row from the run's seed, the epoch and the row's number in the dataset.

    Args:
        seed: the run's seed.
        epoch: which pass over the data; any fixed number for evaluation, e.g. -1.
        index: int64 (B,), the rows' numbers.
    Returns:
        int64 (B,).
    """
    start = _mix(_mix(torch.as_tensor(seed, dtype=torch.int64, device=index.device)) + epoch)
    return _mix(start + index.to(torch.int64))


@takes(row_seed="int B")
def row_noise(row_seed: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Return uniform noise that depends on nothing but each row's seed.

    The finaliser of splitmix64 runs over a counter that starts at a random place in each row.

    Args:
        row_seed: int64 (B,).
        shape: shape of one row's noise.
        stream: number of an independent draw from the same seed.
    Returns:
        float32 (B, *shape) in [0, 1), multiples of 2^-24.
    """
    counter = torch.arange(math.prod(shape), device=row_seed.device)
    start = _mix(_mix(row_seed + _GOLDEN) + stream)
    bits = _shift(_mix(start[:, None] + counter), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(len(row_seed), *shape)


@takes(shape=">=0 ...", row_seed="int B")
def noise(
    shape: Sequence[int],
    *,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    stream: int = 0,
) -> Tensor:
    """Return float32 uniform noise of `shape` (B, ...) from the row seeds if given, else from the generator.

    A generator of another device than `device` is used where it lives and the noise is moved.

    Raises:
        ValueError: there are not as many row seeds as rows.
    """
    if row_seed is not None:
        if len(row_seed) != shape[0]:
            raise ValueError(f"row_seed has {len(row_seed)} rows, but noise is wanted for {shape[0]}")
        return row_noise(row_seed, *shape[1:], stream=stream)
    place = generator.device if generator is not None else device
    return torch.rand(tuple(shape), generator=generator, device=place).to(device or place)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, as unsigned integers do; torch's own shift of int64 repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


# --- scores and budgets --------------------------------------------------------------------------------------------


@takes(num_valid="int >=0 B", ratio="float >=0 <=1 B", min_visible=">=0")
def budget(num_valid: Tensor, ratio: float | Tensor, *, min_visible: int = 0) -> Tensor:
    """Return how many tokens each row hides: `round(num_valid * ratio)`, halves to even, leaving `min_visible`.

    Args:
        num_valid: int64 (B,), tokens that may be hidden.
        ratio: share to hide in [0, 1], one number or one per row.
        min_visible: tokens that stay visible in every row that has so many.
    """
    hidden = torch.round(num_valid.to(torch.float64) * ratio).to(torch.int64)
    return torch.minimum(hidden, (num_valid - min_visible).clamp(min=0))


@takes(scores="float B T", budget="int B", valid="bool B T")
def hide_highest(scores: Tensor, budget: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """Hide the `budget` tokens of each row with the highest scores, ties by position, never an invalid one.

    Args:
        scores: float (B, T); -inf comes last.
        budget: number of tokens to hide, one for all rows or int64 (B,).
        valid: bool (B, T), False at padding and at cells that are missing; default all.
    Returns:
        Bool (B, T), True where hidden; a row with fewer valid tokens than its budget hides all of them.
    """
    if valid is not None:
        scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~valid, -torch.inf)
        budget = torch.minimum(torch.as_tensor(budget, device=scores.device), valid.sum(1))
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    limit = budget[:, None] if isinstance(budget, Tensor) and budget.dim() else budget
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, (rank < limit).expand_as(order))


@takes(grid=">=1 ...", block=">=1 ...", cells="float B ...", offset="float B A", jitter="float B T")
def block_scores(grid: Sequence[int], block: Sequence[int], cells: Tensor, offset: Tensor, jitter: Tensor) -> Tensor:
    """Return scores that are nearly equal inside a block, so that whole blocks are hidden together.

    Args:
        grid: tokens per axis, e.g. (height, width) or (time,).
        block: size of a block per axis, in tokens.
        cells: noise (B, *blocks), with `grid[i] // block[i] + 2` blocks per axis.
        offset: noise (B, axes); shifts the blocks, so that their borders differ between rows.
        jitter: noise (B, prod(grid)), orders tokens inside a block.
    Returns:
        float64 (B, prod(grid)).
    """
    rows = torch.arange(cells.shape[0], device=cells.device)
    index: list[Tensor] = []
    for axis, (length, size) in enumerate(zip(grid, block, strict=True)):
        position = torch.arange(length, device=cells.device) + (offset[:, axis : axis + 1] * size).long()
        shape = [len(rows), *[length if other == axis else 1 for other in range(len(grid))]]
        index.append((position // size).reshape(shape))
    scores = cells[(rows.reshape(-1, *[1] * len(grid)), *index)].reshape(len(rows), -1)
    # the jitter is less than one step of `row_noise`, so blocks keep their order; float32 could not hold the sum
    return scores.double() + jitter.double() * 2.0**-24


# --- maskers -------------------------------------------------------------------------------------------------------


@takes(shape=">=0 B T", ratio="float B", valid="bool B T", min_visible=">=0", row_seed="int *")
def random_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    *,
    valid: Tensor | None = None,
    min_visible: int = 0,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide a fixed share of each row's valid tokens, a different set in each row.

    Args:
        shape: (B, T).
        ratio: share to hide, in [0, 1], one number or float (B,), whose range is not checked;
            `round(valid tokens * ratio)` are hidden.
        valid: bool (B, T); default all. For tables: the observed cells, since missing is not hidden.
        min_visible: valid tokens that stay visible where a row has so many.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
        device: where the mask is made; default that of `valid` or `row_seed`.
    Returns:
        Bool (B, T), True where hidden.
    Raises:
        ValueError: a number `ratio` outside [0, 1].
    Source: He et al. 2022 (arXiv:2111.06377), section 3, "Masking".
    """
    check_ratio(ratio)
    device = valid.device if valid is not None else row_seed.device if row_seed is not None else device
    scores = noise(shape, row_seed=row_seed, generator=generator, device=device)
    return _hide_share(scores, ratio, valid, min_visible)


def _hide_share(scores: Tensor, ratio: float | Tensor, valid: Tensor | None, min_visible: int = 0) -> Tensor:
    if valid is None:
        num_valid = torch.full((scores.shape[0],), scores.shape[1], device=scores.device)
    else:
        num_valid = valid.sum(1)
    return hide_highest(scores, budget(num_valid, ratio, min_visible=min_visible), valid)


@takes(batch=">=0", grid=">=0 filled ...", ratio="float batch", block="...", valid="bool batch T", row_seed="int batch")
def block_mask(
    batch: int,
    grid: Sequence[int],
    ratio: float | Tensor,
    block: Sequence[int],
    *,
    valid: Tensor | None = None,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide blocks of neighbouring tokens on a grid of any number of axes; the share is exact in every row.

    The last block of a row may be hidden in part.

    Args:
        batch: rows.
        grid: tokens per axis.
        ratio: share to hide, in [0, 1], one number or one per row; `round(valid tokens * ratio)` are hidden.
        block: size of a block per axis, in tokens.
        valid: bool (B, prod(grid)); default all.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
        device: where the mask is made.
    Returns:
        Bool (B, prod(grid)), True where hidden.
    Raises:
        ValueError: a number `ratio` outside [0, 1], or a block that does not fit the grid.
    Source: Xie et al. 2022 (SimMIM, arXiv:2111.09886), section 3.2, with random block borders.
    """
    check_ratio(ratio)
    if len(grid) != len(block) or min(block) < 1:
        raise ValueError(f"block {tuple(block)} must give one size of at least 1 per axis of the grid {tuple(grid)}")
    if valid is not None and valid.shape[1] != math.prod(grid):
        raise ValueError(f"valid has {valid.shape[1]} tokens, but the grid {tuple(grid)} has {math.prod(grid)}")
    shapes = ([length // size + 2 for length, size in zip(grid, block, strict=True)], [len(grid)], [math.prod(grid)])
    cells, offset, jitter = (
        noise((batch, *shape), row_seed=row_seed, generator=generator, device=device, stream=stream)
        for stream, shape in enumerate(shapes)
    )
    return _hide_share(block_scores(grid, block, cells, offset, jitter), ratio, valid)


@takes(shape=">=0 B T", ratio="float B", span=">=1", valid="bool B T", row_seed="int *")
def span_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    span: int,
    *,
    valid: Tensor | None = None,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide spans of neighbouring tokens of a sequence: `block_mask` on one axis.

    Args:
        shape: (B, T).
        ratio: share to hide, in [0, 1], one number or one per row; `round(valid tokens * ratio)` are hidden.
        span: tokens per span, at least 1.
        valid: bool (B, T); default all.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
        device: where the mask is made.
    Returns:
        Bool (B, T), True where hidden.
    """
    batch, length = shape
    return block_mask(
        batch, (length,), ratio, (span,), valid=valid, row_seed=row_seed, generator=generator, device=device
    )


@takes(
    tokens=">=0", alphas=">0", batch=">=0", shares="float >=0 <=1 batch *", valid="bool batch *", row_seed="int batch"
)
def stream_masks(
    tokens: Mapping[str, int],
    num_visible: int,
    alphas: Mapping[str, float],
    *,
    batch: int,
    shares: Tensor | None = None,
    valid: Mapping[str, Tensor] | None = None,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Share a budget of visible tokens between streams by a Dirichlet draw per row; the sum is exact.

    What a stream cannot use of its share, because it has too few tokens, goes to tokens of the others at random.

    Args:
        tokens: number of tokens per stream, in the order in which the streams are joined.
        num_visible: visible tokens per row over all streams.
        alphas: concentration per stream, > 0; large = even shares, small = one stream gets most.
        batch: rows.
        shares: of the budget (B, streams), summing to 1 in each row; default drawn.
        valid: bool (B, tokens) per stream, for those that rows may lack in whole or in part.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
        device: where the masks are made.
    Returns:
        Bool (B, tokens) per stream, True where hidden; a row with fewer valid tokens than `num_visible` hides none.
    Raises:
        ValueError: `num_visible` is not between 0 and the number of tokens, or `alphas` names other streams.
    Source: Bachmann et al. 2022 (MultiMAE, arXiv:2204.01678), section 3.3; rounding repaired at random as they do.
    """
    total = sum(tokens.values())
    if not 0 <= num_visible <= total:
        raise ValueError(f"num_visible {num_visible} is not between 0 and the {total} tokens of all streams")
    if set(alphas) != set(tokens):
        raise ValueError(f"alphas are given for {sorted(alphas)}, but the streams are {sorted(tokens)}")
    for name, each in (valid or {}).items():
        if each.shape[1] != tokens.get(name):
            raise ValueError(f"valid[{name!r}] has {each.shape[1]} tokens; the streams have {dict(tokens)}")
    source = {"row_seed": row_seed, "generator": generator, "device": device}
    if shares is None:
        shares = dirichlet([alphas[name] for name in tokens], batch, **source)  # type: ignore[arg-type]
    if shares.shape[1] != len(tokens):
        raise ValueError(f"shares has {shares.shape[1]} columns, but there are {len(tokens)} streams")
    wanted = torch.round(shares * num_visible).to(torch.int64)
    scores, real = [], []
    for stream, (name, length) in enumerate(tokens.items()):
        here = valid[name] if valid is not None and name in valid else wanted.new_ones((batch, length)).bool()
        draw = noise((batch, length), stream=2 * stream + 1, **source)  # type: ignore[arg-type]
        hidden = hide_highest(draw, (here.sum(1) - wanted[:, stream]).clamp(min=0), here)
        scores.append(hidden + noise((batch, length), stream=2 * stream + 2, **source))  # type: ignore[arg-type]
        real.append(here)
    exists = torch.cat(real, 1)
    mask = hide_highest(torch.cat(scores, 1), (exists.sum(1) - num_visible).clamp(min=0), exists)
    return dict(zip(tokens, mask.split(list(tokens.values()), 1), strict=True))


@takes(alphas="float ...", batch=">=0", row_seed="int batch")
def dirichlet(
    alphas: Sequence[float] | Tensor,
    batch: int,
    *,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw shares (B, len(alphas)) that sum to 1 in each row, from gamma draws on the CPU in float64.

    `alphas` may be a tensor (B, streams), for rows that differ.
    """
    weights = torch.as_tensor(alphas, dtype=torch.float64, device="cpu").expand(batch, -1)
    if not bool((weights > 0).all()):
        raise ValueError(f"alphas {weights.tolist()} must be greater than 0")
    if row_seed is None:
        gamma = torch._standard_gamma(weights, generator=generator)
    else:
        sources = [torch.Generator().manual_seed(seed) for seed in row_seed.tolist()]
        rows = zip(weights, sources, strict=True)
        gamma = torch.stack([torch._standard_gamma(row, generator=source) for row, source in rows])
    device = row_seed.device if row_seed is not None else device
    return (gamma / gamma.sum(1, keepdim=True).clamp(min=1e-300)).to(device)


@takes(observed="bool B T", patterns="bool P T", min_visible=">=0", row_seed="int B")
def pattern_mask(
    observed: Tensor,
    patterns: Tensor,
    *,
    min_visible: int = 1,
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide in each row the observed cells that another row of the table lacks (copy masking).

    Args:
        observed: bool (B, T), cells that this batch has.
        patterns: bool (P, T), True = observed, rows of the table to copy gaps from.
        min_visible: observed cells that stay visible where a row has so many, the ones with the highest noise.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
    Returns:
        Bool (B, T), True where hidden; may hide nothing in a row.
    Raises:
        ValueError: there is no pattern.
    Source: Gorla et al. 2025 (CACTI, ICML), "copy masking".
    """
    if not len(patterns):
        raise ValueError("pattern_mask needs at least one row to copy gaps from; patterns is empty")
    batch, length = observed.shape
    source = {"row_seed": row_seed, "generator": generator, "device": observed.device}
    pick = (noise((batch, 1), stream=1, **source)[:, 0] * len(patterns)).long()  # type: ignore[arg-type]
    wanted = observed & ~patterns[pick.clamp(max=len(patterns) - 1)]
    limit = torch.minimum(wanted.sum(1), (observed.sum(1) - min_visible).clamp(min=0))
    return hide_highest(noise((batch, length), **source), limit, wanted)  # type: ignore[arg-type]


@takes(ids="int B T", scored="bool B T", vocab_size=">=1", shares=">=0 <=1 M R", row_seed="int B")
def replace_tokens(
    ids: Tensor,
    scored: Tensor,
    *,
    mask_id: int,
    vocab_size: int,
    shares: tuple[float, float] = (0.8, 0.1),
    row_seed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Masking]:
    """Corrupt the scored tokens: a share becomes the mask token, a share a random token, the rest stays.

    Args:
        ids: int64 (B, T).
        scored: bool (B, T), tokens chosen for prediction.
        mask_id: id of the mask token.
        vocab_size: random tokens are drawn from [0, vocab_size).
        shares: of the mask token and of random tokens; 0.8 and 0.1 in BERT.
        row_seed: int64 (B,); else `generator`; else torch's global source.
        generator: source of randomness.
    Returns:
        The corrupted ids and the `Masking` (hidden = masked or random; scored = all chosen).
    Source: Devlin et al. 2019 (BERT, arXiv:1810.04805), section 3.1, task 1.
    """
    source = {"row_seed": row_seed, "generator": generator, "device": ids.device}
    draw = noise(ids.shape, **source)  # type: ignore[arg-type]
    other = (noise(ids.shape, stream=1, **source) * vocab_size).long().clamp(max=vocab_size - 1)  # type: ignore[arg-type]
    masked = scored & (draw < shares[0])
    random = scored & (draw >= shares[0]) & (draw < sum(shares))
    corrupted = torch.where(random, other, ids).masked_fill(masked, mask_id)
    return corrupted, Masking(masked | random, scored)


# --- packing -------------------------------------------------------------------------------------------------------


@takes(x="any B T D", mask="bool B T", valid="bool B T", num_visible=">=0")
def keep_visible(x: Tensor, mask: Tensor, valid: Tensor | None = None, num_visible: int | None = None) -> Kept:
    """Pack the visible tokens of each row to the left, in their order.

    Args:
        x: (B, T, D).
        mask: bool (B, T), True = hidden.
        valid: bool (B, T), False at tokens that do not exist; default all.
        num_visible: width V of the result, where known: needs no look at the data, so it compiles whole and does not
            wait for a GPU. A row with more visible tokens loses the last ones; default the largest number in the batch.
    Returns:
        `Kept`, with V at least 1; where a row has fewer visible tokens, `valid` is False and `tokens` are 0.
    Raises:
        ValueError: `num_visible` is more than T.
    """
    visible = ~mask if valid is None else ~mask & valid
    count = visible.sum(1)
    if num_visible is None:
        fewest, most = torch.stack(count.aminmax()).tolist() if len(x) else (0, 0)
    else:
        fewest, most = 0, num_visible
    if most > x.shape[1]:
        raise ValueError(f"num_visible {num_visible} is more than the {x.shape[1]} tokens of a row")
    width = min(max(most, 1), x.shape[1])
    places = (~visible).argsort(dim=1, stable=True)[:, :width]
    kept = torch.arange(width, device=x.device) < count[:, None]
    tokens = _take(x, places)
    return Kept(tokens if fewest == width else tokens.masked_fill(~kept[:, :, None], 0), places, kept)


@takes(kept={"tokens": "any B V D", "places": "int >=0 <length B V", "valid": "bool B V"}, fill="any ...", length=">=0")
def restore(kept: Kept, fill: Tensor, length: int) -> Tensor:
    """Put packed tokens back where they came from, and `fill` everywhere else.

    Args:
        kept: what `keep_visible` returned, with `tokens` replaced by the encoder's output (B, V, D).
        fill: the mask token, broadcast to (B, T, D).
        length: T.
    Returns:
        (B, T, D), of the tokens' type.
    """
    tokens, places, valid = kept
    wanted = (len(places), length, tokens.shape[2])
    if fill.dim() > 3 or any(
        size not in (1, other) for size, other in zip(fill.shape[::-1], wanted[::-1], strict=False)
    ):
        raise ValueError(f"fill has the shape {tuple(fill.shape)}; it must broadcast to {wanted}, where kept belongs")
    number = torch.where(valid, torch.arange(places.shape[1], device=places.device), -1)
    # padding points at hidden places, all different, so it writes -1 where -1 stands
    source = number.new_full((len(places), length), -1).scatter(1, places, number)
    return torch.where((source >= 0)[:, :, None], _take(tokens, source.clamp(min=0)), fill.to(tokens.dtype))


@takes(x="any B T D", places="int >=0 <T B V")
def take(x: Tensor, places: Tensor) -> Tensor:
    """Pick tokens: x (B, T, D) at places int64 (B, V) gives (B, V, D).

    Whole rows of the joined batch are copied: several times faster than `gather` on a CPU, both ways.
    """
    return _take(x, places)


def _take(x: Tensor, places: Tensor) -> Tensor:
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (places + first).flatten()).view(*places.shape, x.shape[2])


@takes()
def check_ratio(ratio: float | Tensor) -> None:
    """Raise ValueError unless a share lies in [0, 1]."""
    if not isinstance(ratio, Tensor) and not 0 <= ratio <= 1:
        raise ValueError(f"mask ratio {ratio} is not between 0 and 1")
