"""Push, pull and list against a Hub on this machine, through the real client."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import hub_mim
from hub_mim import loading, plugins, sharing, staging, transfer
from hub_mim.cards import USER_TEXT
from hub_mim.results import Result
from hub_mim.run import Run

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
testing = pytest.importorskip("hub_mim_localhub.testing", reason="hub-mim-localhub is not installed")

RESULT = Result(metric_type="mae", metric_value=0.25, dataset_name="me/rows", protocol="mean-error", seeds=(0, 1))
LOAD = """
import sys
import hub_mim
import transformers
from safetensors.torch import save_file
for auto in ("AutoModel", "AutoModelForPreTraining"):
    model = getattr(transformers, auto).from_pretrained(sys.argv[1], revision=sys.argv[2])
    weights = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, f"{sys.argv[3]}/{auto}.safetensors")
processor = transformers.AutoProcessor.from_pretrained(sys.argv[1], revision=sys.argv[2])
processor.save_pretrained(sys.argv[3])
"""


@pytest.fixture
def hub(tmp_path):
    with testing.running_hub(tmp_path / "hub") as running, testing.connected(running, tmp_path / "cache"):
        yield running


@pytest.fixture
def toy():
    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining

    torch.manual_seed(0)
    return ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1)).eval()


@pytest.fixture
def folder(tmp_path, toy):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    run = Run(method="toy", data="x.csv", seed=3, status="finished")
    return sharing.save(tmp_path / "model", toy, ToyMimProcessor(factor=0.5), run=run, results=[RESULT])


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def card(hub, name="me/toy", revision=None):
    path = hub.api().hf_hub_download(name, "README.md", revision=revision)
    with open(path, encoding="utf-8") as file:
        return file.read()


def write_card(hub, text, name="me/toy"):
    hub.api().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=name)


# --- the round trip ---


@pytest.mark.parametrize("name", sorted(name for name, method in plugins.methods().items() if not method.native))
def test_every_plugin_goes_to_a_hub_and_back_bit_for_bit(hub, tmp_path, name):
    """Pre-train, push, a new process that only imports hub_mim, every auto class; the weights are compared as bytes."""
    from safetensors.torch import load_file

    from hub_mim.method import resolve
    from hub_mim.registry import register
    from hub_mim.testing.subject import Subject, own_fields

    register()
    subject = Subject(name)
    out = tmp_path / "run"
    fields, processor = own_fields(subject.example.config), subject.example.processor
    hub_mim.pretrain(
        name, subject.rows, out, config=fields, processor=processor, steps=2, batch_size=2, validation=0.25
    )
    pushed = hub_mim.push(out, name)
    assert pushed.repository == f"me/{name}"
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    environment = hub.environment | {"HF_HOME": str(tmp_path / "home")}
    told = subprocess.run(
        [sys.executable, "-c", LOAD, pushed.repository, pushed.commit, str(loaded)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    stored = load_file(out / "model.safetensors")
    whole = load_file(loaded / "AutoModelForPreTraining.safetensors")
    assert stored.keys() <= whole.keys()
    assert all(torch.equal(whole[each], tensor) for each, tensor in stored.items())
    encoder = load_file(loaded / "AutoModel.safetensors")
    prefix = resolve(subject.method.auto["AutoModelForPreTraining"]).base_model_prefix
    inside = {
        each.removeprefix(f"{prefix}."): tensor for each, tensor in stored.items() if each.startswith(f"{prefix}.")
    }
    assert inside
    assert all(torch.equal(encoder[each], tensor) for each, tensor in inside.items())
    kept = [each for each in loading.PROCESSORS if (out / each).is_file()]
    assert kept
    for name_of_file in kept:  # of words and pictures, the tokenizer's own as well
        before, after = (json.loads((place / name_of_file).read_text()) for place in (out, loaded))
        # transformers adds to a tokenizer's file where it was loaded from and how it cuts
        assert before == {key: after[key] for key in (before if "tokenizer" in name_of_file else after)}
    tags = next(iter(hub.api().list_models(filter="hub-mim"))).tags
    assert {"hub-mim", name, *subject.method.modalities} <= set(tags)


def test_unchanged_uploads_nothing_and_a_change_only_itself(hub, folder, toy):
    first = hub_mim.push(folder, "me/toy")
    assert set(first.changed) >= {"README.md", "config.json", "model.safetensors", "run.json", "processor_config.json"}
    again = hub_mim.push(folder, "me/toy")
    assert (again.commit, again.changed) == (first.commit, ())
    (folder / "notes.txt").write_text("mine")
    assert hub_mim.push(folder, "me/toy").changed == ("notes.txt",)


def test_what_the_folder_no_longer_has_goes_from_the_hub_but_not_what_others_put_there(hub, folder, toy, tmp_path):
    hub_mim.push(folder, "me/toy")
    hub.api().upload_file(path_or_fileobj=b"theirs", path_in_repo="paper.pdf", repo_id="me/toy")
    shards = tmp_path / "shards"
    save = toy.save_pretrained
    toy.save_pretrained = lambda place: save(place, max_shard_size="4KB")
    sharing.save(shards, toy)
    pushed = hub_mim.push(shards, "me/toy")
    files = hub.api().list_repo_files("me/toy")
    assert "model.safetensors" not in files
    assert not any(name.startswith(("results/", ".eval_results/")) for name in files)
    assert "run.json" not in files
    assert {"paper.pdf", "model.safetensors.index.json"} <= set(files)
    assert same(loading.load("me/toy", auto="AutoModelForPreTraining"), toy)
    assert len(hub.api().list_repo_commits("me/toy")) == 4  # the empty one, and one a push
    assert pushed.commit == hub.api().model_info("me/toy").sha


def test_branch_tag_commit_and_pull_request(hub, folder, toy):
    first = hub_mim.push(folder, "me/toy", tag="v1")
    with torch.no_grad():
        toy.mask_token += 1
    toy.save_pretrained(folder)
    dev = hub_mim.push(folder, "me/toy", revision="dev/next")
    assert dev.revision == "dev/next"
    with torch.no_grad():
        toy.mask_token += 1
    toy.save_pretrained(folder)
    request = hub_mim.push(folder, "me/toy", pull_request=True, message="Look")
    assert request.revision == "refs/pr/1"
    values = {
        revision: loading.load("me/toy", auto="AutoModelForPreTraining", revision=revision).mask_token.mean().item()
        for revision in (None, "v1", first.commit, "dev/next", "refs/pr/1")
    }
    base = values[None]
    assert values["v1"] == values[first.commit] == base
    assert values["dev/next"] == pytest.approx(base + 1)
    assert values["refs/pr/1"] == pytest.approx(base + 2)
    assert hub_mim.push(folder, "me/toy", revision="refs/pr/1").changed == ()
    assert hub_mim.push(folder, "me/other", tag="v1").tag == "v1"
    with pytest.raises(ValueError, match="has the tag 'v1' on another commit"):
        hub_mim.push(folder, "me/toy", tag="v1")


def test_private(hub, folder):
    hub_mim.push(folder, "me/toy", private=True)
    assert hub.api().model_info("me/toy").private
    with (
        testing.connected(hub, hub.hub.root.parent / "strangers", token=""),
        pytest.raises(ValueError, match="no repository|neither"),
    ):
        hub_mim.pull("me/toy", hub.hub.root.parent / "copy")


def test_adapters_are_pushed_and_loaded_over_their_base(hub, folder, toy, tmp_path):
    from peft import LoraConfig, get_peft_model

    hub_mim.push(folder, "me/toy")
    base = loading.load("me/toy", auto="AutoModelForPreTraining")
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapters")
    hub_mim.push(tmp_path / "adapters", "me/toy-lora")
    assert "model.safetensors" not in hub.api().list_repo_files("me/toy-lora")
    again = loading.load("me/toy-lora", auto="AutoModelForPreTraining")
    values = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False] * 3] * 2)
    with torch.no_grad():
        first, second = adapted.eval()(values=values, mask=mask).loss, again.eval()(values=values, mask=mask).loss
        plain = toy(values=values, mask=mask).loss
    assert torch.allclose(first, second, atol=1e-6)
    assert not torch.allclose(first, plain, atol=1e-4)
    text = card(hub, "me/toy-lora")
    assert "base_model: me/toy" in text
    assert 'hub_mim.load("me/toy-lora", auto="AutoModelForPreTraining")' in text
    values = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    (tmp_path / "adapters" / "adapter_config.json").write_text(
        json.dumps(values | {"base_model_name_or_path": str(folder)})
    )
    with pytest.raises(ValueError, match="belong to a folder of this machine"):
        hub_mim.push(tmp_path / "adapters", "me/toy-lora")


def test_transformers_own_ways_work_as_well(hub, folder, toy):
    from transformers import AutoModel

    toy.push_to_hub("me/plain")
    assert same(AutoModel.from_pretrained("me/plain"), toy.toy)
    assert "hub-mim" in hub.api().model_info("me/plain").tags
    hub_mim.push(folder, "me/toy")
    toy.push_to_hub("me/toy", commit_message="Again")
    assert "| mae | 0.25 |" in card(hub)  # our card is kept


@pytest.mark.parametrize("strategy", ["end", "checkpoint"])
def test_a_run_pushes_itself(hub, tmp_path, strategy, capsys):
    """Trainer's own options; the last push is the run's folder, the card ours, and nobody's pickles are left at the top."""
    arguments = {
        "push_to_hub": True,
        "hub_strategy": strategy,
        "save_steps": 2,
        "eval_steps": 2,
        "hub_always_push": True,
    }
    hub_mim.pretrain("toy", "sample:toy", tmp_path / "mine", steps=4, arguments=arguments)
    files = hub.api().list_repo_files("me/mine")
    tops = {name for name in files if "/" not in name}
    assert tops == {
        "README.md",
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "run.json",
        "training.png",
    }
    assert ("last-checkpoint/optimizer.pt" in files) == (strategy == "checkpoint")
    assert same(loading.load("me/mine"), loading.load(tmp_path / "mine"))
    assert 'AutoModel.from_pretrained("me/mine")' in card(hub, "me/mine")
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["status"] == "finished"
    assert hub.token not in capsys.readouterr().err
    assert hub_mim.push(tmp_path / "mine", "me/mine").changed == ()


