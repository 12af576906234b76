"""Losses: against plain loops in float64; safe where nothing is scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_mim import losses

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
MADE = "python tests/test_losses.py; float64 rounded to 12 digits, arguments in the test"


def golden_values():
    a, b = (torch.linspace(0, end, 24, dtype=torch.float64).sin().view(2, 3, 4) for end in (5, 9))
    scored = torch.tensor([[True, False, True], [False, True, False]])
    labels = torch.tensor([[0, 1, 3], [2, 2, -100]])
    values = {
        "token_mse": losses.token_mse(a, b),
        "token_l1": losses.token_l1(a, b),
        "token_cross_entropy": losses.token_cross_entropy(a, labels, label_smoothing=0.1),
        "masked_mean": losses.masked_mean(losses.token_mse(a, b), scored),
        "row_masked_mean": losses.row_masked_mean(losses.token_mse(a, b), scored),
        "normalize_patches": losses.normalize_patches(a),
    }
    return {name: value.round(decimals=12).tolist() for name, value in values.items()}


def test_the_values_are_the_frozen_ones():
    frozen = json.loads(GOLDEN.read_text())
    assert golden_values().keys() == frozen.keys() - {"made"}
    for name, value in golden_values().items():
        np.testing.assert_allclose(value, frozen[name], rtol=0, atol=1e-11)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_masked_mean_against_a_loop():
    loss, scored = rand(3, 5).double(), rand(3, 5, seed=1) < 0.5
    expected = np.mean([loss[i, j].item() for i in range(3) for j in range(5) if scored[i, j]])
    assert losses.masked_mean(loss, scored).item() == pytest.approx(expected)
    rows = [np.mean(loss[i][scored[i]].numpy()) for i in range(3) if scored[i].any()]
    assert losses.row_masked_mean(loss, scored).item() == pytest.approx(np.mean(rows))


@pytest.mark.parametrize("mean", [losses.masked_mean, losses.row_masked_mean])
def test_nothing_scored_is_zero_with_zero_gradient(mean):
    loss = rand(2, 3).requires_grad_()
    value = mean(loss, torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert (loss.grad == 0).all()


def test_what_is_not_scored_may_be_nan():
    loss = torch.tensor([[1.0, torch.nan]], requires_grad=True)
    losses.masked_mean(loss, torch.tensor([[True, False]])).backward()
    assert loss.grad.tolist() == [[1.0, 0.0]]


def test_token_losses():
    prediction, target = rand(2, 3, 4), rand(2, 3, 4, seed=1)
    assert torch.allclose(losses.token_mse(prediction, target), ((prediction - target) ** 2).mean(2))
    assert torch.allclose(losses.token_l1(prediction, target), (prediction - target).abs().mean(2))
    labels = torch.tensor([[0, 1, 3], [2, 2, 0]])
    picked = prediction.log_softmax(-1).gather(-1, labels[:, :, None])[:, :, 0]
    assert torch.allclose(losses.token_cross_entropy(prediction, labels), -picked)


def test_normalize_patches_is_the_paper():
    patch = rand(2, 3, 8).double()
    expected = (patch.numpy() - patch.numpy().mean(-1, keepdims=True)) / np.sqrt(
        patch.numpy().var(-1, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(losses.normalize_patches(patch).numpy(), expected, rtol=1e-12)


def test_weighted_sum():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert losses.weighted_sum(terms, {"b": 0.5}) == 3.5
    with pytest.raises(ValueError, match=r"\['c'\].*\['a', 'b'\]"):
        losses.weighted_sum(terms, {"c": 1.0})


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 5), length=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_means_do_not_depend_on_order_or_on_what_is_not_scored(rows, length, share, seed):
    loss, scored = rand(rows, length, seed=seed).double(), rand(rows, length, seed=seed + 100) < share
    order, places = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)), torch.arange(length).flip(0)
    noisy = torch.where(scored, loss, torch.inf)
    for mean in (losses.masked_mean, losses.row_masked_mean):
        value = mean(loss, scored)
        torch.testing.assert_close(mean(noisy[order][:, places], scored[order][:, places]), value, rtol=1e-12, atol=0)
        if scored.any():
            assert loss[scored].min() - 1e-12 <= value <= loss[scored].max() + 1e-12


def test_a_label_of_minus_100_costs_nothing():
    logits = rand(1, 2, 3).requires_grad_()
    loss = losses.token_cross_entropy(logits, torch.tensor([[-100, 1]]))
    loss.sum().backward()
    assert loss[0, 0] == 0
    assert (logits.grad[0, 0] == 0).all()


def test_patches_of_one_value_are_told():
    with pytest.raises(ValueError, match="a patch of one value cannot be standardised"):
        losses.normalize_patches(torch.zeros(1, 2, 1))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"made": MADE, **golden_values()}, indent=1) + "\n")
