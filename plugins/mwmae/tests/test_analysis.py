"""The paper's view of heads: local ones are near and sharp, and PWCCA is what it claims to be."""

import math

import pytest
import torch

from hub_mim_mwmae.analysis import agreement, draw_heads, draw_windows, head_statistics, pwcca
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.modeling_mwmae import MwMaeForPreTraining
from hub_mim_mwmae.plugin import NANO

WINDOWS = [2, 5, 10, 25, 50, 0, 0, 0]


@pytest.fixture(scope="module")
def statistics():
    torch.manual_seed(0)
    fields = {"num_hidden_layers": 1, "spectrogram_size": [40, 80], "decoder_window_sizes": WINDOWS}
    model = MwMaeForPreTraining(MwMaeConfig(**NANO | fields))
    return head_statistics(model, torch.randn(4, 40, 80), row_seed=torch.arange(4))


def test_heads_attend_no_farther_than_their_windows(statistics):
    assert statistics.distance.shape == statistics.entropy.shape == (2, 8)
    for head, window in enumerate(WINDOWS):
        reach = window or 50
        assert (statistics.distance[:, head] <= reach - 1).all()
        assert (statistics.entropy[:, head] <= math.log(reach) + 1e-5).all()
    assert (statistics.distance[:, :5].diff(dim=1) > 0).all()


def test_the_weights_are_those_that_the_model_uses(statistics):
    torch.manual_seed(0)
    fields = {"num_hidden_layers": 1, "spectrogram_size": [40, 80], "decoder_window_sizes": WINDOWS}
    model = MwMaeForPreTraining(MwMaeConfig(**NANO | fields)).eval()
    model.set_attn_implementation("eager")
    kept = []
    model.decoder.layers[0].attention.register_forward_hook(lambda _, inputs, output: kept.append(output[1]))
    with torch.no_grad():
        model(torch.randn(4, 40, 80), row_seed=torch.arange(4))
    places = torch.arange(50)
    far = (places[:, None] - places).abs()
    assert ((kept[0] * far).sum(-1).mean((0, 2))[:5] <= torch.tensor([1.0, 4, 9, 24, 49])).all()


def test_pwcca_does_not_see_linear_maps_and_sees_noise():
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    assert pwcca(x, x @ torch.randn(6, 6)) == pytest.approx(1.0, abs=1e-6)
    assert pwcca(x, torch.randn(400, 6)) < 0.25
    half = torch.cat([x[:, :3], torch.randn(400, 3)], 1)
    assert 0.4 < pwcca(x, half) < 0.75
    with pytest.raises(ValueError, match="more than features"):
        pwcca(x[:5], x[:5])


def test_a_picture_of_heads(statistics, tmp_path):
    alike = agreement(statistics.outputs)
    assert alike.shape == (8, 2, 2)
    assert ((alike >= 0) & (alike <= 1 + 1e-6)).all()
    assert draw_heads(statistics, tmp_path / "heads.png", windows=WINDOWS).is_file()


def test_windows_are_drawn_as_blocks(statistics, tmp_path):
    first = statistics.attention[0, 0]
    assert (first - torch.block_diag(*[first[i : i + 2, i : i + 2] for i in range(0, 50, 2)])).abs().max() == 0
    assert draw_windows(statistics, tmp_path / "windows.png", windows=WINDOWS).stat().st_size > 10_000
