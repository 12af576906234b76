"""Windows: each head attends as if its windows were cut out and attended to one by one, shifted ones too."""

import pytest
import torch
from transformers import PreTrainedConfig

from hub_mim_mwmae.configuration_mwmae import MwMaeConfig, check_windows, fitting_windows
from hub_mim_mwmae.windows import MultiWindowAttention


def one_by_one(layer, x):
    """Attend head by head, window by window, as the authors describe it."""
    length, outs = x.shape[1], []
    parts = [layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)]
    for head, window in enumerate(layer.windows):
        q, k, v = (part.unflatten(-1, (-1, layer.head_dim))[:, :, head] for part in parts)
        if not window:
            outs.append((q @ k.transpose(1, 2) * layer.scaling).softmax(-1) @ v)
            continue
        shift = window // 2 if layer.shifted else 0
        q, k, v = (part.roll(-shift, 1) for part in (q, k, v))
        labels = torch.zeros(length)
        labels[length - window : length - shift] = 1
        labels[length - shift :] = 2 if shift else 1
        done = []
        for start in range(0, length, window):
            cut = slice(start, start + window)
            scores = q[:, cut] @ k[:, cut].transpose(1, 2) * layer.scaling
            distance = torch.arange(window)[:, None] - torch.arange(window) + window - 1
            scores = scores + layer.tables[str(head)][distance]
            if shift:
                scores = scores + torch.where(labels[cut][:, None] != labels[cut], -100.0, 0.0)
            done.append(scores.softmax(-1) @ v[:, cut])
        outs.append(torch.cat(done, 1).roll(shift, 1))
    return layer.o_proj(torch.cat(outs, -1))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_heads_at_once_are_all_heads_one_by_one(shifted, implementation):
    config = PreTrainedConfig()
    config._attn_implementation = implementation
    torch.manual_seed(0)
    layer = MultiWindowAttention(config, 20, 5, [1, 2, 5, 20, 0], shifted=shifted)
    for table in layer.tables.values():
        torch.nn.init.normal_(table)
    x = torch.randn(3, 20, 20, requires_grad=True)
    ours, wanted = layer(x)[0], one_by_one(layer, x)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(ours)
    names = [name for name, _ in layer.named_parameters()]
    first = torch.autograd.grad((ours * weights).sum(), list(layer.parameters()), retain_graph=True)
    second = torch.autograd.grad((wanted * weights).sum(), list(layer.parameters()))
    for name, a, b in zip(names, first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


def test_windows_for_other_lengths():
    assert fitting_windows(250) == [2, 5, 10, 25, 50, 125, 0, 0]
    assert fitting_windows(96) == [2, 6, 12, 24, 48, 96, 0, 0]
    with pytest.raises(
        ValueError, match=r"\[7\] do not divide a sequence of 20 tokens; its divisors are \[1, 2, 4, 5, 10, 20\]"
    ):
        check_windows([5, 7, 0], 20)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"spectrogram_size": [100, 80]}, "decoder_window_sizes"),
        ({"decoder_window_sizes": [2, 5]}, "2 windows for 8 heads"),
        ({"window_sizes": [125] * 12}, r"\[125.*do not divide a sequence of 50 tokens"),
        ({"spectrogram_size": [201, 80]}, "no multiple of patch_size"),
    ],
)
def test_windows_that_do_not_fit_are_refused_when_the_model_is_described(fields, told):
    with pytest.raises(Exception, match=told):
        MwMaeConfig(**fields)
