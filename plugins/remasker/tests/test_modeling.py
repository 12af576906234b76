"""What is ReMasker's own: ragged rows, starved rows, masks, categories, prediction of gaps."""

import math

import pytest
import torch

from hub_mim.masking import row_seeds
from hub_mim_remasker.configuration_remasker import ReMaskerConfig
from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL |= {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
SMALL |= {"decoder_intermediate_size": 16, "layer_norm_eps": 1e-6}


def make(cardinalities=(0, 0, 0, 0, 0, 0), **fields):
    torch.manual_seed(0)
    return ReMaskerForPreTraining(ReMaskerConfig(cardinalities=list(cardinalities), **{**SMALL, **fields})).eval()


def table(rows=7, columns=6, share=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, columns, generator=generator)
    observed = torch.rand(rows, columns, generator=generator) >= share
    return values, observed


def test_rows_predicted_together_equal_rows_predicted_alone():
    model = make(value_embedding="column")
    values, observed = table()
    observed[0] = False  # nothing observed: only the class token is left
    together = model(values, observed=observed, mask=~observed).predictions
    for row in range(len(values)):
        alone = model(
            values[row : row + 1], observed=observed[row : row + 1], mask=~observed[row : row + 1]
        ).predictions
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=0)
    assert together.isfinite().all()


def test_each_row_hides_its_own_share_and_keeps_one_cell():
    model = make(mask_ratio=0.5)
    _, observed = table(rows=200, share=0.6)
    mask = model.draw_mask(observed, generator=torch.Generator().manual_seed(0))
    count, hidden = observed.sum(1), mask.sum(1)
    assert not (mask & ~observed).any()
    expected = count - torch.floor(count * 0.5).clamp(min=1)
    assert torch.equal(hidden, expected.clamp(min=0).long())


def test_a_starved_row_feeds_zeros_in_legacy_only():
    values, observed = table(rows=1, share=0.0)
    observed[0, 1:] = False
    changed = values.clone()
    changed[0, 1:] = 0.9
    for legacy in (True, False):
        model = make(legacy=legacy, output="sigmoid")
        mask = model.draw_mask(observed, generator=torch.Generator().manual_seed(0))
        visible = int((~mask).sum()) if legacy else int((observed & ~mask).sum())
        assert visible == (3 if legacy else 1)
        same = torch.equal(
            model(values, observed=observed, mask=mask).predictions,
            model(changed, observed=observed, mask=mask).predictions,
        )
        assert same  # a missing cell's value never enters: it is 0 in legacy, absent otherwise


def test_legacy_keeps_the_same_number_visible_in_every_row():
    model = make(legacy=True)
    _, observed = table(rows=50)
    mask = model.draw_mask(observed, row_seed=row_seeds(0, 0, torch.arange(50)))
    assert (mask.sum(1) == 3).all()


def test_observed_masking_copies_gaps_of_the_table():
    pattern = [[1, 4]]
    model = make(masking="observed", patterns=pattern, mask_ratio=0.5)
    observed = torch.ones(400, 6, dtype=torch.bool)
    mask = model.draw_mask(observed, generator=torch.Generator().manual_seed(0))
    copied = torch.zeros(6, dtype=torch.bool)
    copied[[1, 4]] = True
    share = (mask == copied).all(1).float().mean().item()
    assert 0.45 < share < 0.65  # half of the rows, and uniform masks that happen to be the same (1 in 20)


def test_observed_masking_without_patterns_is_uniform():
    observed = torch.ones(20, 6, dtype=torch.bool)
    masks = [
        make(masking=masking).draw_mask(observed, row_seed=row_seeds(0, 0, torch.arange(20)))
        for masking in ("observed", "uniform")
    ]
    assert torch.equal(*masks)


def test_unbounded_predictions_start_in_the_middle_of_the_range():
    values, observed = table()
    predictions = make(output="linear")(values, observed=observed, mask=~observed).predictions
    assert (predictions - 0.5).abs().max() < 0.25


def test_mask_ratio_is_drawn_per_row_between_its_bounds():
    model = make(mask_ratio=0.2, mask_ratio_max=0.9, cardinalities=[0] * 20)
    observed = torch.ones(300, 20, dtype=torch.bool)
    hidden = model.draw_mask(observed, generator=torch.Generator().manual_seed(0)).sum(1)
    assert hidden.min() >= 4
    assert hidden.max() <= 19
    assert len(hidden.unique()) > 8


