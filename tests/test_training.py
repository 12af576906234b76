"""Pre-training end to end on the toy: folder, record, named losses, seeds, refusal, adapters, start from a checkpoint."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, TrainingArguments

import hub_mim
from hub_mim.data import Collator, Rows, load_rows
from hub_mim.masking import row_seeds
from hub_mim.run import Run
from hub_mim.trainer import EVALUATION, KeepBest, MaskedTrainer
from hub_mim.training import load_matching, pretrain
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.example import sample
from hub_mim_toy.modeling_toy import ToyMimForPreTraining
from hub_mim_toy.processing_toy import ToyMimProcessor


def arguments(folder, **fields):
    defaults = {"max_steps": 6, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
    defaults |= {"use_cpu": True, "remove_unused_columns": False, "disable_tqdm": True, "logging_steps": 2}
    return TrainingArguments(str(folder), **{**defaults, "logging_nan_inf_filter": False, **fields})


def as_rows(records):
    return Rows(load_rows(records))


def trainer(folder, model=None, rows=None, **fields):
    torch.manual_seed(0)
    model = model or ToyMimForPreTraining(ToyMimConfig())
    extra = {name: fields.pop(name) for name in ("on_step", "callbacks", "eval_dataset", "decay_all") if name in fields}
    return MaskedTrainer(
        model=model,
        args=arguments(folder, **fields),
        train_dataset=as_rows(rows or sample(16)),
        data_collator=Collator(ToyMimProcessor()),
        **extra,
    )


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
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "processor_config.json", "run.json",
    ]  # fmt: skip
    assert AutoModel.from_pretrained(out).config.model_type == "toy_mim"
    text = (out / "run.json").read_text()
    assert str(out.parent) not in text.replace(str(out), "")


def test_a_run_repeats_bit_for_bit(run, tmp_path):
    _, out = run
    pretrain("toy", "sample:toy", tmp_path / "again", steps=20, seed=3)
    first, again = (AutoModelForPreTraining.from_pretrained(place) for place in (out, tmp_path / "again"))
    assert all(torch.equal(first.state_dict()[name], value) for name, value in again.state_dict().items())


def test_a_finished_run_is_not_overwritten_unasked(run):
    _, out = run
    before = (out / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        pretrain("toy", "sample:toy", out, steps=2)
    assert (out / "run.json").read_bytes() == before


def test_an_interrupted_run_with_other_settings_is_refused(run, tmp_path):
    record, _ = run
    record = Run.from_dict({**record.to_dict(), "status": "running"})
    record.save(tmp_path)
    with pytest.raises(ValueError, match="other settings: .*seed was 3 and is now 4|other settings"):
        pretrain("toy", "sample:toy", tmp_path, steps=20, seed=4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"preset": "tinny"}, "no preset 'tinny'; did you mean 'tiny'"),
        ({"config": {"hiden_size": 8}}, "no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"arguments": {"learning_rat": 1}}, "no field 'learning_rat'; did you mean 'learning_rate'"),
        ({"validation": 1.0}, "validation share is 1.0"),
        ({"lora": True}, "lora needs a checkpoint"),
        ({"columns": {"nothing": "values"}}, "no column 'nothing'"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(tmp_path, fields, text):
    with pytest.raises(ValueError, match=text):
        pretrain("toy", "sample:toy", tmp_path / "out", steps=2, **fields)
    left = tmp_path / "out"
    assert not left.exists() or not list(left.glob("*.safetensors"))


def test_an_unknown_method_gets_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="no method called 'toi' is installed; did you mean 'toy'"):
        pretrain("toi", "sample:toy", tmp_path / "out")


def test_named_losses_are_logged_and_add_up(tmp_path):
    made = trainer(tmp_path, max_steps=4, logging_steps=2)
    made.train()
    lines = [line for line in made.state.log_history if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        total = line["loss/hidden"] + 0.1 * line["loss/absolute"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)


def test_each_row_gets_the_seed_of_its_number_and_epoch(tmp_path):
    seen = []

    class Spy(ToyMimForPreTraining):
        def forward(self, values, mask=None, row_seed=None, generator=None, return_loss=True, **kwargs):
            seen.append((self.training, row_seed.tolist()))
            return super().forward(values, mask, row_seed, generator, return_loss, **kwargs)

    torch.manual_seed(0)
    rows = sample(8)
    made = trainer(tmp_path, Spy(ToyMimConfig()), rows, max_steps=4, eval_dataset=as_rows(rows[:4]))
    made.train()
    made.evaluate()
    for epoch, batches in ((0, seen[:2]), (1, seen[2:4])):
        expected = row_seeds(42, epoch, torch.arange(8)).tolist()
        assert sorted(value for _, batch in batches for value in batch) == sorted(expected)
    assert seen[4] == (False, row_seeds(42, EVALUATION, torch.arange(4)).tolist())


def test_evaluation_is_the_same_each_time(tmp_path):
    made = trainer(tmp_path, eval_dataset=as_rows(sample(12)))
    first, again = made.evaluate(), made.evaluate()
    assert first["eval_loss"] == again["eval_loss"]
    assert first["eval_loss/hidden"] == again["eval_loss/hidden"]


def test_on_step_comes_after_each_step(tmp_path):
    calls = []
    made = trainer(
        tmp_path, max_steps=3, on_step=lambda model, step, total: calls.append((type(model).__name__, step, total))
    )
    made.train()
    assert calls == [("ToyMimForPreTraining", step, 3) for step in (1, 2, 3)]


def test_a_models_own_parameter_groups_are_used(tmp_path):
    class Grouped(ToyMimForPreTraining):
        def parameter_groups(self):
            slow = [self.mask_token]
            rest = [weight for weight in self.parameters() if weight is not self.mask_token]
            return [{"params": rest}, {"params": slow, "lr": 1e-5, "weight_decay": 0.0}]

    made = trainer(tmp_path, Grouped(ToyMimConfig()), weight_decay=0.3)
    groups = made.create_optimizer().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert groups[1]["lr"] == 1e-5


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_on_norms_only_if_asked(tmp_path, decay_all):
    made = trainer(tmp_path, decay_all=decay_all)
    names = made.get_decay_parameter_names(made.model)
    assert ("toy.layernorm.weight" in names) == decay_all
    assert "toy.embed.weight" in names


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    rows = [{"values": [[float("nan")] * 3] * 6} for _ in range(8)]
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        trainer(tmp_path, rows=rows).train()


def test_keep_best_puts_the_best_weights_back(tmp_path):
    best = KeepBest(patience=1)
    made = trainer(
        tmp_path,
        max_steps=200,
        learning_rate=0.3,
        eval_strategy="steps",
        eval_steps=5,
        eval_dataset=as_rows(sample(8, 1)),
        callbacks=[best],
    )
    made.train()
    assert made.state.global_step < 200
    assert made.evaluate()["eval_loss"] == pytest.approx(best.best)


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


def test_adapters_change_only_their_targets(run, tmp_path):
    _, out = run
    record = pretrain(
        "toy", "sample:toy", tmp_path / "lora", steps=5, init_from=str(out), lora=True, learning_rate=0.01
    )
    assert record.lora
    before, after = (AutoModelForPreTraining.from_pretrained(place).state_dict() for place in (out, tmp_path / "lora"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("q_proj.weight" in name or "v_proj.weight" in name for name in changed)


def test_plain_trainer_runs_as_well(tmp_path):
    from transformers import Trainer

    model = ToyMimForPreTraining(ToyMimConfig())
    plain = Trainer(model=model, args=arguments(tmp_path), train_dataset=as_rows(sample(8)), data_collator=lambda rows: {
        "values": torch.tensor([row["values"] for row in rows])
    })  # fmt: skip
    assert plain.train().global_step == 6


def test_a_stream_needs_a_number_of_steps(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sample(30)))
    with pytest.raises(ValueError, match="--steps"):
        pretrain("toy", path, tmp_path / "out", streaming=True, validation=0)
    record = pretrain("toy", path, tmp_path / "out2", streaming=True, validation=0, steps=4)
    assert record.steps == 4


def test_tensorboard_logs_are_kept(tmp_path):
    pretrain("toy", "sample:toy", tmp_path / "out", steps=2, arguments={"report_to": "tensorboard"})
    assert list((tmp_path / "out" / "runs").rglob("events.out.tfevents.*"))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_public_names():
    assert hub_mim.pretrain is pretrain
    assert hub_mim.Run is Run
