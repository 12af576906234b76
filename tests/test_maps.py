"""Attention and embedding maps: of pictures, of rows that are none, and of models that have none to show."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim import maps, sharing
from hub_mim.showing import show

native = pytest.importorskip("hub_mim_native.example", reason="plugins/native is not installed")


@pytest.fixture(scope="module")
def rows():
    from hub_mim.data import load_rows

    return load_rows(native.sample_pictures(12, seed=2))


def saved(name, folder):
    from hub_mim.testing.subject import Subject

    subject = Subject(name)
    return sharing.save(folder / name, subject.model(), subject.example.processor)


def test_attention_of_an_encoder_that_shuffles_its_tokens_stands_at_their_places(tmp_path, rows):
    from hub_mim import loading
    from hub_mim.data import as_records

    folder = saved("mae", tmp_path)
    model, processor = (
        loading.load(folder, attn_implementation="eager").eval(),
        loading.load_processor(folder),
    )
    found = [maps._attention(model, processor, as_records(rows.select(range(2))), -1)[0] for _ in range(2)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0].sum(-1), 1, atol=1e-5)
    assert show(folder, rows, tmp_path / "attention.png", what="attention", count=2, layer=0).is_file()
    with pytest.raises(ValueError, match="there is no layer 9; ViTMAEModel has 4"):
        show(folder, rows, tmp_path / "none.png", what="attention", layer=9)


def test_attention_of_rows_that_are_no_pictures(tmp_path):
    pytest.importorskip("hub_mim_toy.example", reason="the toy plugin (tests/toy) is not installed")
    from hub_mim.data import load_rows
    from hub_mim.testing.subject import Subject

    folder = saved("toy", tmp_path)
    assert show(folder, load_rows(Subject("toy").rows), tmp_path / "matrix.png", what="attention", count=2).is_file()


def test_windows_are_no_map(tmp_path, rows):
    with pytest.raises(ValueError, match="in windows or pools"):
        show(saved("hiera", tmp_path), rows, tmp_path / "x.png", what="attention")


def test_embedding_maps(tmp_path, rows):
    folder = saved("mae", tmp_path)
    assert show(folder, rows, tmp_path / "map.png", what="embedding").is_file()
    assert show(folder, rows.remove_columns(["label"]), tmp_path / "plain.png", what="embedding").is_file()
    with pytest.raises(ValueError, match="there are 2 rows"):
        show(folder, rows.select(range(2)), tmp_path / "few.png", what="embedding")
    with pytest.raises(ValueError, match="did you mean 'embedding'"):
        show(folder, rows, tmp_path / "x.png", what="embeddings")


def test_a_picture_from_a_file(tmp_path, capsys):
    from hub_mim.cli import main

    folder = saved("mae", tmp_path)
    Image.fromarray(np.zeros((40, 30, 3), np.uint8) + 90).save(tmp_path / "a.png")
    command = ["show", str(folder), "--image", str(tmp_path / "a.png"), "--out", str(tmp_path / "shown.png")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert (tmp_path / "shown.png").is_file()
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(SystemExit) as ended:
        main([*command[:3], str(tmp_path / "b.png"), "--out", str(tmp_path / "c.png")])
    assert ended.value.code == 1
    assert "is no picture" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["show", str(folder), "--out", str(tmp_path / "d.png")])
    assert ended.value.code == 2


def test_model_flops_utilisation(tmp_path, rows):
    import hub_mim
    from hub_mim.speed import peak_flops

    options = {"batch_size": 4, "validation": 0, "mfu": True}
    told = hub_mim.pretrain("mae", rows, tmp_path / "run", steps=12, **options).speed
    plain = hub_mim.pretrain("mae", rows, tmp_path / "usual", steps=4, plain_steps=True, **options).speed
    # MAE: encoder on 17 tokens of 64 + 1, decoder on 65, predictions and both embeddings
    wide, deep, narrow, seen, whole, hidden, pixels = 96, 4, 64, 17, 65, 48, 48

    def block(tokens, width):
        return tokens * 24 * width**2 + 4 * tokens**2 * width

    body = deep * block(seen, wide) + block(whole, narrow) + 2 * seen * wide * narrow
    usual = body + block(whole, narrow) + 2 * whole * narrow * pixels
    assert plain["step_flops"] == pytest.approx(4 * (3 * usual + 2 * 2 * 64 * pixels * wide), rel=0.02)
    # quick steps: patches that are seen alone, the last layer and the prediction for hidden ones
    last = whole * 4 * narrow**2 + hidden * 20 * narrow**2 + 4 * hidden * whole * narrow
    quick = body + last + 2 * hidden * narrow * pixels
    assert told["step_flops"] == pytest.approx(4 * (3 * quick + 2 * 2 * (seen - 1) * pixels * wide), rel=0.02)
    assert told["rows_per_second"] == pytest.approx(4 / told["step_seconds"])
    assert 0 < told["mfu"] < 1.5
    assert 0 <= told["data_wait"] < 1
    assert peak_flops("cpu", "float32", repeats=1) > 1e9
    assert hub_mim.pretrain("mae", rows, tmp_path / "plain", steps=2, batch_size=4).speed == {}


def test_counting_leaves_the_model_as_it_is(tmp_path, rows):
    import hub_mim
    from hub_mim import loading

    for name, mfu in (("with", True), ("without", False)):
        hub_mim.pretrain("mae", rows, tmp_path / name, steps=6, batch_size=4, mfu=mfu)
    first, second = (
        loading.load(tmp_path / name, auto="AutoModelForPreTraining").state_dict() for name in ("with", "without")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
