"""Packing, pairs that are no edges, hidden edges, bandwidths, sparse features, dropout."""

import collections

import pytest
import torch

from hub_mim_bandana import BandanaConfig, BandanaForPreTraining, BandanaModel, BandanaProcessor
from hub_mim_bandana.example import rows, sample
from hub_mim_bandana.graphs import (
    Dropout,
    bandwidths,
    both_ways,
    hide_edges,
    non_edges,
    normal_noise,
    pack,
    sparse_or_dense,
)
from hub_mim_bandana.pairs import BLOCK, pair_linear


@pytest.fixture
def batch():
    return dict(BandanaProcessor().fit(rows())(rows=rows()))


def packed(batch):
    return pack(batch["node_features"], batch["edge_index"], batch["attention_mask"])


def test_every_pair_that_is_no_edge_is_drawn_alike_and_no_other():
    edges = torch.tensor([[[0, 1], [1, 0], [1, 2], [2, 1]]])
    graphs = pack(torch.zeros(1, 4, 1), edges)
    drawn = non_edges(graphs, torch.tensor([8000]), row_seed=torch.tensor([5]))[0]
    count = collections.Counter(map(tuple, drawn.tolist()))
    free = {(a, b) for a in range(4) for b in range(4) if a != b and {a, b} not in ({0, 1}, {1, 2})}
    assert set(count) == free
    assert max(count.values()) < 1.2 * min(count.values())


def test_known_pairs_and_full_graphs_are_left_out(batch):
    edges = torch.tensor([[[0, 1], [1, 0]]])
    graphs = pack(torch.zeros(1, 3, 1), edges)
    known = torch.tensor([[[0, 2], [-1, -1]]])
    drawn = non_edges(graphs, torch.tensor([50]), known, row_seed=torch.tensor([1]))[0]
    assert {frozenset(pair) for pair in drawn.tolist()} == {frozenset((1, 2))}
    whole = torch.tensor([[[0, 1], [1, 0]]])
    assert (non_edges(pack(torch.zeros(1, 2, 1), whole), torch.tensor([4]), row_seed=torch.tensor([1])) == -1).all()


def test_draws_of_a_graph_do_not_depend_on_its_batch(batch):
    seeds = torch.arange(len(rows()))
    together = non_edges(packed(batch), torch.full((len(seeds),), 6), row_seed=seeds)
    for place, row in enumerate(rows()):
        alone = dict(BandanaProcessor().fit([row])(rows=[row]))
        own = non_edges(packed(alone), torch.tensor([6]), row_seed=seeds[place : place + 1])
        assert torch.equal(own[0], together[place])


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_a_share_of_the_edges_is_hidden_both_ways(batch, ratio):
    hidden = hide_edges(packed(batch), ratio, row_seed=torch.arange(len(batch["edge_index"])))
    for edges, gone in zip(batch["edge_index"], hidden, strict=True):
        real = (edges >= 0).all(1)
        pairs = collections.Counter(frozenset(pair) for pair in edges[gone].tolist())
        assert set(pairs.values()) <= {2}
        assert len(pairs) == round(ratio * int(real.sum()) / 2)
        assert not gone[~real].any()


@pytest.mark.parametrize("temperature", [1e-6, 0.2, 5.0])
def test_bandwidths_sum_to_one_for_each_receiver(temperature):
    receiver = torch.tensor([0, 0, 0, 2, 2, 3])
    share = bandwidths(torch.randn(6), receiver, temperature, 5)
    sums = torch.zeros(5).index_add(0, receiver, share)
    assert torch.allclose(sums, torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]), atol=1e-6)
    assert (share >= 0).all()
    if temperature < 1e-3:
        assert share.max() == 1  # one neighbour is chosen


def test_heavier_edges_are_wider():
    share = bandwidths(torch.zeros(2), torch.tensor([0, 0]), 1.0, 1, torch.tensor([3.0, 1.0]))
    assert torch.allclose(share, torch.tensor([0.75, 0.25]))


def test_normal_draws_are_finite_and_normal():
    drawn = normal_noise((4, 500_000), row_seed=torch.arange(4))
    assert drawn.isfinite().all()
    assert abs(float(drawn.mean())) < 5e-3
    assert abs(float(drawn.std()) - 1) < 5e-3