def test_a_trainer_of_ones_own_pushes_our_card(hub, tmp_path, toy):
    from transformers import TrainingArguments

    from hub_mim.trainer import MaskedTrainer

    arguments = TrainingArguments(str(tmp_path / "out"), report_to="none", use_cpu=True, hub_model_id="me/own")
    MaskedTrainer(toy, arguments).push_to_hub()
    assert 'AutoModel.from_pretrained("me/own")' in card(hub, "me/own")
    assert same(loading.load("me/own", auto="AutoModelForPreTraining"), toy)
    with pytest.raises(ValueError, match="hub_token would be pickled"):
        MaskedTrainer(toy, TrainingArguments(str(tmp_path / "out"), report_to="none", use_cpu=True, hub_token="hf_x"))


# --- the card ---


def test_the_card_names_the_repository_and_validates(hub, folder):
    from huggingface_hub import ModelCard

    hub_mim.push(folder, "me/toy")
    text = card(hub)
    assert 'AutoModel.from_pretrained("me/toy")' in text
    ModelCard(text).validate()
    assert hub.api().model_info("me/toy").model_index[0]["results"][0]["metrics"][0]["value"] == 0.25
    assert 'from_pretrained("model")' in (folder / "README.md").read_text()  # the folder's own card is as it was


def test_results_on_a_hubs_datasets_are_written_for_leaderboards(hub, folder):
    import yaml
    from huggingface_hub._eval_results import parse_eval_result_entries

    sharing.add_results(folder, [replace(RESULT, dataset_name="rows.csv", metric_type="rmse")])
    hub_mim.push(folder, "me/toy")
    with open(hub.api().hf_hub_download("me/toy", ".eval_results/hub_mim.yaml"), encoding="utf-8") as file:
        (entry,) = parse_eval_result_entries(yaml.safe_load(file))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/rows", "mean-error", 0.25)