def test_a_category_of_three_levels_never_predicts_a_fourth():
    model = make([0, 3, 5])
    values, codes = torch.rand(4, 3), torch.tensor([[0, 2, 4]] * 4)
    out = model(values, codes=codes, mask=torch.tensor([[False, True, True]] * 4))
    assert out.logits.shape == (4, 2, 5)
    assert out.logits[:, 0, 3:].isinf().all()
    assert set(out.losses) == {"remasked", "visible", "remasked_category", "visible_category"}
    assert out.losses["remasked"] == 0  # no numeric cell is hidden
    assert 0 < out.losses["remasked_category"] < 10


def test_untrained_category_loss_is_near_one():
    model = make([4, 0])
    with torch.no_grad():
        model.decoder.category_weight.zero_()
    out = model(torch.rand(8, 2), codes=torch.zeros(8, 2, dtype=torch.long), mask=torch.tensor([[True, False]] * 8))
    assert math.isclose(out.losses["remasked_category"].item(), 1.0, rel_tol=1e-5)  # uniform: log K of log K


@pytest.mark.parametrize("skip", ["fixed", "gaussian"])
def test_skips_see_visible_cells_only(skip):
    values, observed = table(share=0.0)
    mask = torch.zeros_like(observed)
    mask[:, 2] = True
    covariance = (torch.eye(6) * 0.06 + 0.03).tolist()
    model = make(linear_skip=skip, output="linear", gaussian_mean=[0.4] * 6, gaussian_covariance=covariance)
    if skip == "fixed":
        torch.testing.assert_close(
            model(values, mask=mask).predictions, make(output="linear")(values, mask=mask).predictions
        )
        with torch.no_grad():
            model.decoder.skip.weight.fill_(1.0)
    other = values.clone()
    other[:, 2] = 0.123
    assert torch.equal(model(values, mask=mask).predictions, model(other, mask=mask).predictions)


def test_gaussian_skip_is_the_conditional_mean():
    values, _ = table(rows=5, columns=4)
    root = torch.rand(4, 4, generator=torch.Generator().manual_seed(3))
    covariance, mean = root @ root.T + 0.1 * torch.eye(4), torch.tensor([0.1, 0.2, 0.3, 0.4])
    model = make(
        [0] * 4,
        linear_skip="gaussian",
        output="linear",
        gaussian_mean=mean.tolist(),
        gaussian_covariance=covariance.tolist(),
    )
    visible = torch.tensor([[True, False, True, False]] * 5)
    ours = model.decoder.skip(values, visible)
    seen, hidden = [0, 2], [1, 3]
    inverse = torch.linalg.inv(covariance[seen][:, seen])
    expected = mean[hidden] + (values[:, seen] - mean[seen]) @ inverse @ covariance[seen][:, hidden]
    torch.testing.assert_close(ours[:, hidden], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, seen], values[:, seen], atol=1e-5, rtol=0)
    none = model.decoder.skip(values, torch.zeros_like(visible))
    torch.testing.assert_close(none, mean.expand(5, 4))


def test_the_normal_model_is_found_from_a_table_with_gaps():
    import numpy as np

    from hub_mim_remasker.gaussian import fit_gaussian

    random = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    values = random.multivariate_normal([1.0, 2.0, 3.0], covariance, 4000)
    observed = random.random(values.shape) < 0.7
    mean, found = fit_gaussian(np.where(observed, values, 99.0), observed)
    np.testing.assert_allclose(mean, [1, 2, 3], atol=0.08)
    np.testing.assert_allclose(found, covariance, atol=0.1)
    mean, found = fit_gaussian(random.random((200, 12)), np.ones((200, 12), bool))
    assert np.abs(found - np.diag(np.diag(found))).max() < 0.3 * found.diagonal().mean()  # nothing to find: shrunk


def test_nan_counts_as_missing():
    model = make()
    values, observed = table()
    out = model(values.masked_fill(~observed, torch.nan), row_seed=row_seeds(0, 0, torch.arange(7)))
    expected = model(values, observed=observed, row_seed=row_seeds(0, 0, torch.arange(7)))
    assert torch.equal(out.loss, expected.loss)
    assert torch.equal(out.valid, observed)


def test_wrong_number_of_columns_is_told():
    with pytest.raises(ValueError, match="has 5 columns, but the model was made for 6"):
        make()(torch.rand(2, 5))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("cardinalities", [0, 1], r"cardinalities\[1\] is 1"),
        ("hidden_size", 7, "hidden_size 7"),
        ("mask_ratio", 1.5, "mask_ratio is 1.5"),
        ("output", "tanh", "output is 'tanh'"),
        ("loss_weights", {"masked": 1.0}, "masked"),
    ],
)
def test_bad_configuration_names_the_field(field, value, text):
    with pytest.raises(Exception, match=text):
        ReMaskerConfig(**{field: value})
