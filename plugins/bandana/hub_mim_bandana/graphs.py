"""Graphs as tensors: padded rows to one large graph and back, normalised edges, bandwidths, pairs that are no edges.

Shapes: B graphs padded to N nodes and E directed edges; packed: n nodes and e edges of all graphs in one numbering.
An edge is a pair (receiver, sender); an undirected one stands there both ways. Padding of edges is -1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_mim.masking import hide_highest, noise

SPARSE = 0.1  # share of values that are not zero up to which features are multiplied by these alone


@dataclass
class SparseFeatures:
    """Rows of features of which most are zero: values, their columns, where each row begins; all int64 but the values."""

    values: Tensor
    columns: Tensor
    starts: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "SparseFeatures":
        """Change the values, by dropout say; what leaves zeros zero need not look at them."""
        return SparseFeatures(change(self.values), self.columns, self.starts)

    def dense(self, width: int) -> Tensor:
        """Return the rows with their zeros (n, width)."""
        count = torch.diff(self.starts, append=self.starts.new_tensor([len(self.values)]))
        rows = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        return self.values.new_zeros(len(count), width).index_put((rows, self.columns), self.values)

    def linear(self, weight: Tensor) -> Tensor:
        """Multiply by a weight (out, in): rows (n, out)."""
        table = weight.t().contiguous()
        return F.embedding_bag(
            self.columns, table, self.starts, mode="sum", per_sample_weights=self.values.to(table.dtype)
        )


@dataclass
class Graphs:
    """The graphs of a batch in one numbering.

    features: (n, F). nodes: int64 (n,), places in the flattened B x N. row: int64 (n,), the graph of each node.
    receiver, sender: int64 (e,), numbers of nodes. edges: int64 (e,), places in the flattened B x E.
    weight: (e,) or None. shape: B, N, E.
    """

    features: Tensor
    nodes: Tensor
    row: Tensor
    receiver: Tensor
    sender: Tensor
    edges: Tensor
    weight: Tensor | None
    shape: tuple[int, int, int]
    number: Tensor  # int64 (B, N), the packed number of each node

    def pad_nodes(self, values: Tensor) -> Tensor:
        """Put packed values (n, ...) into their graphs (B, N, ...), zeros elsewhere."""
        if self.shape[0] == 1 and len(values) == self.shape[1]:
            return values[None]
        out = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
        return out.index_copy(0, self.nodes, values).view(self.shape[0], self.shape[1], *values.shape[1:])

    def pad_edges(self, values: Tensor) -> Tensor:
        """Put values of edges (e, ...) into their graphs (B, E, ...), zeros elsewhere."""
        out = values.new_zeros(self.shape[0] * self.shape[2], *values.shape[1:])
        return out.index_copy(0, self.edges, values).view(self.shape[0], self.shape[2], *values.shape[1:])

    def without(self, hidden: Tensor) -> "Graphs":
        """Leave edges out: bool (e,), True = gone."""
        kept = ~hidden
        weight = None if self.weight is None else self.weight[kept]
        return Graphs(
            self.features,
            self.nodes,
            self.row,
            self.receiver[kept],
            self.sender[kept],
            self.edges[kept],
            weight,
            self.shape,
            self.number,
        )


def pack(
    features: Tensor, edge_index: Tensor, attention_mask: Tensor | None = None, edge_weight: Tensor | None = None
) -> Graphs:
    """Return the graphs of a batch in one numbering.

    Args:
        features: (B, N, F). edge_index: int64 (B, E, 2), -1 = padding. attention_mask: bool (B, N), default all nodes.
        edge_weight: (B, E) above 0; default 1.
    Raises:
        ValueError: shapes do not fit, or an edge names a node that is not there.
    """
    if features.dim() != 3 or edge_index.dim() != 3 or edge_index.shape[2] != 2 or len(features) != len(edge_index):
        raise ValueError(
            f"node_features {tuple(features.shape)} and edge_index {tuple(edge_index.shape)} must be (graphs, nodes, "
            "features) and (graphs, edges, 2)"
        )
    batch, length = features.shape[:2]
    there = features.new_ones((batch, length), dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    nodes = there.flatten().nonzero()[:, 0]
    number = (there.flatten().cumsum(0) - 1).view(batch, length)
    pairs = edge_index.flatten(0, 1)
    edges = (pairs >= 0).all(1).nonzero()[:, 0]
    ends = pairs[edges]
    row = edges // max(1, edge_index.shape[1])
    if len(ends):
        inside = ends < length
        if not bool(inside.all()) or not bool(there[row[:, None], ends].all()):
            raise ValueError(
                f"edge_index names node {int(ends.max())}, which is not among the {length} nodes of its graph"
            )
    whole = len(nodes) == batch * length
    return Graphs(
        features.flatten(0, 1) if whole else features.flatten(0, 1)[nodes],
        nodes,
        nodes // length,
        number[row, ends[:, 0]],
        number[row, ends[:, 1]],
        edges,
        None if edge_weight is None else edge_weight.flatten()[edges],
        (batch, length, edge_index.shape[1]),
        number,
    )


def sparse_or_dense(features: Tensor) -> Tensor | SparseFeatures:
    """Return features (n, F) as they are, or without their zeros where these are most of them and no gradient is asked."""
    if features.requires_grad or torch.compiler.is_compiling() or features.shape[1] < 64:
        return features
    places = _places_of_values(features)
    if len(places) > SPARSE * features.numel():
        return features
    rows = places // features.shape[1]
    count = torch.bincount(rows, minlength=len(features))
    return SparseFeatures(
        features.flatten()[places], places - rows * features.shape[1], F.pad(count.cumsum(0)[:-1], (1, 0))
    )


def _places_of_values(features: Tensor) -> Tensor:
    """Return the places in the flattened features that are not zero; numpy finds them ten times as fast on a CPU."""
    if features.device.type != "cpu" or features.dtype == torch.bfloat16:
        return (features != 0).flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(features.numpy() != 0))


class Dropout(nn.Dropout):
    """Dropout that draws 16 bits a value on a CPU, in a third of the time; the share is met to a part in 65,536."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of any shape."""
        if not self.training or self.p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        kept = torch.ge(random_bits(tuple(x.shape)), threshold(self.p), out=torch.empty_like(x))
        return x * kept.mul_(1 / (1 - self.p))