def test_text_of_users_survives_a_second_push(hub, folder):
    hub_mim.push(folder, "me/toy")
    write_card(hub, card(hub) + "\nWritten on the Hub.\n")
    hub_mim.push(folder, "me/toy")
    hub_mim.push(folder, "me/toy")
    assert card(hub).count("Written on the Hub.") == 1
    with (folder / "README.md").open("a") as file:
        file.write("\nWritten here.\n")
    hub_mim.push(folder, "me/toy")
    assert card(hub).partition(USER_TEXT)[2].count("Written here.") == 1
    text = (folder / "README.md").read_text().replace("Written here.", "Changed here.")
    (folder / "README.md").write_text(text)
    hub_mim.push(folder, "me/toy")
    assert "Changed here." in card(hub)
    assert "Written here." not in card(hub)
    write_card(hub, card(hub) + "\nAdded on the Hub.\n")
    hub_mim.push(folder, "me/toy")
    assert all(words in card(hub) for words in ("Changed here.", "Added on the Hub."))
    sharing.add_results(folder, [replace(RESULT, metric_value=0.125)])
    hub_mim.push(folder, "me/toy")
    assert "| 0.125 |" in card(hub)
    assert "| 0.25 |" not in card(hub)
    assert all(card(hub).count(words) == 1 for words in ("Changed here.", "Added on the Hub.", USER_TEXT))


