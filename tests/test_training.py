"""Pre-training end to end on the toy: folder, record, named losses, seeds, refusal, adapters, start from a checkpoint."""

import dataclasses
import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

import hub_mim
from hub_mim import loading, plugins, run_folder, sharing, training
from hub_mim.callbacks import Flow
from hub_mim.run import Run
from hub_mim.starting import make_model, make_processor
from hub_mim.training import load_matching, pretrain
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.example import sample
from hub_mim_toy.modeling_toy import ToyMimForPreTraining
from hub_mim_toy.processing_toy import ToyMimProcessor


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run, looked at by several tests."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    return pretrain("toy", "sample:toy", out, steps=20, seed=3), out


def test_the_folder_loads_and_tells_how_it_was_made(run):
    record, out = run
    again = Run.load(out)
    assert again == record
    assert (again.status, again.steps, again.rows, again.validation_rows) == ("finished", 20, 230, 26)
    assert again.fingerprint
    assert set(again.losses) == {"loss", "eval_loss", "eval_loss/hidden", "eval_loss/absolute"}
    assert again.versions["transformers"]
    assert again.best_step == max(
        line["step"] for line in again.history if line.get("eval_loss") == again.losses["eval_loss"]
    )
    assert (
        again.training_arguments["learning_rate"] == again.recipe["learning_rate"] == again.arguments["learning_rate"]
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "processor_config.json", "run.json", "training.png",
    ]  # fmt: skip
    assert AutoModel.from_pretrained(out).config.model_type == "toy_mim"
    text = (out / "run.json").read_text()
    assert str(out.parent) not in text.replace(str(out), "")


def test_a_run_repeats_bit_for_bit(run, tmp_path):
    _, out = run
    record = pretrain("toy", "sample:toy", tmp_path / "again", steps=20, seed=3)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    assert record.history == Run.load(out).history


def test_a_finished_run_is_not_overwritten_unasked(run):
    _, out = run
    before = (out / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        pretrain("toy", "sample:toy", out, steps=2)
    assert (out / "run.json").read_bytes() == before


def test_a_run_that_ended_before_its_record_was_written_does_not_stand_in_the_way(tmp_path):
    """The disk was full, or the process killed, between the lock and the record: the same call starts."""
    begun = tmp_path / "toy" / "checkpoints"
    begun.mkdir(parents=True)
    (begun / "lock").touch()
    (begun / ".run.json.0123abcd.partial").mkdir()
    assert run_folder.interrupted_run(tmp_path / "toy", False) is None
    for other in (begun / "mine.txt", tmp_path / "toy" / "mine.txt"):
        other.touch()
        with pytest.raises(FileExistsError, match="already exists"):
            run_folder.interrupted_run(tmp_path / "toy", False)
        other.unlink()


def test_an_interrupted_run_with_other_settings_is_refused(run, tmp_path):
    record, _ = run
    Run.from_dict({**record.to_dict(), "status": "running"}).save(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="interrupted run with other settings: seed was 3 and is now 4; repeat those"):
        pretrain("toy", "sample:toy", tmp_path, steps=20, seed=4, validation=0.1)


def test_a_finished_run_stays_whole_until_its_successor_is(run, tmp_path, monkeypatch):
    _, first = run
    out = tmp_path / "out"
    shutil.copytree(first, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hub_mim.training._finish", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain("toy", "sample:toy", out, steps=4, seed=5, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    monkeypatch.undo()
    assert pretrain("toy", "sample:toy", out, steps=4, seed=5).steps == 4
    assert Run.load(out).seed == 5
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"preset": "tinny"}, "no preset 'tinny'; did you mean 'tiny'"),
        ({"config": {"hiden_size": 8}}, "no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"arguments": {"learning_rat": 1}}, "no field 'learning_rat'; did you mean 'learning_rate'"),
        ({"validation": 1.0}, "validation share is 1.0"),
        ({"lora": True}, "lora needs a checkpoint"),
        ({"columns": {"nothing": "values"}}, "no column 'nothing'"),
        ({"arguments": {"output_dir": "x"}}, "output_dir is no argument to pass on"),
        ({"arguments": {"hub_token": "x"}}, "hub_token is no argument to pass on"),
        ({"batch_size": 0}, "per_device_train_batch_size is 0; it must be above 0"),
        ({"early_stopping": 2, "validation": 0}, "early stopping needs held-out rows"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(tmp_path, fields, text):
    with pytest.raises(ValueError, match=text):
        pretrain("toy", "sample:toy", tmp_path / "out", steps=2, **fields)
    assert not (tmp_path / "out").exists()


def test_a_run_that_ended_in_the_meantime_is_not_overwritten(tmp_path, monkeypatch):
    out, fit = tmp_path / "out", training.make_model

    def meanwhile(*args, **kwargs):
        monkeypatch.undo()
        pretrain("toy", "sample:toy", out, steps=2, seed=1)
        return fit(*args, **kwargs)

    monkeypatch.setattr(training, "make_model", meanwhile)
    with pytest.raises(RuntimeError, match="in the meantime"):
        pretrain("toy", "sample:toy", out, steps=2, seed=2)
    assert Run.load(out).seed == 1


def test_a_whole_number_is_taken_for_a_float_where_a_field_holds_one():
    config = make_model(plugins.get_method("toy"), "tiny", {"mask_ratio": 0}).config
    assert (config.mask_ratio, type(config.mask_ratio)) == (0.0, float)


def test_an_unknown_method_gets_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="no method called 'toi' is installed; did you mean 'toy'"):
        pretrain("toi", "sample:toy", tmp_path / "out")


def test_starting_from_an_encoder(run, tmp_path):
    _, out = run
    AutoModel.from_pretrained(out).save_pretrained(tmp_path / "encoder")
    model = ToyMimForPreTraining(ToyMimConfig())
    count = load_matching(model, str(tmp_path / "encoder"))
    assert count == len(model.toy.state_dict())
    expected = AutoModel.from_pretrained(out).state_dict()
    assert all(torch.equal(model.toy.state_dict()[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="no weight of"):
        load_matching(
            ToyMimForPreTraining(ToyMimConfig(hidden_size=8, num_channels=5, intermediate_size=4)),
            str(tmp_path / "encoder"),
        )


def test_a_checkpoint_tells_the_size_and_the_processor_of_the_run_it_starts(tmp_path, capsys):
    """Without a preset of its own, a run from a wide checkpoint is wide, and scales rows as the checkpoint did."""
    wide = ToyMimForPreTraining(ToyMimConfig(hidden_size=24, num_attention_heads=4))
    sharing.save(tmp_path / "wide", wide, ToyMimProcessor(factor=0.25))
    record = pretrain(
        "toy", "sample:toy", tmp_path / "out", steps=1, init_from=str(tmp_path / "wide"), learning_rate=1e-9
    )
    assert (record.preset, record.config["hidden_size"], record.config["num_attention_heads"]) == (None, 24, 4)
    assert loading.load_processor(tmp_path / "out").factor == 0.25
    count = len(wide.state_dict())
    assert f"{count} of {count} tensors" in capsys.readouterr().err
    trained = AutoModelForPreTraining.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.allclose(trained[name], value, atol=1e-6) for name, value in wide.state_dict().items())


def test_what_does_not_match_is_told(tmp_path, capsys):
    sharing.save(tmp_path / "flat", ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1, intermediate_size=40)))
    load_matching(ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1)), str(tmp_path / "flat"))
    told = capsys.readouterr().err
    assert "new: toy.layers.0.mlp.fc1.weight" in told
    assert "not used: decoder.0.bias (40,)" in told


