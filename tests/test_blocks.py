"""Blocks: against plain loops in float64; every attention implementation, padding, recording, initialisation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hub_mim.blocks import Attention, Block, DropPath, eager_attention, init_linear_norm

GOLDEN = Path(__file__).parent / "golden" / "blocks.json"
MADE = "python tests/test_blocks.py; float64 rounded to 12 digits, arguments in the test"


def golden_values():
    block = filled(Block(config(), 8, 2, 12, layer_norm_eps=1e-6).double())
    x = torch.linspace(-2, 2, 48, dtype=torch.float64).cos().view(2, 3, 8)
    return {"block": block(x).detach().round(decimals=12).tolist()}


def filled(module):
    """Give every parameter fixed values; the norms' weights stay near 1."""
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(module.named_parameters())):
            values = torch.linspace(0, 7 + number, weight.numel(), dtype=torch.float64).sin().view(weight.shape) / 2
            weight.copy_(values + (1 if "layernorm" in name and name.endswith("weight") else 0))
    return module


def test_the_values_are_the_frozen_ones():
    frozen = json.loads(GOLDEN.read_text())
    assert golden_values().keys() == frozen.keys() - {"made"}
    for name, value in golden_values().items():
        np.testing.assert_allclose(value, frozen[name], rtol=0, atol=1e-10)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh"])
def test_block_against_numpy(act):
    block = filled(Block(config(), 8, 2, 12, layer_norm_eps=1e-3, act=act).double())
    x = rand(2, 3, 8).double()
    w = {name: weight.detach().numpy() for name, weight in block.named_parameters()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        if act == "gelu":
            return x * (1 + erf(x / np.sqrt(2))) / 2
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

    h = norm(x.numpy(), "layernorm_before")
    q, k, v = (linear(h, f"attention.{part}_proj").reshape(2, 3, 2, 4) for part in "qkv")
    scores = np.exp(np.einsum("bthd,bshd->bhts", q, k) / 2)
    attended = np.einsum("bhts,bshd->bthd", scores / scores.sum(-1, keepdims=True), v).reshape(2, 3, 8)
    y = x.numpy() + linear(attended, "attention.o_proj")
    y = y + linear(gelu(linear(norm(y, "layernorm_after"), "mlp.fc1")), "mlp.fc2")
    np.testing.assert_allclose(block(x).detach().numpy(), y, rtol=0, atol=1e-11)


def test_cross_attention_reads_the_context_alone():
    layer = filled(Attention(config(), 8, 2).double())
    x, context = rand(1, 3, 8).double(), rand(1, 5, 8, seed=1).double()
    whole = layer(x, context=context)[0]
    for place in range(3):  # a query does not see the other queries
        torch.testing.assert_close(layer(x[:, place : place + 1], context=context)[0], whole[:, place : place + 1])
    assert not torch.allclose(layer(x, context=context + 1)[0], whole)


def test_no_bias_where_none_is_wanted():
    layer = Attention(config(), 8, 2, qkv_bias=False)
    assert [part for part in "qkvo" if getattr(layer, f"{part}_proj").bias is not None] == ["o"]


def test_drop_path_leaves_out_whole_rows_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    dropped = layer(torch.ones(4000, 2, 3))
    assert {*dropped.unique().tolist()} == {0.0, torch.tensor(4 / 3).item()}
    assert (dropped == dropped[:, :1, :1]).all()
    assert abs(dropped.mean().item() - 1) < 0.05  # standard error 0.009
    assert (layer.eval()(torch.ones(5, 2)) == 1).all()
    with pytest.raises(ValueError, match="drop path 1.0 is not in"):
        DropPath(1.0)


def test_a_block_with_drop_path_passes_some_rows_through():
    torch.manual_seed(0)
    block = Block(config(), 8, 2, 16, drop_path=0.5).train()
    x = rand(64, 3, 8)
    untouched = (block(x) == x).flatten(1).all(1).sum()  # a quarter: both branches left out
    assert 5 < untouched < 30
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_init_fills_what_is_new_and_leaves_what_was_loaded():
    layers = nn.ModuleList([nn.Linear(4, 3), nn.LayerNorm(4), nn.Linear(2, 2, bias=False)])
    for weight in layers.parameters():
        nn.init.constant_(weight, 7.0)
    loaded = layers[0].bias
    loaded._is_hf_initialized = True
    torch.manual_seed(0)
    with init.guard_torch_init_functions():
        layers.apply(init_linear_norm)
    assert layers[0].weight.abs().max() <= (6 / 7) ** 0.5
    assert (layers[1].weight == 1).all()
    assert (layers[1].bias == 0).all()
    assert (layers[2].weight != 7).all()
    assert (loaded == 7).all()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"made": MADE, **golden_values()}, indent=1) + "\n")


@pytest.mark.parametrize("masked", ["none", "bool", "added"])
def test_short_rows_attend_as_long_ones_do(masked):
    from hub_mim.blocks import short_attention

    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 7, 4, requires_grad=True) for _ in range(3))
    seen = torch.rand(3, 1, 1, 7) > 0.4
    seen[..., 0] = True
    mask = {"none": None, "bool": seen, "added": torch.where(seen, 0.0, -1e9)}[masked]
    module = torch.nn.Identity()
    ours, _ = short_attention(module, query, key, value, mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(ours, wanted)
    weights = torch.randn_like(ours)
    first = torch.autograd.grad((ours * weights).sum(), (query, key, value))
    second = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)
    assert short_attention(module, query * 1e4, key, value, mask)[0].isfinite().all()


def test_bfloat16_on_a_cpu_attends_by_matrix_products():
    from hub_mim.blocks import attention_function, eager_for_sdpa

    config = PreTrainedConfig()
    config._attn_implementation = "sdpa"

    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 20, 8, dtype=torch.bfloat16) for _ in range(3))
    assert attention_function(config, key) is eager_for_sdpa
    assert attention_function(config, key.float()) is ALL_ATTENTION_FUNCTIONS["sdpa"]
    config._attn_implementation = "eager"
    assert attention_function(config, key) is eager_attention
    seen = torch.rand(2, 1, 1, 20) > 0.4
    ours, _ = eager_for_sdpa(torch.nn.Identity(), query, key, value, seen)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2)
    torch.testing.assert_close(ours, wanted, rtol=0.05, atol=0.02)