def test_a_card_that_was_there_before_is_kept(hub, folder):
    hub.api().create_repo("me/toy")
    write_card(hub, "---\nlicense: mit\n---\n# By hand\n")
    hub_mim.push(folder, "me/toy")
    assert card(hub).index(USER_TEXT) < card(hub).index("# By hand")
    assert hub.api().model_info("me/toy").card_data.license == "apache-2.0"


# --- pull and list ---


def test_pull_gives_back_what_was_pushed(hub, folder, tmp_path):
    pushed = hub_mim.push(folder, "me/toy", tag="v1")
    assert hub_mim.pull("me/toy", tmp_path / "copy", revision="v1") == pushed.commit
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert (tmp_path / "copy" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert not (tmp_path / "copy" / ".cache").exists()
    with pytest.raises(FileExistsError, match="overwrite"):
        hub_mim.pull("me/toy", tmp_path / "copy")
    (tmp_path / "copy" / "mine.txt").write_text("mine")
    (tmp_path / "copy" / "model-00001-of-00002.safetensors").write_text("stale")
    hub_mim.pull("me/toy", tmp_path / "copy", overwrite=True)
    assert (tmp_path / "copy" / "mine.txt").exists()
    assert not (tmp_path / "copy" / "model-00001-of-00002.safetensors").exists()
    assert hub_mim.push(tmp_path / "copy", "me/toy").changed == ("mine.txt",)


def test_list(hub, folder):
    hub_mim.push(folder, "me/toy")
    hub.api().create_repo("me/else")
    (row,) = hub_mim.listed()
    assert (row["repository"], row["method"], row["installed"], row["private"]) == ("me/toy", "toy", True, False)
    assert row["tags"] == ["vector"]
    assert hub_mim.listed(search="toy")
    assert hub_mim.listed(search="nothing") == []


def test_a_missing_plugin_is_named_from_the_list(hub, folder, absent):
    config = json.loads((folder / "config.json").read_text())
    kind, distribution = absent
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    for path in (folder / "config.json", folder / "model.safetensors"):
        hub.api().create_repo("me/other", exist_ok=True)
        hub.api().upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id="me/other")
    with pytest.raises(ValueError, match=f"pip install {distribution}, then put the line `import hub_mim`"):
        hub_mim.load("me/other")


# --- refusals ---


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"x"), "optimizer.pt .* is a pickle"),
        (lambda folder: (folder / "config.json").unlink(), "is no checkpoint"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 9), "is damaged"),
        (lambda folder: (folder / "notes.txt").write_text("hf_" + "a" * 34), "notes.txt .* holds a token"),
    ],
)
def test_what_is_not_pushed(hub, folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        hub_mim.push(folder, "me/toy")
    assert not hub.api().repo_exists("me/toy")


def test_the_token_in_use_is_found_wherever_it_stands(hub, folder):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"data": f"https://x:{hub.token}@host/rows"}))
    with pytest.raises(ValueError, match="run.json .* holds a token"):
        hub_mim.push(folder, "me/toy")


