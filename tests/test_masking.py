"""Masks: exact shares, the right source of randomness, ragged rows, packing and restoring."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hub_mim import masking

GOLDEN = Path(__file__).parent / "golden" / "masking.json"


def seeds(rows, seed=0, epoch=0):
    return masking.row_seeds(seed, epoch, torch.arange(rows))


def golden_values():
    """What `golden/masking.json` holds; written by `python tests/test_masking.py` when the law of a mask changes."""
    row_seed = seeds(3, seed=7, epoch=2)
    streams = masking.stream_masks({"a": 4, "b": 6}, 5, {"a": 1.0, "b": 0.5}, batch=3, row_seed=row_seed)
    return {
        "row_seeds": row_seed.tolist(),
        "row_noise": masking.row_noise(row_seed, 4).tolist(),
        "random_mask": masking.random_mask((3, 9), 0.4, row_seed=row_seed).int().tolist(),
        "block_mask": masking.block_mask(3, (3, 4), 0.5, (2, 2), row_seed=row_seed).int().tolist(),
        "span_mask": masking.span_mask((3, 10), 0.5, 3, row_seed=row_seed).int().tolist(),
        "stream_masks": {name: mask.int().tolist() for name, mask in streams.items()},
    }


def test_masks_are_the_frozen_ones():
    assert golden_values() == json.loads(GOLDEN.read_text())


def reference_noise(seed, number):
    """splitmix64's finaliser in Python's own integers."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    start = mix(mix((seed + 0x9E3779B97F4A7C15) % 2**64))
    return [(mix((start + k) % 2**64) >> 40) / 2**24 for k in range(number)]


@pytest.mark.parametrize("seed", [0, 1, -5, 2**62])
def test_row_noise_is_the_reference(seed):
    ours = masking.row_noise(torch.tensor([seed]), 5)[0].tolist()
    assert ours == reference_noise(seed % 2**64, 5)


def test_row_noise_is_uniform_and_independent():
    noise = masking.row_noise(seeds(20_000), 20).double()
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(noise.T) - torch.eye(20)
    assert correlation.abs().max() < 4.5 / 20_000**0.5  # 190 pairs, about 4 standard errors
    neighbours = torch.corrcoef(torch.stack([noise[:-1, 0], noise[1:, 0]]))[0, 1]
    assert neighbours.abs() < 4 / 20_000**0.5
    other = masking.row_noise(seeds(20_000), 20, stream=1).double()
    assert torch.corrcoef(torch.stack([noise[:, 0], other[:, 0]]))[0, 1].abs() < 4 / 20_000**0.5


def test_a_row_draws_the_same_in_any_batch():
    whole = masking.random_mask((8, 12), 0.5, row_seed=seeds(8))
    order = torch.tensor([3, 0, 7])
    assert torch.equal(masking.random_mask((3, 12), 0.5, row_seed=seeds(8)[order]), whole[order])


def test_epochs_and_seeds_give_other_masks():
    first = masking.random_mask((4, 30), 0.5, row_seed=seeds(4))
    assert not torch.equal(first, masking.random_mask((4, 30), 0.5, row_seed=seeds(4, epoch=1)))
    assert not torch.equal(first, masking.random_mask((4, 30), 0.5, row_seed=seeds(4, seed=1)))


def test_a_generator_leaves_the_global_source_alone():
    before = torch.random.get_rng_state()
    first = masking.random_mask((4, 9), 0.5, generator=torch.Generator().manual_seed(3))
    again = masking.random_mask((4, 9), 0.5, generator=torch.Generator().manual_seed(3))
    masking.stream_masks({"a": 9}, 3, {"a": 1.0}, batch=4, row_seed=seeds(4))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 6), length=st.integers(1, 20), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_share_is_exact_and_missing_is_not_hidden(rows, length, ratio, seed):
    valid = masking.row_noise(seeds(rows, seed=seed), length) < 0.7
    mask = masking.random_mask((rows, length), ratio, valid=valid, row_seed=seeds(rows))
    expected = [round(int(count) * ratio) for count in valid.sum(1)]
    assert mask.sum(1).tolist() == expected
    assert not (mask & ~valid).any()


def test_min_visible_stays_where_a_row_has_so_many():
    valid = torch.tensor([[True] * 5, [True] + [False] * 4, [False] * 5])
    mask = masking.random_mask((3, 5), 1.0, valid=valid, min_visible=2, row_seed=seeds(3))
    assert (valid & ~mask).sum(1).tolist() == [2, 1, 0]


