"""Probes find what is there, nothing that is not, and say no to what they cannot judge."""

import numpy as np
import pytest

from hub_mim import probes

SOURCE = np.random.default_rng(0)


def clusters(count=60, classes=3, width=8, spread=0.3, names=False):
    centres = np.random.default_rng(1).normal(size=(classes, width))
    labels = np.arange(count) % classes
    values = (centres[labels] + spread * SOURCE.normal(size=(count, width))).astype(np.float32)
    return values, np.array(["abc"[label] for label in labels]) if names else labels


@pytest.mark.parametrize("probe", [probes.linear, probes.batched_linear, probes.nearest])
@pytest.mark.parametrize("names", [False, True])
def test_classes_are_found(probe, names):
    values, labels = clusters(names=names)
    options = {"k": 5} if probe is probes.nearest else {}
    predicted = probe(values[:40], labels[:40], values[40:], **options)
    assert predicted.dtype.kind == labels.dtype.kind
    assert probes.score(labels[40:], predicted) > 0.9


@pytest.mark.parametrize("probe", [probes.linear, probes.batched_linear, probes.nearest])
def test_nothing_is_found_in_noise(probe):
    """A probe that looked at the rows it judges would find more than chance."""
    values = SOURCE.normal(size=(600, 64)).astype(np.float32)
    labels = SOURCE.integers(0, 2, 600)
    assert 0.38 < probes.score(labels[300:], probe(values[:300], labels[:300], values[300:])) < 0.62


def test_a_probe_is_repeatable():
    values, labels = clusters()
    for probe in (probes.linear, probes.batched_linear):
        assert np.array_equal(probe(values, labels, values, seed=1), probe(values, labels, values, seed=1))


def test_quantities():
    values = SOURCE.normal(size=(200, 5)).astype(np.float32)
    labels = values @ np.arange(5.0)
    assert probes.score(labels[100:], probes.linear(values[:100], labels[:100], values[100:])) > 0.95
    assert probes.score(labels[100:], probes.nearest(values[:100], labels[:100], values[100:], k=5)) > 0.3


def test_neighbours_are_weighted_cosines():
    """Two near rows of one class outweigh three far ones of another; length does not count."""
    bank = np.array([[1, 0], [1, 0.05], [0, 1], [0.1, 1], [-0.1, 1]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    assert probes.nearest(bank * 7, labels, np.array([[3, 0.3]], dtype=np.float32), k=5).tolist() == [0]
    with pytest.raises(ValueError, match="k is 6, but there are 5 rows"):
        probes.nearest(bank, labels, bank, k=6)


def test_splits_keep_classes_and_are_apart():
    labels = np.array([0] * 50 + [1] * 10 + [2])
    train, test = probes.stratified_split(labels, 0.2, seed=3)
    assert sorted([*train, *test]) == list(range(61))
    assert np.bincount(labels[test], minlength=3).tolist() == [10, 2, 0]
    assert not np.array_equal(test, probes.stratified_split(labels, 0.2, seed=4)[1])
    train, test = probes.stratified_split(np.linspace(0, 1, 10), 0.2, seed=0)
    assert (len(train), len(test)) == (8, 2)


def test_effective_rank():
    assert probes.rankme(np.eye(6)) == pytest.approx(6, rel=1e-4)
    assert probes.rankme(np.ones((6, 6))) == pytest.approx(1, rel=1e-3)


def test_retrieval():
    values = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]], dtype=np.float32)
    found = probes.retrieval(values, np.array([0, 0, 1, 1, 2]))  # the last is alone, so it asks nothing
    assert found == {"recall@1": 1.0, "recall@5": 1.0, "map": 1.0}
    worst = probes.retrieval(values[:4], np.array([0, 1, 0, 1]))
    assert worst["recall@1"] == 0.0
    assert 0 < worst["map"] < 0.5


def test_interval():
    mean, (low, high) = probes.mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), rel=1e-3)
    assert probes.mean_interval([1.0]) == (1.0, None)
