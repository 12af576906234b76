"""big_vision's files: layers apart or stacked, fixed or NaFlex, to ours and to plain transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hub_mim.conversion import convert
from hub_mim_siglip2.conversion_siglip2 import authors_name, prepare
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimModel

FIXTURE = Path(__file__).parent / "golden" / "siglip2_a.safetensors"


def stored(naflex=False):
    """Return the fixture's towers as released files hold them: a prefix, layers stacked."""
    given = load_file(FIXTURE)
    weights = {
        name.removeprefix("weights/"): value.numpy() for name, value in given.items() if name.startswith("weights/")
    }
    made, layers = {}, {}
    for name, value in weights.items():
        if "encoderblock_" in name:
            before, _, after = name.partition("encoderblock_")
            layers.setdefault(f"{before}encoderblock/{after.split('/', 1)[1]}", []).append(value)
        else:
            made[f"params/{name}"] = value
    made |= {f"params/{name}": np.stack(values) for name, values in layers.items()}
    if naflex:
        made["params/img/embedding/kernel"] = made["params/img/embedding/kernel"].reshape(-1, 48)
        made["params/img/pos_embedding"] = made["params/img/pos_embedding"].reshape(4, 4, 48)
    return given, made


@pytest.mark.parametrize("naflex", [False, True])
def test_a_released_file_becomes_ours_and_plain_transformers(tmp_path, naflex):
    given, weights = stored(naflex)
    np.savez(tmp_path / "siglip2.npz", **weights)
    report = convert("siglip2", tmp_path / "siglip2.npz", tmp_path / "ours")
    assert report.complete
    model = Siglip2MimModel.from_pretrained(tmp_path / "ours").eval()
    plain = AutoModel.from_pretrained(model.export_towers(tmp_path / "plain")).eval()
    assert type(plain).__name__ == ("Siglip2Model" if naflex else "SiglipModel")
    batch = {"input_ids": given["inputs/text"], "pixel_values": given["inputs/image"].permute(0, 3, 1, 2)}
    wanted = given["outputs/logits"]
    if naflex:
        batch["pixel_values"] = given["inputs/naflex_patches"]
        batch["pixel_attention_mask"], batch["spatial_shapes"] = (
            given["inputs/naflex_mask"],
            given["inputs/naflex_spatial_shapes"],
        )
        wanted = given["outputs/naflex_logits"]
    with torch.no_grad():
        for each in (model, plain):
            torch.testing.assert_close(each(**batch).logits_per_image, wanted, rtol=1e-5, atol=1e-5)


def test_names_go_back_to_the_authors():
    names = [name.split("/", 1)[1] for name in load_file(FIXTURE) if name.startswith("weights/")]
    names += [f"decoder/{name.split('/', 1)[1]}" for name in load_file(FIXTURE) if name.startswith("weights_decoder/")]
    assert [authors_name(name) for name in prepare({name: torch.zeros(1) for name in names})] == names


def test_files_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"params/head/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="no towers of SigLIP"):
        convert("siglip2", tmp_path / "other.npz", tmp_path / "ours")
