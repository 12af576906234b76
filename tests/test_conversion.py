"""Reading strangers' weights, renaming them there and back, reporting what does not fit."""

import dataclasses
import hashlib
import io
import pickle
import zipfile

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from hub_mim import conversion as engine
from hub_mim.weights import read_weights
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.conversion_toy import conversion, rules
from hub_mim_toy.modeling_toy import ToyMimForPreTraining


def toy(seed=0):
    torch.manual_seed(seed)
    return ToyMimForPreTraining(ToyMimConfig()).eval()


def theirs(model):
    """The toy's weights in the made-up authors' layout."""
    weights = engine.rename_back(model.state_dict(), rules(model.config))
    return weights | {"pos_embed": torch.zeros(6, 16)}


def test_the_rules_go_there_and_back():
    model = toy()
    made_up = theirs(model)
    assert made_up["blocks.0.attn.qkv.weight"].shape == (48, 16)
    assert not any("q_proj" in name for name in made_up)
    again = engine.rename({name: value for name, value in made_up.items() if name != "pos_embed"}, rules(model.config))
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_apply_reports_what_has_no_counterpart():
    weights = theirs(toy(1))
    missing = weights.pop("norm.weight")
    weights["extra.weight"] = missing
    report = engine.apply(conversion, weights, toy())
    assert report.missing == ["toy.layernorm.weight"]
    assert report.unexpected == ["extra.weight"]
    assert report.ignored == ["pos_embed"]
    assert not report.complete
    assert "extra.weight" in str(report)


def test_a_wrong_shape_is_told():
    weights = theirs(toy())
    weights["embed.weight"] = torch.zeros(16, 5)
    with pytest.raises(
        ValueError, match=r"toy.embed.weight has the shape \(16, 5\) in the file, \(16, 3\) in the model"
    ):
        engine.apply(conversion, weights, toy())


