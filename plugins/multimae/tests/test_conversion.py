"""The authors' four released layouts become ours: files of those layouts are built from their list of keys."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from hub_mim.conversion import convert
from hub_mim.testing.shared import find_shared
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.conversion_multimae import prepare, rules

SHRUNK = {768: 64, 2304: 192, 3072: 256, 256: 32, 512: 64, 1024: 128}


def authors(encoder_only=False, names=("rgb", "depth", "semseg")):
    """Return random weights under the authors' keys, narrower, with two blocks."""
    path = find_shared("specs/keys/multimae_base_keys.txt")
    if path is None:
        pytest.skip("the authors' list of keys is not here; set HUB_MIM_SHARED to the folder that has specs/")
    source = torch.Generator().manual_seed(0)
    found = {}
    for line in path.read_text().splitlines():
        key, shape = line.split("\t")
        if re.match(r"encoder\.([2-9]|1\d)\.", key) or (encoder_only and key.startswith("output_adapters")):
            continue
        if key.startswith("input_adapters") and key.split(".")[1] not in names:
            continue
        size = [int(each) for each in re.findall(r"\d+", shape)]
        wide = [SHRUNK.get(each, each) for each in size]
        if "decoder_transformer" in key and "qkv" in key:
            wide[0] = 3 * SHRUNK[256]
        if "out_proj" in key:  # values of a patch, not a width
            wide = [size[0], *wide[1:]]
        if re.search(r"(rgb|depth)\.proj\.weight", key):
            wide = [wide[0], *size[1:]]
        found[key] = torch.randn(*wide, generator=source) * 0.05
    return found


def as_timm(weights):
    """Return the encoder and the rgb adapter as a timm ViT."""
    places = weights["input_adapters.rgb.pos_emb"].flatten(2).transpose(1, 2)
    made = {
        "cls_token": weights["global_tokens"],
        "pos_embed": torch.cat([torch.zeros_like(places[:, :1]), places], 1),
        "patch_embed.proj.weight": weights["input_adapters.rgb.proj.weight"],
        "patch_embed.proj.bias": weights["input_adapters.rgb.proj.bias"],
    }
    return made | {
        f"blocks.{key.removeprefix('encoder.')}": value for key, value in weights.items() if key.startswith("encoder.")
    }


FIELDS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4}
LAYOUTS = {
    "multimae multivit": (lambda: authors(), AutoModelForPreTraining),
    "multimae timm": (lambda: as_timm(authors()), AutoModel),
    "mae multivit": (lambda: authors(encoder_only=True, names=("rgb",)), AutoModel),
    "mae timm": (lambda: as_timm(authors(encoder_only=True, names=("rgb",))), AutoModel),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_released_layout_becomes_a_folder(layout, tmp_path):
    make, auto = LAYOUTS[layout]
    weights = make()
    torch.save({"model": weights}, tmp_path / "authors.pth")
    convert("multimae", tmp_path / "authors.pth", tmp_path / "out", config=FIELDS)
    model = auto.from_pretrained(tmp_path / "out").eval()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "cc-by-nc-4.0" in card
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoder = model.multimae if hasattr(model, "multimae") else model
        assert encoder(rgb=pixels).last_hidden_state.isfinite().all()
        if layout == "multimae multivit":
            assert set(model.config.targets) == {"rgb", "depth", "semseg", "norm_rgb"}
            assert model.config.modality("semseg").num_classes == 133


def test_timms_encoder_is_the_authors_own():
    weights = authors(encoder_only=True, names=("rgb",))
    back = prepare(as_timm(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_an_unmatched_key_is_reported(tmp_path):
    torch.save({"model": authors() | {"encoder.0.attn.relative": torch.zeros(3)}}, tmp_path / "authors.pth")
    with pytest.raises(ValueError, match=r"multimae.layers.0.attn.relative"):
        convert("multimae", tmp_path / "authors.pth", tmp_path / "out", config=FIELDS)
    assert not (tmp_path / "out").exists()


def test_every_key_of_the_base_model_is_the_authors():
    from hub_mim.conversion import rename_back
    from hub_mim_multimae.modeling_multimae import MultiMAEForPreTraining

    path = find_shared("specs/keys/multimae_base_keys.txt")
    if path is None:
        pytest.skip("the authors' list of keys is not here; set HUB_MIM_SHARED to the folder that has specs/")
    lines = dict(line.split("\t") for line in Path(path).read_text().splitlines())
    model = MultiMAEForPreTraining(MultiMAEConfig(num_hidden_layers=12))
    back = rename_back(model.state_dict(), rules(model.config))
    assert {key: str(list(value.shape)) for key, value in back.items()} == lines