def test_hide_highest_against_a_loop():
    scores = torch.tensor([[0.1, 0.9, 0.9, 0.5], [0.3, 0.2, 0.1, 0.0]])
    valid = torch.tensor([[True, True, True, True], [False, True, True, True]])
    mask = masking.hide_highest(scores, torch.tensor([2, 3]), valid)
    expected = []
    for row, ok, number in zip(scores.tolist(), valid.tolist(), [2, 3], strict=True):
        order = sorted((place for place in range(4) if ok[place]), key=lambda place, row=row: (-row[place], place))
        expected.append([place in order[:number] for place in range(4)])
    assert mask.tolist() == expected


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 5), length=st.integers(1, 12), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_restore_inverts_keep(rows, length, seed, share):
    noise = masking.row_noise(seeds(rows, seed=seed), length, 3)
    mask, valid = noise[:, :, 0] < share, noise[:, :, 1] < 0.8
    kept = masking.keep_visible(noise, mask, valid)
    whole = masking.restore(kept, torch.full((3,), -1.0), length)
    visible = valid & ~mask
    assert torch.equal(whole[visible], noise[visible])
    assert (whole[~visible] == -1).all()
    assert kept.valid.sum(1).tolist() == visible.sum(1).tolist()
    assert (kept.tokens[~kept.valid] == 0).all()


def test_keep_visible_keeps_the_order_and_a_given_width():
    x = torch.arange(10.0).view(2, 5, 1)
    mask = torch.tensor([[True, False, False, True, False], [False, True, True, True, True]])
    kept = masking.keep_visible(x, mask)
    assert kept.tokens[:, :, 0].tolist() == [[1, 2, 4], [5, 0, 0]]
    assert masking.keep_visible(x, mask, num_visible=5).tokens.shape == (2, 5, 1)


def test_blocks_hide_together_and_exactly():
    mask = masking.block_mask(200, (8, 8), 0.5, (4, 4), row_seed=seeds(200)).view(200, 8, 8)
    assert (mask.flatten(1).sum(1) == 32).all()
    alike = (mask[:, :, 1:] == mask[:, :, :-1]).float().mean()
    assert alike > 0.75  # of independent tokens, half of the neighbours would be alike


def test_stream_masks_share_the_budget_as_the_dirichlet_says():
    masks = masking.stream_masks(
        {"a": 20, "b": 20, "c": 20}, 20, dict.fromkeys("abc", 1.0), batch=4000, row_seed=seeds(4000)
    )
    visible = torch.stack([(~mask).sum(1) for mask in masks.values()], 1)
    assert (visible.sum(1) == 20).all()
    mean, spread = visible.double().mean(0), visible.double().std(0)
    assert (mean - 20 / 3).abs().max() < 0.3
    expected = 20 * (2 / 9 / 4) ** 0.5  # variance of one of three Dirichlet(1, 1, 1) shares is 1/18
    assert (spread - expected).abs().max() < 0.3


def test_pattern_mask_copies_gaps_of_other_rows():
    observed = torch.tensor([[True, True, True, False]] * 300)
    patterns = torch.tensor([[True, False, True, True], [True, True, True, True], [False, False, False, False]])
    mask = masking.pattern_mask(observed, patterns, row_seed=seeds(300))
    kinds = {tuple(row) for row in mask.tolist()}
    assert (False, True, False, False) in kinds
    assert (False, False, False, False) in kinds
    assert all(sum(kind) <= 2 for kind in kinds)  # one observed cell stays
    assert not mask[:, 3].any()


def test_replace_tokens_in_the_shares_of_bert():
    ids = torch.full((400, 50), 7)
    scored = masking.random_mask((400, 50), 0.15, row_seed=seeds(400))
    corrupted, drawn = masking.replace_tokens(ids, scored, mask_id=1, vocab_size=1000, row_seed=seeds(400, seed=1))
    assert torch.equal(corrupted[~scored], ids[~scored])
    assert torch.equal(drawn.scored, scored)
    total = scored.sum().item()
    assert abs((corrupted[scored] == 1).sum().item() / total - 0.8) < 0.03
    assert abs((corrupted[scored] == 7).sum().item() / total - 0.1) < 0.02
    assert not (drawn.hidden & ~scored).any()


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_ratio_out_of_range_is_told(ratio):
    with pytest.raises(ValueError, match=f"mask ratio {ratio}"):
        masking.random_mask((2, 4), ratio)


def test_compiled_noise_is_equal():
    compiled = torch.compile(masking.row_noise, fullgraph=True)
    assert torch.equal(compiled(seeds(16), 33), masking.row_noise(seeds(16), 33))


test_compiled_noise_is_equal = pytest.mark.slow(test_compiled_noise_is_equal)


def test_noise_of_numpy_size_arguments():
    assert masking.noise((2, int(np.int64(3))), row_seed=seeds(2)).shape == (2, 3)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_values(), indent=1) + "\n")
