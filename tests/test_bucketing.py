"""Batches of a number of tokens."""

import random

import pytest

from hub_mim.bucketing import TokenBatches

LENGTHS = [random.Random(0).randint(3, 40) for _ in range(500)]


def test_every_row_comes_once_an_epoch_and_no_batch_is_too_large():
    batches = TokenBatches(LENGTHS, 256)
    drawn = list(batches)
    assert sorted(row for batch in drawn for row in batch) == list(range(500))
    assert len(drawn) == len(batches)
    for batch in drawn:
        assert len(batch) * max(LENGTHS[row] for row in batch) <= 256
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in drawn)
    assert padded <= 1.1 * sum(LENGTHS)


def test_epochs_differ_and_come_again():
    batches = TokenBatches(LENGTHS, 256, seed=3)
    first = list(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert second != first
    assert sorted(map(len, second)) == sorted(map(len, first))
    batches.set_epoch(0)
    assert list(batches) == first


def test_processes_share_the_batches_evenly():
    parts = [list(TokenBatches(LENGTHS, 300, rank=rank, processes=3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    rows = [row for part in parts for batch in part for row in batch]
    assert set(rows) == set(range(500))


def test_a_row_that_is_too_long_is_named():
    with pytest.raises(ValueError, match="row 2 has 9 tokens, and a batch is to have 8 at most"):
        TokenBatches([3, 8, 9], 8)