def test_all_wrong_shapes_are_told_at_once():
    weights = theirs(toy())
    weights |= {"embed.weight": torch.zeros(16, 5), "norm.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"toy.embed.weight has the shape .*; toy.layernorm.weight has the shape"):
        engine.apply(conversion, weights, toy())


def test_two_tensors_for_one_name_are_told():
    weights = {"a.weight": torch.zeros(1), "b.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="a.weight and b.weight would both become b.weight"):
        engine.rename(weights, [WeightRenaming("^a.", "b.")])


def test_an_operation_that_does_not_fit_is_told():
    with pytest.raises(ValueError, match="a.weight cannot become b.weight: "):
        engine.rename({"a.weight": torch.zeros(5)}, [WeightConverter("a", "b", [engine.Reshape((2, 3), (6,))])])


def test_a_merger_that_lacks_a_part_merges_nothing():
    merge = WeightConverter(["q.weight", "k.weight"], "qk.weight", operations=[Concatenate(0)])
    q, k = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(engine.rename({"k.weight": k, "q.weight": q}, [merge])["qk.weight"], torch.cat([q, k]))
    assert engine.rename({"0.q.weight": q, "1.k.weight": k}, [merge]).keys() == {"0.q.weight", "1.k.weight"}


def test_numbered_parts_are_stacked_in_the_order_of_numbers():
    stack = WeightConverter("experts.*.w", "experts.w", operations=[MergeModulelist(0)])
    weights = {f"experts.{i}.w": torch.tensor([float(i)]) for i in (10, 1, 2, 0, *range(3, 10))}
    whole = engine.rename(weights, [stack])["experts.w"]
    assert whole.flatten().tolist() == list(range(11))


def test_parts_of_other_numbers_go_there_and_back():
    parts = engine.split_qkv("encoder.qkv", "encoder.at") + engine.split_qkv("decoder.qkv", "decoder.at", ("k", "v"))
    weights = {"encoder.qkv.weight": torch.arange(6.0), "decoder.qkv.weight": torch.arange(6.0)}
    renamed = engine.rename(weights, parts)
    assert renamed["encoder.at.v_proj.weight"].tolist() == [4, 5]
    assert renamed["decoder.at.v.weight"].tolist() == [3, 4, 5]
    assert all(torch.equal(engine.rename_back(renamed, parts)[name], value) for name, value in weights.items())


def flax(weights):
    """Bytes of a flax msgpack checkpoint: nested dicts, arrays as extension type 1."""
    tree = {}
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = flax_array(tensor.numpy())
    return msgpack.packb({"params": tree, "step": 3}, use_bin_type=True)


@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz", "msgpack"])
def test_every_format_is_read_and_converted(tmp_path, ending):
    import transformers

    import hub_mim

    model = toy(2)
    weights = {name: value.contiguous() for name, value in theirs(model).items()}
    file = tmp_path / f"authors.{ending}"
    if ending == "pth":
        torch.save({"model": weights, "epoch": 3}, file)
    elif ending == "safetensors":
        save_file(weights, file)
    elif ending == "npz":
        np.savez(file, **{name: value.numpy() for name, value in weights.items()})
    else:
        file.write_bytes(flax(weights))
    report = hub_mim.convert("toy", file, tmp_path / "out")
    assert report.complete
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_converted_weights_keep_their_licence_and_bring_the_processor(tmp_path, monkeypatch):
    import transformers

    import hub_mim
    from hub_mim import sharing
    from hub_mim_toy import conversion_toy

    closed = dataclasses.replace(conversion_toy.conversion, licence="CC-BY-NC-4.0")
    monkeypatch.setattr(conversion_toy, "conversion", closed)
    save_file({name: value.contiguous() for name, value in theirs(toy(2)).items()}, tmp_path / "a.safetensors")
    hub_mim.convert("toy", tmp_path / "a.safetensors", tmp_path / "out")
    sharing.add_results(tmp_path / "out", [])  # written again, from the folder alone
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest() in card
    assert type(transformers.AutoProcessor.from_pretrained(tmp_path / "out")).__name__ == "ToyMimProcessor"


def flax_array(array):
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def test_an_array_that_flax_cut_is_joined(tmp_path):
    whole = np.arange(25, dtype=np.float32).reshape(1, 25)
    chunks = {str(i): flax_array(whole.reshape(-1)[2 * i : 2 * i + 2]) for i in range(13)}
    cut = {"__msgpack_chunked_array__": True, "shape": {"0": 1, "1": 25}, "chunks": chunks}
    (tmp_path / "w.msgpack").write_bytes(msgpack.packb({"params": {"a": {"kernel": cut}}}, use_bin_type=True))
    weights = read_weights(tmp_path / "w.msgpack")
    assert weights.keys() == {"a.kernel"}
    assert torch.equal(weights["a.kernel"], torch.from_numpy(whole))


def test_text_in_an_npz_is_left_out(tmp_path):
    np.savez(tmp_path / "w.npz", weight=np.ones(2), names=np.array(["a", "b"]))
    assert read_weights(tmp_path / "w.npz").keys() == {"weight"}


def test_files_of_before_torch_1_6_are_read(tmp_path):
    content = {"model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}, "epoch": 3}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    weights = read_weights(tmp_path / "w.pt")
    assert all(torch.equal(weights[name], content["model"][name]) for name in ("weight", "bias"))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot read weights from cut.pt: "):
        read_weights(tmp_path / "cut.pt")


class Evil:
    """Something whose unpickling would run a command."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("old", [True, False])
def test_a_pickle_with_code_is_refused(tmp_path, capsys, old):
    file = tmp_path / "evil.pth"
    if old:
        file.write_bytes(pickle.dumps({"model": Evil()}))
    else:
        torch.save({"model": Evil()}, file)
    with pytest.raises(ValueError, match="cannot read weights from evil.pth"):
        read_weights(file)
    assert "executed" not in capsys.readouterr().out


def test_an_npz_with_a_pickle_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.array([Evil()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as file:
        file.writestr("a.npy", content.getvalue())
    with pytest.raises(ValueError, match="cannot read weights from evil.npz"):
        read_weights(tmp_path / "evil.npz")


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    for name, text in (
        ("a.onnx", "endings known"),
        ("cut.safetensors", "cannot read"),
        ("empty.pth", "holds no tensors"),
    ):
        with pytest.raises(ValueError, match=text):
            read_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_weights(tmp_path / "none.pth")


def test_nothing_is_written_for_weights_that_do_not_fit(tmp_path):
    import hub_mim

    weights = theirs(toy())
    weights["strange"] = torch.zeros(2)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="strange"):
        hub_mim.convert("toy", tmp_path / "w.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gradients_go_back_to_the_authors_layout():
    model = toy()
    model(torch.rand(2, 6, 3), generator=torch.Generator().manual_seed(0)).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    back = engine.rename_back(gradients, rules(model.config))
    expected = torch.cat([gradients[f"toy.layers.0.attention.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(back["blocks.0.attn.qkv.weight"], expected)