@pytest.fixture(scope="module")
def adapted(run, tmp_path_factory):
    """A run that trained adapters on the first one's weights."""
    _, out = run
    place = tmp_path_factory.mktemp("lora") / "out"
    outputs = []
    usual = training._finish

    def spy(trainer, *rest):
        values, mask = values_of(4)
        with torch.no_grad():
            outputs.append(trainer.model.eval()(values=values, mask=mask).predictions)
        usual(trainer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_finish", spy)
        record = pretrain("toy", "sample:toy", place, steps=5, init_from=str(out), lora=True, learning_rate=0.01)
    return record, place, outputs[0]


def values_of(count):
    return torch.tensor([row["values"] for row in sample(count)]), torch.arange(6).expand(count, 6) % 2 == 0


def test_adapters_change_only_their_targets(run, adapted):
    _, out = run
    record, place, _ = adapted
    assert record.lora
    before, after = (AutoModelForPreTraining.from_pretrained(folder).state_dict() for folder in (out, place))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}


def test_merged_adapters_give_what_they_gave_apart(adapted):
    _, place, apart = adapted
    values, mask = values_of(4)
    merged = AutoModelForPreTraining.from_pretrained(place).eval()
    with torch.no_grad():
        assert torch.allclose(merged(values=values, mask=mask).predictions, apart, atol=1e-6)


