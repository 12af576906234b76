"""Saving loses nothing and overwrites nothing; loading refuses with a reason."""

import json
import re

import pytest
import torch

from hub_mim import loading, sharing
from hub_mim.cards import USER_TEXT
from hub_mim.files import write_file
from hub_mim.results import Result
from hub_mim.run import Run

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

RESULT = Result(
    metric_type="mae", metric_value=0.25, dataset_name="rows", protocol="mean-error", commit="abc", seeds=(0, 1)
)


@pytest.fixture
def toy():
    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(0)
    return ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1)).eval(), ToyMimProcessor(factor=0.5)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_bit_identical(tmp_path, toy):
    model, processor = toy
    folder = sharing.save(tmp_path / "out", model, processor, run=Run(method="toy", data="x.csv", seed=3))
    assert _names(folder) == ["README.md", "config.json", "model.safetensors", "processor_config.json", "run.json"]
    again = loading.load(folder, auto="AutoModelForPreTraining")
    assert type(again) is type(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert loading.load_processor(folder).factor == 0.5
    assert Run.load(folder) == Run(method="toy", data="x.csv", seed=3)
    encoder = loading.load(folder)
    values = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder(values).last_hidden_state, model.toy(values).last_hidden_state)


def test_nothing_is_overwritten_unasked(tmp_path, toy):
    write_file(tmp_path / "out" / "notes.txt", "mine")
    with pytest.raises(FileExistsError, match="already exists"):
        sharing.save(tmp_path / "out", *toy)
    assert _names(tmp_path / "out") == ["notes.txt"]


def test_overwriting_drops_what_told_of_the_old_weights_and_keeps_the_users_files(tmp_path, toy):
    folder = sharing.save(tmp_path / "out", *toy, run=Run(method="toy"), results=[RESULT])
    for name in ("notes.txt", "my_config.json", "model-00001-of-00002.safetensors"):
        (folder / name).write_text("{}")
    with (folder / "README.md").open("a") as card:
        card.write("\nMeasured on a rainy day.\n")
    sharing.save(folder, *toy, overwrite=True)
    kept = ["README.md", "config.json", "model.safetensors", "my_config.json", "notes.txt", "processor_config.json"]
    assert _names(folder) == kept
    card = (folder / "README.md").read_text()
    assert card.count("Measured on a rainy day.") == 1
    assert "0.25" not in card
    sharing.save(folder, *toy, overwrite=True)
    assert (folder / "README.md").read_text() == card


def test_a_card_written_by_hand_is_kept(tmp_path, toy):
    folder = tmp_path / "out"
    write_file(folder / "README.md", "---\nlicense: mit\n---\n# My words\n")
    sharing.save(folder, *toy, overwrite=True)
    card = (folder / "README.md").read_text()
    assert card.count("\n---\n") == 1  # one front matter
    assert card.index(USER_TEXT) < card.index("# My words")


def test_a_failure_leaves_the_old_folder(tmp_path, toy):
    model, processor = toy
    folder = sharing.save(tmp_path / "out", model, processor)
    before = (folder / "model.safetensors").read_bytes()
    model.save_pretrained = lambda path: 1 / 0
    with pytest.raises(ZeroDivisionError):
        sharing.save(folder, model, processor, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert _names(tmp_path) == ["out"]


def test_results_are_added_without_touching_the_weights(tmp_path, toy):
    folder = sharing.save(tmp_path / "out", *toy, run=Run(method="toy", data="x.csv"))

    def written():
        facts = (folder / "model.safetensors").stat()
        return facts.st_ino, facts.st_size, facts.st_mtime_ns  # not when it was last read

    before = written()
    sharing.add_results(folder, [RESULT])
    sharing.add_results(folder, [Result(metric_type="rmse", metric_value=0.5, dataset_name="rows")])
    assert written() == before
    assert {result.metric_type for result in sharing.read_results(folder)} == {"mae", "rmse"}
    assert RESULT in sharing.read_results(folder)
    card = (folder / "README.md").read_text()
    assert "| mae | 0.25 |" in card
    assert "x.csv" in card
    with pytest.raises(ValueError, match="no folder here"):
        sharing.add_results("owner/name", [RESULT])


def test_large_models_are_saved_in_parts(tmp_path, toy):
    model, _ = toy
    save = model.save_pretrained
    model.save_pretrained = lambda path: save(path, max_shard_size="4KB")
    folder = sharing.save(tmp_path / "out", model)
    assert len(list(folder.glob("*.safetensors"))) > 1
    again = loading.load(folder, auto="AutoModelForPreTraining").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    weights = loading.checkpoint_weights(folder)
    assert weights.keys() == model.state_dict().keys()


def test_a_pickle_is_refused(tmp_path, toy):
    folder = sharing.save(tmp_path / "out", *toy)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin, a pickle.*hub-mim convert"):
        loading.load(folder)


def test_a_missing_plugin_is_named(tmp_path, toy, absent):
    folder = sharing.save(tmp_path / "out", *toy)
    config = json.loads((folder / "config.json").read_text())
    kind, distribution = absent
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(ValueError, match=f"pip install {distribution}"):
        loading.load(folder)


def test_what_is_no_checkpoint_says_so(tmp_path, toy):
    with pytest.raises(ValueError, match=re.escape("is no checkpoint: it holds no config.json")):
        loading.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        loading.load(tmp_path / "nowhere")
    write_file(tmp_path / "weights.pt", "x")
    with pytest.raises(ValueError, match="is a file; give the folder"):
        loading.load(tmp_path / "weights.pt")
    folder = sharing.save(tmp_path / "out", toy[0])
    with pytest.raises(ValueError, match="holds no processor"):
        loading.load_processor(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        loading.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        loading.load(folder)