def random_bits(shape: tuple[int, ...]) -> Tensor:
    """Return 16 random bits for each value of a shape, int16, on the CPU."""
    count = math.prod(shape)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(shape)


def threshold(share: float) -> int:
    """Return what 16 random bits reach with a chance of 1 - share. Compared into floats: torch is slow with truth values."""
    return round(share * 65536) - 32768


@dataclass
class Messages:
    """What is sent where, by which weight: receiver, sender, weight (e,), and of each node to itself own (n,)."""

    receiver: Tensor
    sender: Tensor
    weight: Tensor
    own: Tensor

    def pass_on(self, values: Tensor) -> Tensor:
        """Return for each node the weighted sum of what its neighbours and itself have: (n, D)."""
        sent = values.index_select(0, self.sender) * self.weight[:, None].to(values.dtype)
        return (values * self.own[:, None].to(values.dtype)).index_add(0, self.receiver, sent)


def messages(receiver: Tensor, sender: Tensor, weight: Tensor | None, count: int, dtype: torch.dtype) -> Messages:
    """Normalise edges symmetrically, with a loop of weight 1 at each node.

    Args:
        receiver, sender: int64 (e,). weight: (e,), default 1. count: of nodes.
    Source: Kipf and Welling 2017 (arXiv:1609.02907), eq. 2.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    plain = torch.ones(len(receiver), dtype=dtype, device=receiver.device) if weight is None else weight.to(dtype)
    degree = torch.ones(count, dtype=dtype, device=receiver.device).index_add(0, receiver, plain)
    scale = degree.rsqrt()
    return Messages(receiver, sender, scale[receiver] * plain * scale[sender], degree.reciprocal())


def bandwidths(
    normals: Tensor, receiver: Tensor, temperature: float, count: int, weight: Tensor | None = None
) -> Tensor:
    """Return the bandwidth of each edge: a softmax over the edges with the same receiver.

    Args:
        normals: draws from a standard normal (e,). receiver: int64 (e,), numbers below `count`.
        weight: of the edges (e,); heavier ones get more.
    Returns:
        (e,), above 0, summing to 1 for each receiver.
    Source: Zhao et al. 2024, section 4.1.
    """
    score = normals / temperature
    if weight is not None:
        score = score + weight.log()
    highest = score.new_full((count,), -torch.inf).scatter_reduce(0, receiver, score, "amax")
    share = (score - highest[receiver]).exp()
    total = share.new_zeros(count).index_add(0, receiver, share)
    return share / (total + 1e-16)[receiver]


def normal_noise(shape: tuple[int, ...], **source: object) -> Tensor:
    """Return draws from a standard normal, that depend on nothing but each row's seed where there is one."""
    # in the middle of the 2^24 steps, in doubles: single precision would round the last one to 1, whose quantile is infinite
    uniform = noise(shape, **source).double() + 2.0**-25
    return torch.special.ndtri(uniform).float()