def test_an_interrupted_run_of_adapters_ends_as_a_whole_one(run, tmp_path, capsys):
    _, out = run
    fields = {"steps": 6, "init_from": str(out), "lora": True, "arguments": {"save_steps": 2}}
    pretrain("toy", "sample:toy", tmp_path / "whole", **fields)
    with interruption_at(4), pytest.raises(KeyboardInterrupt):
        pretrain("toy", "sample:toy", tmp_path / "broken", **fields)
    pretrain("toy", "sample:toy", tmp_path / "broken", **fields)
    assert "going on from step 4" in capsys.readouterr().err
    whole, broken = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    fields = {"steps": 8, "batch_size": 4, "arguments": {"save_steps": 2}}
    pretrain("toy", "sample:toy", tmp_path / "whole", **fields)
    with interruption_at(5), pytest.raises(KeyboardInterrupt):
        pretrain("toy", "sample:toy", tmp_path / "broken", **fields)
    (tmp_path / "broken" / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    pretrain("toy", "sample:toy", tmp_path / "broken", **fields)
    told = capsys.readouterr().err
    assert "passing over checkpoint-4: optimizer.pt is missing" in told
    assert "going on from step 2" in told
    whole, broken = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


@contextmanager
def interruption_at(step):
    """Ends a training when it has taken so many steps and written their checkpoint."""

    def cut(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "on_step_begin", cut)
        yield


def test_early_stopping_ends_a_run_that_gains_nothing(tmp_path):
    record = pretrain(
        "toy",
        "sample:toy",
        tmp_path / "out",
        steps=40,
        early_stopping=2,
        learning_rate=1e-30,
        arguments={"eval_steps": 2},
    )
    assert (record.steps, record.best_step) == (6, 2)


def test_rows_are_encoded_once_where_the_processor_says_so(tmp_path, monkeypatch):
    calls = []
    usual = ToyMimProcessor.__call__

    def counted(self, values, return_tensors="pt", **kwargs):
        calls.append(len(values))
        return usual(self, values, return_tensors, **kwargs)

    monkeypatch.setattr(ToyMimProcessor, "__call__", counted)
    monkeypatch.setattr(ToyMimProcessor, "encode_once", True, raising=False)
    once = pretrain("toy", sample(20), tmp_path / "once", steps=8, batch_size=4)
    assert calls == [18, 2]
    monkeypatch.setattr(ToyMimProcessor, "encode_once", False)
    again = pretrain("toy", sample(20), tmp_path / "again", steps=8, batch_size=4)
    assert once.history == again.history
    assert once.data == "in memory: list"


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_an_image_processor_is_chosen_by_what_is_installed(monkeypatch, backend):
    kinds = {"pil": "hub_mim_toy.processing_toy:ToyMimProcessor", "torchvision": "transformers:ProcessorMixin"}
    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: backend == "torchvision")
    method = dataclasses.replace(plugins.get_method("toy"), auto={"AutoImageProcessor": kinds})
    assert type(make_processor(method, [])).__name__ == kinds[backend].partition(":")[2]


def test_a_method_without_processor_is_told():
    method = dataclasses.replace(plugins.get_method("toy"), auto={})
    with pytest.raises(ValueError, match="toy declares no processor"):
        make_processor(method, [])


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sample(30)))
    return path


def test_a_stream_needs_a_number_of_steps(jsonl, tmp_path):
    with pytest.raises(ValueError, match="--steps"):
        pretrain("toy", jsonl, tmp_path / "out", streaming=True, validation=0)


def test_a_streaming_run_goes_on_in_a_later_pass_as_if_never_interrupted(jsonl, tmp_path, capsys):
    fields = {"streaming": True, "steps": 12, "batch_size": 4, "arguments": {"save_steps": 3, "logging_steps": 2}}
    whole = pretrain("toy", jsonl, tmp_path / "whole", **fields)
    with interruption_at(9), pytest.raises(KeyboardInterrupt):  # 36 rows of about 27: in the second pass
        pretrain("toy", jsonl, tmp_path / "broken", **fields)
    again = pretrain("toy", jsonl, tmp_path / "broken", **fields)
    assert "going on from step 9" in capsys.readouterr().err
    assert again.history == whole.history
    assert whole.rows is None
    assert "eval_loss" in whole.losses


def test_tensorboard_logs_are_kept(tmp_path):
    pretrain("toy", "sample:toy", tmp_path / "out", steps=2, arguments={"report_to": "tensorboard"})
    assert list((tmp_path / "out" / "runs").rglob("events.out.tfevents.*"))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_public_names():
    assert hub_mim.pretrain is pretrain
    assert hub_mim.Run is Run


def test_on_finish_gets_the_held_out_batches_once(tmp_path, monkeypatch):
    calls = []

    def finish(model, batches, seed):
        calls.append((type(model).__name__, sum(len(batch["row_index"]) for batch in batches), seed))

    method = plugins.get_method("toy")
    monkeypatch.setattr("hub_mim_toy.example.finish", finish, raising=False)
    changed = dataclasses.replace(method, on_finish="hub_mim_toy.example:finish")
    monkeypatch.setitem(plugins._state().methods, "toy", changed)
    training.pretrain("toy", "sample:toy", tmp_path / "run", steps=2, validation=0.25, seed=3)
    training.pretrain("toy", "sample:toy", tmp_path / "all", steps=2, validation=0.0, seed=3)
    run = Run.load(tmp_path / "run")
    assert calls == [("ToyMimForPreTraining", run.validation_rows, 3)]
