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


MASKERS = {
    "random": lambda rows, **source: masking.random_mask((rows, 12), 0.5, **source),
    "block": lambda rows, **source: masking.block_mask(rows, (4, 6), 0.5, (2, 2), **source),
    "span": lambda rows, **source: masking.span_mask((rows, 12), 0.5, 3, **source),
    "streams": lambda rows, **source: masking.stream_masks({"a": 9}, 3, {"a": 1.0}, batch=rows, **source)["a"],
    "pattern": lambda rows, **source: masking.pattern_mask(
        torch.ones(rows, 12, dtype=torch.bool), torch.eye(12) == 0, **source
    ),
    "replace": lambda rows, **source: masking.replace_tokens(
        torch.zeros(rows, 12, dtype=torch.int64), torch.ones(rows, 12) > 0, mask_id=1, vocab_size=99, **source
    )[0],
}


def golden_values():
    """What `golden/masking.json` holds; written by `python tests/test_masking.py` when the law of a mask changes."""
    row_seed = seeds(3, seed=7, epoch=2)
    streams = masking.stream_masks({"a": 4, "b": 6}, 5, {"a": 1.0, "b": 0.5}, batch=3, row_seed=row_seed)
    valid = torch.arange(9) < torch.tensor([[9], [5], [0]])
    ids, tokens = torch.arange(27).view(3, 9), masking.random_mask((3, 9), 0.9, row_seed=row_seed)
    return {
        "made": "python tests/test_masking.py; row_seed = row_seeds(7, 2, [0, 1, 2]); the arguments stand in the test",
        "row_seeds": row_seed.tolist(),
        "row_noise": masking.row_noise(row_seed, 4).tolist(),
        "random_mask": masking.random_mask((3, 9), 0.4, row_seed=row_seed).int().tolist(),
        "block_mask": masking.block_mask(3, (3, 4), 0.5, (2, 2), row_seed=row_seed).int().tolist(),
        "span_mask": masking.span_mask((3, 10), 0.5, 3, row_seed=row_seed).int().tolist(),
        "stream_masks": {name: mask.int().tolist() for name, mask in streams.items()},
        "ragged_mask": masking.random_mask((3, 9), 0.4, valid=valid, row_seed=row_seed).int().tolist(),
        "pattern_mask": masking.pattern_mask(valid, valid.flip(1), row_seed=row_seed).int().tolist(),
        "replace_tokens": masking.replace_tokens(ids, tokens, mask_id=-1, vocab_size=99, row_seed=row_seed)[0].tolist(),
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
    for masker in MASKERS.values():
        masker(4, row_seed=seeds(4))
        masker(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", MASKERS)
def test_every_masker_draws_each_row_from_its_seed_alone(name):
    order = torch.tensor([5, 2, 0])
    whole = MASKERS[name](6, row_seed=seeds(6))
    assert torch.equal(MASKERS[name](3, row_seed=seeds(6)[order]), whole[order])
    assert not torch.equal(MASKERS[name](6, row_seed=seeds(6, seed=1)), whole)


def test_as_many_seeds_as_rows_are_wanted():
    with pytest.raises(ValueError, match="row_seed has 2 rows, but noise is wanted for 3"):
        masking.random_mask((3, 5), 0.5, row_seed=seeds(2))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 6), length=st.integers(1, 20), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_share_is_exact_and_missing_is_not_hidden(rows, length, ratio, seed):
    valid = masking.row_noise(seeds(rows, seed=seed), length) < 0.7
    mask = masking.random_mask((rows, length), ratio, valid=valid, row_seed=seeds(rows))
    expected = [round(int(count) * ratio) for count in valid.sum(1)]
    assert mask.sum(1).tolist() == expected
    assert not (mask & ~valid).any()


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 20), span=st.integers(1, 6), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_spans_of_ragged_rows_hide_an_exact_share(length, span, ratio, seed):
    valid = masking.row_noise(seeds(4, seed=seed), length) < 0.7
    mask = masking.span_mask((4, length), ratio, span, valid=valid, row_seed=seeds(4))
    assert mask.sum(1).tolist() == [round(int(count) * ratio) for count in valid.sum(1)]
    assert not (mask & ~valid).any()