def test_sparse_features_give_what_dense_ones_give():
    torch.manual_seed(0)
    features = (torch.rand(30, 200) < 0.03).float() * torch.randn(30, 200)
    features[4] = 0
    edges = torch.randint(0, 30, (1, 80, 2))
    model = BandanaModel(BandanaConfig(num_features=200, hidden_size=8)).eval()
    few = sparse_or_dense(features)
    assert not isinstance(few, torch.Tensor)
    assert torch.equal(few.dense(200), features)
    sparse = model(features[None], edges).last_hidden_state
    dense = model(features[None].clone().requires_grad_(), edges).last_hidden_state
    assert torch.allclose(sparse, dense, atol=1e-5)


def test_dropout_keeps_the_share_and_the_mean():
    torch.manual_seed(0)
    layer = Dropout(0.3).train()
    out = layer(torch.ones(1000, 333))
    assert abs(float((out == 0).float().mean()) - 0.3) < 5e-3
    assert abs(float(out.mean()) - 1) < 1e-2
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))


@pytest.mark.parametrize(
    ("features", "edges", "message"),
    [
        (torch.zeros(1, 3, 2), torch.zeros(2, 5, dtype=torch.int64), "must be .graphs, nodes, features"),
        (torch.zeros(1, 3, 2), torch.tensor([[[0, 7]]]), "names node 7"),
    ],
)
def test_what_does_not_fit_is_told(features, edges, message):
    with pytest.raises(ValueError, match=message):
        pack(features, edges)


@pytest.mark.parametrize("masking", ["bandwidth", "edges", "none"])
def test_each_way_of_masking_learns(masking):
    torch.manual_seed(0)
    row = sample(60)
    batch = dict(BandanaProcessor().fit(row)(rows=row))
    config = BandanaConfig(
        num_features=16, hidden_size=16, masking=masking, normalization="layer", hidden_dropout_prob=0.0
    )
    model = BandanaForPreTraining(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        out = model(**batch, row_seed=torch.tensor([step]))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(weight.grad is not None for weight in model.parameters())


def test_hidden_edges_pass_nothing():
    row = sample(40)
    batch = dict(BandanaProcessor().fit(row)(rows=row))
    model = BandanaForPreTraining(BandanaConfig(num_features=16, hidden_size=8, masking="edges")).eval()
    with torch.no_grad():
        out = model(**batch, row_seed=torch.tensor([2]))
        kept = batch["edge_index"][~out.mask][None]
        alone = model.bandana(batch["node_features"], kept).last_hidden_state
    assert torch.allclose(out.last_hidden_state, alone, atol=1e-6)
    assert torch.equal(out.scored, out.mask)


def test_targets_are_predicted_from_the_rest():
    row = sample(40)[0]
    given = {**row, "targets": row["edges"][:5], "edges": row["edges"][5:]}
    batch = dict(BandanaProcessor().fit([row])(rows=[given]))
    model = BandanaForPreTraining(BandanaConfig(num_features=16, hidden_size=8)).eval()
    out = model(**batch, row_seed=torch.tensor([0]))
    assert out.scored.sum() == 5
    drawn = {frozenset(pair) for pair in out.negatives[0].tolist()}
    assert not drawn & {frozenset(pair) for pair in row["edges"]}


def test_one_node_alone_in_training():
    model = BandanaForPreTraining(BandanaConfig(num_features=2, hidden_size=4)).train()
    out = model(torch.ones(1, 1, 2), torch.full((1, 0, 2), -1), row_seed=torch.tensor([0]))
    assert out.loss.isfinite()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_blocks_of_pairs_give_what_the_whole_gives(share):
    torch.manual_seed(0)
    count = 2 * BLOCK + 77
    nodes = torch.randn(50, 12, dtype=torch.float64, requires_grad=True)
    first, second = torch.randint(0, 50, (2, count))
    weight = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    blocks = pair_linear(nodes, first, second, weight, bias, Dropout(share).train())
    torch.manual_seed(1)
    product = Dropout(share).train()(nodes[first] * nodes[second])
    whole = torch.nn.functional.linear(product, weight, bias)
    assert torch.allclose(blocks, whole)
    towards = torch.randn_like(whole)
    ours = torch.autograd.grad(blocks, (nodes, weight, bias), towards)
    theirs = torch.autograd.grad(whole, (nodes, weight, bias), towards)
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))


def test_pairs_that_stand_both_ways_are_found():
    pairs = torch.tensor([[0, 1], [2, 1], [1, 0], [1, 2], [3, 0], [0, 3]])
    places, twin = both_ways(pairs[:, 0], pairs[:, 1], 4)
    assert len(places) == 3
    for number, pair in enumerate(pairs.tolist()):
        assert set(pairs[places[twin[number]]].tolist()) == set(pair)
    assert both_ways(pairs[:-1, 0], pairs[:-1, 1], 4) is None
    assert both_ways(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 1]), 3) is None