def test_answers_of_the_hub_are_one_sentence(hub, folder, tmp_path):
    with pytest.raises(ValueError, match="you may not|may not make repositories of you"):
        hub_mim.push(folder, "you/toy")
    with pytest.raises(ValueError, match="there is no repository me/nowhere"):
        hub_mim.pull("me/nowhere", tmp_path / "copy")
    hub_mim.push(folder, "me/toy")
    with pytest.raises(ValueError, match="no such revision"):
        hub_mim.pull("me/toy", tmp_path / "copy", revision="nowhere")
    with pytest.raises(ValueError, match="Invalid credentials"):
        hub_mim.push(folder, "me/toy", token="hf_wrong")
    with pytest.raises(ConnectionError, match="no Hub answers at http://127.0.0.1:9"):
        hub_mim.push(folder, "me/toy", endpoint="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="is no folder here"):
        hub_mim.push(tmp_path / "nowhere", "me/toy")
    assert not (tmp_path / "copy").exists()


def test_a_connection_that_another_thread_dropped_is_told_as_one(tmp_path, monkeypatch):
    """As huggingface_hub does where several files are fetched while the network is cut."""

    def dropped(*arguments, **options):
        return None.request()

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", dropped)
    with pytest.raises(ConnectionError, match="no Hub answers at"):
        hub_mim.pull("me/toy", tmp_path / "copy")


def test_somebody_else_was_faster(hub, folder, monkeypatch):
    hub_mim.push(folder, "me/toy")
    (folder / "notes.txt").write_text("mine")
    stage = staging.stage

    def slow(*arguments, **options):
        hub.api().upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="me/toy")
        return stage(*arguments, **options)

    monkeypatch.setattr("hub_mim.staging.stage", slow)
    with pytest.raises(RuntimeError, match="somebody else changed me/toy meanwhile"):
        hub_mim.push(folder, "me/toy")
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "C:/x", "a//x", ""])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="would leave the folder"):
        transfer.check_names(["config.json", name])


def test_a_hub_that_lists_such_names_writes_nothing(tmp_path, monkeypatch):
    siblings = [SimpleNamespace(rfilename=name) for name in ("config.json", "../../evil.txt")]
    api = SimpleNamespace(model_info=lambda *a, **k: SimpleNamespace(siblings=siblings, sha="0" * 40))
    monkeypatch.setattr(transfer, "client", lambda *a: api)
    with pytest.raises(ValueError, match="would leave the folder"):
        hub_mim.pull("me/x", tmp_path / "in" / "copy")
    assert list(tmp_path.rglob("*.txt")) == []


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "README.md"])
def test_what_rots_in_the_cache_is_not_pulled(hub, folder, tmp_path, name):
    """One bit of a large file, which still loads, or of a small one."""
    hub_mim.push(folder, "me/toy")
    hub_mim.pull("me/toy", tmp_path / "first")
    kept = next(path for path in (tmp_path / "cache").rglob(name) if "snapshots" in path.parts).resolve()
    content = bytearray(kept.read_bytes())
    content[-9] ^= 1
    kept.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} of me/toy was damaged in the cache, and is deleted there; pull it"):
        hub_mim.pull("me/toy", tmp_path / "second")
    assert not (tmp_path / "second").exists()
    hub_mim.pull("me/toy", tmp_path / "second")
    assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


# --- what strangers made ---


def upload(hub, folder, name="me/bad"):
    hub.api().create_repo(name, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            hub.api().upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=name)