@settings(deadline=None, max_examples=60)
@given(num_visible=st.integers(0, 12), seed=st.integers(0, 99), alpha=st.floats(0.01, 100))
def test_streams_of_ragged_rows_keep_an_exact_number(num_visible, seed, alpha):
    tokens, alphas = {"a": 4, "b": 1, "c": 7}, {"a": 1.0, "b": alpha, "c": 1.0}
    valid = {name: masking.row_noise(seeds(5, seed=seed), n, stream=n) < 0.6 for name, n in tokens.items() if n > 1}
    masks = masking.stream_masks(tokens, num_visible, alphas, batch=5, valid=valid, row_seed=seeds(5))
    whole = torch.cat(list(masks.values()), 1)
    exists = torch.cat([valid["a"], torch.ones(5, 1, dtype=torch.bool), valid["c"]], 1)
    assert not (whole & ~exists).any()
    assert (exists & ~whole).sum(1).tolist() == [min(num_visible, int(number)) for number in exists.sum(1)]


def test_a_stream_uses_its_share_although_some_tokens_do_not_exist():
    valid = {"a": torch.arange(10).expand(20, 10) < 5}
    alphas = {"a": 1e4, "b": 1e-4}  # all five visible tokens belong to a
    masks = masking.stream_masks({"a": 10, "b": 10}, 5, alphas, batch=20, valid=valid, row_seed=seeds(20))
    assert not masks["a"].any()
    assert masks["b"].all()


def test_streams_of_other_names_are_told():
    with pytest.raises(ValueError, match=r"alphas are given for \['b'\], but the streams are \['a'\]"):
        masking.stream_masks({"a": 4}, 2, {"b": 1.0}, batch=1)
    with pytest.raises(ValueError, match="num_visible 5 is not between 0 and the 4 tokens"):
        masking.stream_masks({"a": 4}, 5, {"a": 1.0}, batch=1)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 1), (3, 5)])
def test_extremes(shape, ratio):
    rows, length = shape
    x, row_seed = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(0)), seeds(rows)
    mask = masking.random_mask(shape, ratio, row_seed=row_seed)
    assert mask.shape == shape
    assert (mask == bool(ratio)).all()
    nothing = torch.zeros(shape, dtype=torch.bool)
    assert not masking.random_mask(shape, ratio, valid=nothing, row_seed=row_seed).any()
    for valid in (None, nothing):
        kept = masking.keep_visible(x, mask, valid)
        assert kept.places.shape == kept.valid.shape == kept.tokens.shape[:2]
        whole = masking.restore(kept, torch.tensor([7.0, 8.0]), length)
        empty = mask | (nothing if valid is None else ~valid)
        assert torch.equal(whole, torch.where(empty[:, :, None], torch.tensor([7.0, 8.0]), x))


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


def test_a_score_of_minus_infinity_is_hidden_before_nothing_invalid():
    scores = torch.tensor([[-torch.inf, -torch.inf, 1.0]])
    valid = torch.tensor([[False, True, True]])
    assert masking.hide_highest(scores, 2, valid).tolist() == [[False, True, True]]


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


def test_ties_go_by_position():
    assert masking.hide_highest(torch.zeros(1, 500), 3)[0].nonzero().flatten().tolist() == [0, 1, 2]


