"""NaFlex pictures in one sequence give what the padded tower gives."""

import torch

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimModel
from hub_mim_siglip2.packing import see_packed, worth_packing

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
SHAPES = [(3, 5), (4, 4), (2, 7), (1, 3), (5, 3)]


def batch():
    torch.manual_seed(1)
    valid = torch.arange(16) < torch.tensor([rows * columns for rows, columns in SHAPES])[:, None]
    pixels = torch.randn(len(SHAPES), 16, 4 * 4 * 3) * valid[..., None]
    return {"pixel_values": pixels, "pixel_attention_mask": valid.long(), "spatial_shapes": torch.tensor(SHAPES)}


def model(**fields):
    torch.manual_seed(0)
    vision = SIZE | {"patch_size": 4, "num_patches": 16}
    text = SIZE | {"vocab_size": 20, "max_position_embeddings": 8}
    return Siglip2MimModel(Siglip2MimConfig(naflex=True, vision_config=vision, text_config=text, **fields)).eval()


def test_packed_and_padded_towers_agree_in_outputs_and_gradients():
    own, given = model(), batch()
    valid = given["pixel_attention_mask"].bool()
    assert worth_packing(own.vision_model, valid)
    found = []
    for packed in (True, False):
        own.config.pack = packed
        own.zero_grad()
        out = own.get_image_features(**given)
        (out.pooler_output.square().sum() + out.last_hidden_state[valid].sin().sum()).backward()
        gradients = {name: weight.grad.clone() for name, weight in own.vision_model.named_parameters()}
        found.append((out.pooler_output, out.last_hidden_state[valid], gradients))
    torch.testing.assert_close(found[0][:2], found[1][:2], atol=1e-5, rtol=1e-5)
    for name, gradient in found[0][2].items():
        torch.testing.assert_close(gradient, found[1][2][name], atol=1e-4, rtol=1e-4, msg=name)


def test_padding_has_no_features_and_full_batches_are_not_packed():
    own, given = model(), batch()
    valid = given["pixel_attention_mask"]
    out = see_packed(own.vision_model, given["pixel_values"], valid, given["spatial_shapes"])
    assert not out.last_hidden_state[~valid.bool()].any()
    assert not worth_packing(own.vision_model, torch.ones(2, 16))


def test_what_is_recorded_comes_from_the_padded_tower():
    out = model()(**batch(), output_hidden_states=True)
    assert len(out.hidden_states) == 3
