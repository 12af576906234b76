"""What MW-MAE promises beyond the general checks: long clips, HEAR's interface, released layouts, a head."""

import re

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hub_mim import sharing
from hub_mim.conversion import convert
from hub_mim_mwmae import hear
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.feature_extraction_mwmae import MwMaeFeatureExtractor
from hub_mim_mwmae.modeling_mwmae import MwMaeForAudioClassification, MwMaeForPreTraining, MwMaeModel
from hub_mim_mwmae.plugin import BASELINE, NANO


def small(**fields):
    given = {"spectrogram_size": [40, 80], "decoder_window_sizes": [2, 5, 10, 25, 50, 0, 0, 0]}
    return MwMaeConfig(**NANO | {"num_hidden_layers": 2} | given | fields)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return MwMaeModel(small()).eval()


def test_a_long_clip_is_its_units_one_after_another(encoder):
    values = torch.randn(2, 120, 80)
    whole = encoder(values)
    parts = torch.cat([encoder(values[:, start : start + 40]).frame_embeddings for start in (0, 40, 80)], 1)
    torch.testing.assert_close(whole.frame_embeddings, parts, rtol=1e-4, atol=1e-5)
    assert whole.frame_embeddings.shape == (2, 30, 480)
    assert whole.last_hidden_state.shape == (2, 150, 96)
    torch.testing.assert_close(whole.pooler_output, parts.mean(1), rtol=1e-4, atol=1e-5)


def test_padding_has_no_part_in_the_scene(encoder):
    values = torch.randn(2, 80, 80)
    frames = torch.tensor([80, 37])
    out = encoder(values, num_frames=frames)
    noisy = values.clone()
    noisy[1, 40:] = 9
    again = encoder(noisy, num_frames=frames)
    assert torch.equal(out.pooler_output, again.pooler_output)
    assert out.valid[1].sum() == 10 * 5
    with pytest.raises(ValueError, match="a multiple of 40 frames"):
        encoder(values[:, :50])


def test_hears_interface_gives_what_the_extractor_and_the_model_give(encoder, tmp_path):
    torch.manual_seed(1)
    folder = sharing.save(tmp_path / "out", MwMaeForPreTraining(small()), MwMaeFeatureExtractor(frames=40))
    model = hear.load_model(str(folder))
    audio = torch.randn(2, 24_000) * 0.1
    embeddings, times = hear.get_timestamp_embeddings(audio, model)
    scene = hear.get_scene_embeddings(audio, model)
    assert (model.sample_rate, model.scene_embedding_size) == (16_000, 480)
    assert embeddings.shape[:2] == times.shape
    assert times[0, 1] == pytest.approx(1500 / embeddings.shape[1])
    batch = MwMaeFeatureExtractor(frames=40)(list(audio))
    with torch.no_grad():
        ours = model.encoder(**batch).pooler_output
    torch.testing.assert_close(ours, scene, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="name a checkpoint"):
        hear.load_model()


def test_training_cuts_other_units_in_each_epoch():
    torch.manual_seed(0)
    model, shown = MwMaeForPreTraining(small()).eval(), []
    model.mwmae.embeddings.patch_projection.register_forward_hook(
        lambda _, inputs, output: shown.append(inputs[0][:, 0])
    )
    values = torch.arange(120.0)[None, :, None].expand(1, 120, 80).contiguous()
    for seed in (1, 1, 2):
        model(values, num_frames=torch.tensor([100]), row_seed=torch.tensor([seed]))
    starts = [int(each[0, 0, 0]) for each in shown]
    assert starts[0] == starts[1] != starts[2]
    assert max(starts) <= 60
    assert torch.equal(shown[0][0, :, 0], torch.arange(40.0) + starts[0])


def test_rows_must_hide_as_many():
    model = MwMaeForPreTraining(small())
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[0, :10] = True
    with pytest.raises(ValueError, match="leave 40 to 50 patches visible"):
        model(torch.randn(2, 40, 80), mask=mask)


def test_a_head_learns_and_names_several_classes():
    torch.manual_seed(0)
    model = MwMaeForAudioClassification(small(num_labels=3))
    out = model(torch.randn(2, 80, 80), labels=torch.tensor([0, 2]))
    assert out.logits.shape == (2, 3)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    several = model(torch.randn(2, 40, 80), labels=torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    assert several.loss.isfinite()


def flax_weights():
    """Return the fixture's weights as a nested tree, as flax keeps them."""
    from pathlib import Path

    stored = load_file(Path(__file__).parent / "golden" / "mwmae_a.safetensors")
    tree: dict = {}
    for name, tensor in stored.items():
        if name.startswith("weights/"):
            *path, last = name.removeprefix("weights/").split("/")
            place = tree
            for part in path:
                place = place.setdefault(part, {})
            place[last] = tensor.numpy()
    return tree, stored


def packed(value):
    """Encode arrays as flax's msgpack does: an extension of shape, type and bytes."""
    if isinstance(value, np.ndarray):
        content = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
        return msgpack.ExtType(1, content)
    raise TypeError(type(value))


FIELDS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4, "spectrogram_size": [40, 16]}


def test_a_flax_checkpoint_becomes_a_folder(tmp_path):
    from transformers import AutoModelForPreTraining

    tree, stored = flax_weights()
    state = {"step": 198_400, "params": tree, "opt_state": {"0": {}}, "batch_stats": {}}
    (tmp_path / "checkpoint_198400.msgpack").write_bytes(msgpack.packb(state, default=packed, use_bin_type=True))
    convert("mwmae", tmp_path / "checkpoint_198400.msgpack", tmp_path / "out", config=FIELDS)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    out = model(stored["inputs/spectrogram"][..., 0], mask=stored["masks/mask"].bool())
    torch.testing.assert_close(out.loss[None], stored["outputs/loss"], rtol=1e-5, atol=1e-5)
    assert model.config.decoder_window_sizes == [2, 5, 10, 0]


def test_the_authors_torch_layout_becomes_the_same(tmp_path):
    tree = flax_weights()[0]

    def flat(content, prefix=""):
        for name, value in content.items():
            yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]

    weights = {}
    for name, value in flat(tree):
        tensor = torch.from_numpy(value)
        name = re.sub(r"^(encoder|decoder)_block_0*(\d+)\.", r"\1_blocks.\2.", name)
        name = name.replace("LayerNorm_0", "norm1").replace("LayerNorm_1", "norm2").replace("scale", "weight")
        name = name.replace("Attention_0.Dense_0", "attn.qkv").replace("Attention_0.Dense_1", "attn.proj")
        name = name.replace("wmha_block.attn_heads_", "attn.attn_heads.").replace("wmha_block", "attn")
        name = re.sub(r"Mlp_0\.Dense_(\d)", lambda m: f"mlp.layer{int(m[1]) + 1}", name)
        if name.endswith("kernel"):
            name, tensor = (
                name.replace("kernel", "weight"),
                tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.T,
            )
        weights[name] = tensor.contiguous()
    torch.save({"model": weights}, tmp_path / "authors.pt")
    report = convert("mwmae", tmp_path / "authors.pt", tmp_path / "out", config=FIELDS)
    assert report.complete


def test_the_plain_mae_is_one_flag():
    plain = MwMaeForPreTraining(small(**BASELINE))
    assert not hasattr(plain.decoder.layers[0].attention, "windows")
    assert plain(torch.randn(2, 40, 80)).predictions.shape == (2, 50, 64)
