"""Patches, losses, schedules, blocks: against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from hub_mim import losses, patches, schedules
from hub_mim.blocks import Attention, Block, eager_attention


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- patches ---


@settings(deadline=None, max_examples=30)
@given(
    p=st.integers(1, 4),
    q=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.integers(1, 3),
)
@pytest.mark.parametrize("order", ["channel_first", "channel_last"])
def test_unpatchify_inverts_patchify(order, p, q, rows, columns, channels):
    images = rand(2, channels, p * rows, q * columns)
    cut = patches.patchify(images, (p, q), order=order)
    assert cut.shape == (2, rows * columns, p * q * channels)
    assert torch.equal(patches.unpatchify(cut, (p, q), (rows, columns), order=order), images)


def test_patch_layouts():
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    last, first = (patches.patchify(image, (2, 2), order=order)[0, 1] for order in ("channel_last", "channel_first"))
    assert last.tolist() == [2, 18, 3, 19, 6, 22, 7, 23]  # rows first, then the second patch of the top row
    assert first.tolist() == [2, 3, 6, 7, 18, 19, 22, 23]


def test_patch_size_that_does_not_divide_is_told():
    with pytest.raises(ValueError, match="5x4 is not a multiple of the patch size 2x2"):
        patches.patchify(torch.zeros(1, 1, 5, 4), (2, 2))


def test_sincos_against_a_loop():
    table = patches.sincos_1d(torch.arange(5), 6)
    for position in range(5):
        for k in range(3):
            angle = position / 10_000 ** (k / 3)
            assert table[position, k].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 3 + k].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_sincos_2d_tells_rows_and_columns_apart():
    by_column = patches.sincos_2d((2, 3), 8).view(2, 3, 8)
    assert torch.equal(by_column[0, :, :4], by_column[1, :, :4])  # first half: the column
    assert torch.equal(by_column[:, 0, 4:], by_column[:, 2, 4:])  # second half: the row
    by_row = patches.sincos_2d((2, 3), 8, first="row").view(2, 3, 8)
    assert torch.equal(by_row[:, :, :4], by_column[:, :, 4:])


# --- losses ---


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


# --- schedules ---


def test_warmup_cosine():
    values = [schedules.warmup_cosine(step, peak=1.0, total=10, warmup=2, floor=0.1) for step in range(12)]
    assert values[:3] == [0.0, 0.5, 1.0]
    assert values[6] == pytest.approx(0.55)
    assert values[10] == pytest.approx(0.1)
    assert values[11] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="longer than the whole"):
        schedules.warmup_cosine(0, peak=1, total=1, warmup=2)


def test_ema_decay_ends_where_it_should():
    assert schedules.ema_decay(0, start=0.9, end=1.0, total=10) == pytest.approx(0.9)
    assert schedules.ema_decay(10, start=0.9, end=1.0, total=10) == 1.0


# --- blocks ---


def config(name="eager"):
    made = PreTrainedConfig()
    made._attn_implementation = name
    return made


def test_attention_against_a_loop():
    torch.manual_seed(0)
    layer = Attention(config(), 8, 2).double()
    x = rand(2, 3, 8).double()
    q, k, v = (proj(x).detach().numpy().reshape(2, 3, 2, 4) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))
    expected = np.zeros((2, 3, 2, 4))
    for b in range(2):
        for h in range(2):
            scores = q[b, :, h] @ k[b, :, h].T / 2.0
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            expected[b, :, h] = weights @ v[b, :, h]
    out = layer.o_proj(torch.from_numpy(expected.reshape(2, 3, 8)))
    torch.testing.assert_close(layer(x)[0], out, atol=1e-12, rtol=0)


def test_implementations_agree_and_padding_changes_nothing():
    torch.manual_seed(0)
    block = Block(config("sdpa"), 8, 2, 16)
    x = rand(2, 5, 8)
    keep = torch.tensor([True, True, True, False, False])
    masked = block(x, keep[None, None, None].expand(2, 1, 5, 5))[:, :3]
    torch.testing.assert_close(masked, block(x[:, :3]), atol=1e-6, rtol=0)
    block.attention.config._attn_implementation = "eager"
    bias = torch.zeros(2, 1, 5, 5).masked_fill(~keep, torch.finfo(torch.float32).min)
    torch.testing.assert_close(block(x, bias)[:, :3], masked, atol=1e-6, rtol=0)


def test_eager_attention_returns_weights_that_sum_to_one():
    q = rand(1, 2, 3, 4)
    _, weights = eager_attention(torch.nn.Identity(), q, q, q, None)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 3))


def test_heads_that_do_not_divide_are_told():
    with pytest.raises(ValueError, match="width 10 is not a multiple of the number of attention heads 3"):
        Attention(config(), 10, 3)