def test_a_width_that_no_row_has_is_told():
    with pytest.raises(ValueError, match="num_visible 6 is more than the 5 tokens"):
        masking.keep_visible(torch.zeros(1, 5, 1), torch.zeros(1, 5, dtype=torch.bool), num_visible=6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_packing_against_a_loop_with_gradients(dtype):
    source = torch.Generator().manual_seed(0)
    x = torch.rand(3, 40, 2, generator=source, dtype=torch.float64).to(dtype).requires_grad_()
    fill = torch.rand(2, generator=source, dtype=torch.float64).to(dtype).requires_grad_()
    mask, valid = masking.random_mask((3, 40), 0.6, row_seed=seeds(3)), masking.row_noise(seeds(3), 40) < 0.8
    whole = masking.restore(masking.keep_visible(x, mask, valid), fill, 40)
    weight = torch.randint(1, 9, (3, 40, 2), generator=source).to(dtype)
    (whole * weight).sum().backward()
    expected, grad, fill_grad = np.zeros((3, 40, 2)), np.zeros((3, 40, 2)), np.zeros(2)
    for row in range(3):
        for place in range(40):
            if valid[row, place] and not mask[row, place]:
                expected[row, place] = x[row, place].detach().double().numpy()
                grad[row, place] = weight[row, place].double().numpy()
            else:
                expected[row, place] = fill.detach().double().numpy()
                fill_grad += weight[row, place].double().numpy()
    np.testing.assert_array_equal(whole.detach().double().numpy(), expected)
    np.testing.assert_array_equal(x.grad.double().numpy(), grad)
    # sums of hundreds: one rounding in bfloat16 (2^-8), not one for each token
    np.testing.assert_allclose(fill.grad.double().numpy(), fill_grad, rtol=2**-8)


def test_a_fill_of_its_own_for_each_place():
    x, mask = torch.zeros(2, 4, 3), torch.tensor([[True, False, True, True], [False] * 4])
    fill = torch.arange(24.0).view(2, 4, 3) + 1
    whole = masking.restore(masking.keep_visible(x, mask), fill, 4)
    assert torch.equal(whole, torch.where(mask[:, :, None], fill, x))


def test_hidden_nan_does_not_reach_the_encoder():
    x = torch.tensor([[[torch.nan], [1.0]], [[2.0], [3.0]]])
    kept = masking.keep_visible(x, torch.tensor([[True, False], [False, False]]))
    assert kept.tokens[:, :, 0].tolist() == [[1.0, 0.0], [2.0, 3.0]]


def test_take_is_gather():
    x = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[4, 0], [1, 1], [2, 3]])
    assert torch.equal(masking.take(x, places), x.gather(1, places[:, :, None].expand(-1, -1, 2)))


def test_a_block_hidden_in_part_is_hidden_at_random():
    mask = masking.span_mask((4000, 32), 0.5, 64, row_seed=seeds(4000))  # mostly one block: half of it is hidden
    share = mask.float().mean(0)
    ends = (share[:16].mean() - share[16:].mean()).abs()
    assert ends < 0.03  # 4000 rows: standard error below 0.01


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


@pytest.mark.slow
def test_compiled_noise_is_equal():
    compiled = torch.compile(masking.row_noise, fullgraph=True)
    assert torch.equal(compiled(seeds(16), 33), masking.row_noise(seeds(16), 33))


@pytest.mark.slow
def test_compiled_whole_is_equal():
    x, row_seed = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0)), seeds(4)
    valid = masking.row_noise(row_seed, 8, stream=9) < 0.8

    def everything(x, valid, row_seed):
        mask = masking.random_mask(valid.shape, 0.5, valid=valid, min_visible=1, row_seed=row_seed)
        mask = mask | masking.span_mask(valid.shape, 0.2, 2, valid=valid, row_seed=row_seed)
        mask = mask | masking.pattern_mask(valid, valid, row_seed=row_seed)
        kept = masking.keep_visible(x, mask, valid, num_visible=8)
        ids, drawn = masking.replace_tokens(kept.places, mask, mask_id=99, vocab_size=50, row_seed=row_seed)
        return mask, ids, drawn.hidden, *kept, masking.restore(kept, x.new_ones(3), 8)

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")(x, valid, row_seed)
    for ours, expected in zip(compiled, everything(x, valid, row_seed), strict=True):
        assert torch.equal(ours, expected)


def test_noise_of_numpy_size_arguments():
    assert masking.noise((2, int(np.int64(3))), row_seed=seeds(2)).shape == (2, 3)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_values(), indent=1) + "\n")