def test_a_pickle_on_a_hub_is_neither_loaded_nor_pulled(hub, folder, toy, tmp_path, capsys):
    (folder / "model.safetensors").unlink()
    torch.save(toy.state_dict(), folder / "pytorch_model.bin")
    upload(hub, folder)
    with pytest.raises(ValueError, match="safetensors are needed"):
        hub_mim.load("me/bad")
    with pytest.raises(ValueError, match="safetensors are needed"):
        hub_mim.pull("me/bad", tmp_path / "copy")
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_code_on_a_hub_is_not_run(hub, folder, tmp_path, capsys):
    """Neither for a model that no plugin has, nor in place of a plugin's own class; nor is it pulled."""
    marker = tmp_path / "executed"
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nfrom hub_mim_toy.configuration_toy import ToyMimConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.ToyMimConfig", "AutoModel": "evil.ToyMimModel"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    upload(hub, folder)
    assert type(hub_mim.load("me/bad")).__module__ == "hub_mim_toy.modeling_toy"
    assert type(hub_mim.load("me/bad", trust_remote_code=True)).__module__ == "hub_mim_toy.modeling_toy"
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map, "model_type": "evil"}))
    upload(hub, folder)
    with pytest.raises(ValueError, match="code that its repository carries is not run"):
        hub_mim.load("me/bad")
    assert not marker.exists()
    hub_mim.pull("me/bad", tmp_path / "copy")
    assert "left out, because they could execute code: evil.py" in capsys.readouterr().err
    assert not (tmp_path / "copy" / "evil.py").exists()


def damage(change):
    def spoil(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def reconfigure(**values):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return spoil


def point_elsewhere(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage(lambda content: content[:-5]), r"model\.safetensors of me/bad is damaged"),
        (damage(lambda content: content[:20]), "is damaged"),
        (damage(lambda content: b"\xff" * 8 + content[8:]), "is damaged"),
        (damage(lambda content: b""), "is damaged"),
        (damage(lambda content: content[:8] + b"x" * 40 + content[48:]), "is damaged"),
        (point_elsewhere, r"names the file '\.\./\.\./secret\.safetensors', which is not in it"),
        (reconfigure(intermediate_size=80), r"of shape \(32,\), by its config.json it would be \(80,\)"),
        (reconfigure(num_hidden_layers=2), "lacks 16 of the weights of ToyMimModel"),
        (reconfigure(model_type="bert"), "of the weights of BertModel"),
        (reconfigure(model_type="remasker"), "has the field '[a-z_]+', which hub-mim-remasker"),
        (reconfigure(new_field=1), "has the field 'new_field', which hub-mim-toy .* does not know; it is of a newer version"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must be an object, not list"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    ],
)  # fmt: skip
def test_spoiled_checkpoints_are_clear_errors_and_do_not_poison_the_cache(hub, folder, toy, spoil, message):
    good = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    spoil(folder)
    upload(hub, folder)
    with pytest.raises(ValueError, match=message):
        hub_mim.load("me/bad")
    for path in folder.iterdir():
        if path.is_file() and path.name not in good:
            hub.api().delete_file(path.name, "me/bad")
            path.unlink()
    for name, content in good.items():
        (folder / name).write_bytes(content)
    upload(hub, folder)
    assert same(hub_mim.load("me/bad"), toy.toy)


def test_the_shim_loads_without_importing_the_hub(hub, folder, tmp_path, toy):
    hub_mim.push(folder, "me/toy", remote_shim=True)
    code = "from transformers import AutoModel, AutoProcessor; "
    load = "m = AutoModel.from_pretrained('me/toy', trust_remote_code={}); print(type(m).__name__)"
    environment = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home")}

    def run(trust):
        return subprocess.run(
            [sys.executable, "-c", code + load.format(trust)], capture_output=True, text=True, env=environment
        )

    told = run(True)
    assert told.stdout.strip() == "ToyMimModel", told.stderr
    assert run(False).returncode != 0
    assert type(hub_mim.load("me/toy")).__module__ == "hub_mim_toy.modeling_toy"
    again = hub_mim.push(folder, "me/toy")
    assert "hub_mim_shim.py" in again.changed  # without the option it goes again


def test_no_token_is_written_anywhere(hub, folder, tmp_path, capsys):
    hub_mim.push(folder, "me/toy")
    hub_mim.pull("me/toy", tmp_path / "copy")
    told = capsys.readouterr()
    assert hub.token not in told.out + told.err
    for path in (*folder.rglob("*"), *(tmp_path / "copy").rglob("*"), *(tmp_path / "cache").rglob("*")):
        assert not path.is_file() or hub.token.encode() not in path.read_bytes()