def both_ways(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Find in a list of pairs those that stand there in both directions, so that each need be looked at once.

    Args:
        first, second: int64 (P,), numbers of nodes below `count`.
    Returns:
        places: int64 (P / 2,), of one of each two; twin: int64 (P,), which of these stands for each pair. None where some pair
        stands there one way alone, or twice.
    """
    if len(first) % 2 or torch.compiler.is_compiling():
        return None
    places = (first < second).nonzero()[:, 0]
    others = (first > second).nonzero()[:, 0]
    if 2 * len(places) != len(first):
        return None
    one, order = (first[places] * count + second[places]).sort()
    two, turned = (second[others] * count + first[others]).sort()
    if not torch.equal(one, two) or (len(one) > 1 and bool((one[1:] == one[:-1]).any())):
        return None
    places = places[order]
    twin = torch.empty_like(first)
    own = torch.arange(len(places), device=first.device)
    twin[places], twin[others[turned]] = own, own
    return places, twin


def pair_numbers(graphs: Graphs, directed: bool = False) -> tuple[Tensor, Tensor]:
    """Number the edges of each graph; both directions of one share a number.

    Returns:
        int64 (e,): the number within its graph; int64 (B,): how many there are.
    """
    count = len(graphs.row)
    low, high = (
        (graphs.receiver, graphs.sender)
        if directed
        else (torch.minimum(graphs.receiver, graphs.sender), torch.maximum(graphs.receiver, graphs.sender))
    )
    codes, number = torch.unique(low * count + high, return_inverse=True)  # packed numbers grow with the graph
    owner = graphs.row[codes // max(1, count)]
    each = torch.bincount(owner, minlength=graphs.shape[0])
    first = each.cumsum(0) - each
    return number - first[graphs.row[graphs.receiver]], each


def hide_edges(graphs: Graphs, ratio: float, **source: object) -> Tensor:
    """Hide a share of each graph's edges, both directions of one together: bool (B, E)."""
    number, count = pair_numbers(graphs)
    width = max(1, int(count.max()) if len(count) else 1)
    valid = torch.arange(width, device=count.device) < count[:, None]
    draw = noise((graphs.shape[0], width), **source)
    hidden = hide_highest(draw, (count * ratio).round().long(), valid)
    return graphs.pad_edges(hidden[graphs.row[graphs.receiver], number])


def non_edges(graphs: Graphs, count: Tensor, known: Tensor | None = None, **source: object) -> Tensor:
    """Draw pairs of different nodes that are no edges, each as likely as any other.

    The k-th pair that is no edge is found by counting, so that nothing is drawn in vain.

    Args:
        graphs: whose edges are left out.
        count: int64 (B,), how many of each graph.
        known: int64 (B, P, 2), further edges that are left out, -1 = padding.
    Returns:
        int64 (B, Q, 2), numbers of nodes within their graph, -1 = padding: also where a graph has no such pair.
    """
    batch, length, _ = graphs.shape
    device = graphs.row.device
    width = max(1, int(count.max()) if len(count) else 1)
    size = torch.bincount(graphs.row, minlength=batch)
    local = graphs.nodes % length
    owner = graphs.row[graphs.receiver]
    one = local[graphs.receiver] * size[owner] + local[graphs.sender]
    loops = local * size[graphs.row] + local
    taken, whose = [one, loops], [owner, graphs.row]
    if known is not None:
        place = (known >= 0).all(2)
        rows = place.nonzero()[:, 0]
        for pair in (known[place], known[place].flip(1)):
            taken.append(pair[:, 0] * size[rows] + pair[:, 1])
            whose.append(rows)
    span = length * length
    codes = torch.unique(torch.cat(taken) + torch.cat(whose) * span)
    rows = codes // span
    per_row = torch.bincount(rows, minlength=batch)
    first = per_row.cumsum(0) - per_row
    rank = torch.arange(len(codes), device=device) - first[rows]
    free = size * size - per_row
    # of a graph's taken codes c_0 < c_1 < ..., c_i - i pairs are free below c_i
    below = codes - rows * span - rank
    draw = _large((batch, width), **source)
    wanted = draw % free.clamp(min=1)[:, None]
    keys = below + rows * span  # grows: within a graph by counting, between graphs by the span
    base = torch.arange(batch, device=device)[:, None]
    passed = torch.searchsorted(keys, wanted + base * span, right=True) - first[:, None]
    code = wanted + passed
    pairs = torch.stack([code // size.clamp(min=1)[:, None], code % size.clamp(min=1)[:, None]], 2)
    valid = (torch.arange(width, device=device) < count[:, None]) & (free > 0)[:, None]
    return pairs.masked_fill(~valid[..., None], -1)


def _large(shape: tuple[int, int], **source: object) -> Tensor:
    """Return whole numbers below 2^48, all as likely."""
    device = source.pop("device", None)
    high, low = noise((*shape, 2), stream=7, device=device, **source).double().mul(2.0**24).long().unbind(-1)
    return high * 2**24 + low
