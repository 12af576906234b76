"""MaskedTrainer on the toy: seeds, named losses, evaluation, optimiser, checkpoints and going on from them."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback

from hub_mim.callbacks import EarlyStopping, ProgressLine
from hub_mim.checkpoints import last_complete
from hub_mim.data import Collator
from hub_mim.masking import row_seeds
from hub_mim.schedules import warmup_cosine
from hub_mim.trainer import EVALUATION, KeepBest, MaskedTrainer
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.example import sample
from hub_mim_toy.modeling_toy import ToyMimForPreTraining

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import arguments, as_rows, interrupted_and_resumed, losses, same_weights, saving, trainer


class Watched(ToyMimForPreTraining):
    """Calls `watch(model, output)` with every output."""

    watch = None

    def forward(self, values, mask=None, row_seed=None, generator=None, return_loss=True, **kwargs):
        output = super().forward(values, mask, row_seed, generator, return_loss, **kwargs)
        self.watch(output)
        return output


# --- losses ---


def test_named_losses_are_logged_and_add_up(tmp_path):
    made = trainer(tmp_path, rows=sample(10), max_steps=6, logging_steps=3)  # the last batch of an epoch has two rows
    made.train()
    lines = [line for line in made.state.log_history if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        total = line["loss/hidden"] + 0.1 * line["loss/absolute"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)  # sums of float32


def test_an_evaluation_between_two_lines_does_not_disturb_the_named_losses(tmp_path):
    alone = trainer(tmp_path, max_steps=4, logging_steps=4)
    made = trainer(
        tmp_path, max_steps=4, logging_steps=4, eval_strategy="steps", eval_steps=3, eval_dataset=as_rows(sample(4))
    )
    alone.train()
    made.train()
    assert losses(made, "loss/hidden") == losses(alone, "loss/hidden")


def test_a_loss_that_some_steps_have_is_their_mean(tmp_path):
    values = iter([1.0, 2.0, 3.0, 4.0])

    class Tasks(Watched):
        def watch(self, output):
            value = next(values)
            output.losses = {"odd" if value % 2 else "even": torch.tensor(value)}

    made = trainer(tmp_path, Tasks, max_steps=4, logging_steps=4)
    made.train()
    line = made.state.log_history[0]
    assert (line["loss/odd"], line["loss/even"]) == (2.0, 3.0)


@pytest.mark.parametrize(("accumulation", "told"), [(1, "step 3 "), (2, "step 2 ")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_its_step(tmp_path, accumulation, told):
    calls = []

    class Breaks(Watched):
        def watch(self, output):
            calls.append(1)
            if len(calls) == 3:
                output.loss = output.loss * float("nan")

    made = trainer(tmp_path, Breaks, max_steps=8, logging_steps=4, gradient_accumulation_steps=accumulation)
    with pytest.raises(FloatingPointError, match=f"the loss is nan at {told}"):
        made.train()


def test_a_held_out_loss_that_is_no_number_stops_the_run(tmp_path):
    rows = as_rows([{"values": [[float("nan")] * 3] * 6} for _ in range(4)])
    with pytest.raises(FloatingPointError, match="the held-out loss is nan after step 2"):
        trainer(tmp_path, eval_dataset=rows, eval_strategy="steps", eval_steps=2).train()


# --- seeds and evaluation ---


def test_each_row_gets_the_seed_of_its_number_and_epoch(tmp_path):
    seen = []

    class Spy(ToyMimForPreTraining):
        def forward(self, values, mask=None, row_seed=None, generator=None, return_loss=True, **kwargs):
            seen.append((self.training, row_seed.tolist()))
            return super().forward(values, mask, row_seed, generator, return_loss, **kwargs)

    rows = sample(8)
    made = trainer(tmp_path, Spy, rows, max_steps=4, eval_dataset=as_rows(rows[:4]))
    made.train()
    made.evaluate()
    for epoch, batches in ((0, seen[:2]), (1, seen[2:4])):
        expected = row_seeds(42, epoch, torch.arange(8)).tolist()
        assert sorted(value for _, batch in batches for value in batch) == sorted(expected)
    assert seen[4] == (False, row_seeds(42, EVALUATION, torch.arange(4)).tolist())


def test_adapters_do_not_hide_that_a_model_takes_seeds(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(ToyMimForPreTraining(ToyMimConfig()), LoraConfig(target_modules=["q_proj"]))
    made = trainer(tmp_path, model, eval_dataset=as_rows(sample(8)))
    assert made.takes_seed
    assert made.evaluate()["eval_loss"] == made.evaluate()["eval_loss"]


def test_workers_change_nothing(tmp_path):
    alone, helped = (trainer(tmp_path, max_steps=6, logging_steps=1, dataloader_num_workers=n) for n in (0, 2))
    alone.train()
    helped.train()
    assert losses(alone) == losses(helped)


def test_accumulated_steps_are_steps_of_the_whole_batch(tmp_path):
    whole = trainer(tmp_path, per_device_train_batch_size=8, logging_steps=1)
    parts = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, logging_steps=1)
    whole.train()
    parts.train()
    for one, other in zip(whole.state.log_history, parts.state.log_history, strict=False):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["loss/hidden"] == pytest.approx(other["loss/hidden"], rel=1e-5)


def test_evaluation_is_the_same_each_time_and_in_other_batches(tmp_path):
    made = trainer(tmp_path, eval_dataset=as_rows(sample(10)), per_device_eval_batch_size=4)
    first, again = made.evaluate(), made.evaluate()
    for name in ("eval_loss", "eval_loss/hidden", "eval_loss/absolute"):
        assert first[name] == again[name]
    whole = trainer(tmp_path, made.model, eval_dataset=as_rows(sample(10)), per_device_eval_batch_size=10).evaluate()
    assert whole["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-5)  # the last batch of two weighs two rows
    assert whole["eval_loss/hidden"] == pytest.approx(first["eval_loss/hidden"], rel=1e-5)


def test_a_model_with_labels_is_evaluated_without_them(tmp_path):
    class Labelled(ToyMimForPreTraining):
        def forward(self, values, mask=None, row_seed=None, generator=None, return_loss=None, labels=None, **kwargs):
            return super().forward(values, mask, row_seed, generator, True, **kwargs)

    assert "eval_loss" in trainer(tmp_path, Labelled, eval_dataset=as_rows(sample(4))).evaluate()


# --- optimiser ---


def test_on_step_comes_after_each_step(tmp_path):
    calls = []

    def note(model, step, total):
        calls.append((type(model).__name__, step, total))

    trainer(tmp_path, max_steps=3, on_step=note).train()
    assert calls == [("ToyMimForPreTraining", step, 3) for step in (1, 2, 3)]


class Grouped(ToyMimForPreTraining):
    """Has a second learning rate for one parameter; forgets the parameters in `forgotten`."""

    forgotten = ()

    def parameter_groups(self):
        slow = [self.mask_token]
        named = dict(self.named_parameters())
        rest = [named[name] for name in named if name != "mask_token" and name not in self.forgotten]
        return [{"params": rest}, {"params": slow, "lr": 1e-5, "weight_decay": 0.0}]


def test_a_models_own_parameter_groups_are_used(tmp_path):
    made = trainer(tmp_path, Grouped, weight_decay=0.3)
    made.model.toy.embed.weight.requires_grad_(False)
    groups = made.create_optimizer().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert groups[1]["lr"] == 1e-5
    assert all(weight is not made.model.toy.embed.weight for weight in groups[0]["params"])


def test_parameter_groups_that_leave_a_weight_out_are_refused(tmp_path):
    class Forgetful(Grouped):
        forgotten = ("toy.embed.bias",)

    with pytest.raises(ValueError, match=r"leaves out toy\.embed\.bias"):
        trainer(tmp_path, Forgetful).create_optimizer()


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_on_norms_only_if_asked(tmp_path, decay_all):
    made = trainer(tmp_path, decay_all=decay_all)
    names = made.get_decay_parameter_names(made.model)
    assert ("toy.layernorm.weight" in names) == decay_all
    assert "toy.embed.weight" in names


def test_adamw_is_fused(tmp_path):
    assert trainer(tmp_path).create_optimizer().defaults["fused"]


def test_a_recipe_can_ask_for_the_authors_schedule(tmp_path):
    """Warm-up and half a cosine to a floor, step by step; a tenth of warm-up is rounded as `pretrain` does."""
    made = trainer(
        tmp_path,
        max_steps=12,
        learning_rate=1e-2,
        warmup_steps=3,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": 1e-4},
        logging_steps=1,
    )
    made.train()
    rates = [line["learning_rate"] for line in made.state.log_history if "learning_rate" in line]
    expected = [warmup_cosine(step, peak=1e-2, total=12, warmup=3, floor=1e-4) for step in range(12)]
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_gradients_are_clipped(tmp_path):
    norms = []

    class Note(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            norms.append(torch.stack([w.grad.norm() for w in model.parameters() if w.grad is not None]).norm().item())

    trainer(tmp_path, max_grad_norm=1e-3, callbacks=[Note()]).train()
    assert norms == pytest.approx([1e-3] * 6, rel=1e-2)  # torch adds 1e-6 to the norm it divides by


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path):
    seen = []

    class Spy(Watched):
        def watch(self, output):
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    made = trainer(tmp_path, Spy, bf16=True, max_steps=2)
    made.train()
    assert seen == [torch.bfloat16] * 2
    assert {weight.dtype for weight in made.model.parameters()} == {torch.float32}


def test_plain_trainer_runs_as_well(tmp_path):
    def collate(rows):
        return {"values": torch.tensor([row["values"] for row in rows])}

    model = ToyMimForPreTraining(ToyMimConfig())
    plain = Trainer(model=model, args=arguments(tmp_path), train_dataset=as_rows(sample(8)), data_collator=collate)
    assert plain.train().global_step == 6


# --- checkpoints ---


def test_a_resumed_run_logs_the_same_losses_whatever_the_logging_steps(tmp_path):
    whole = saving(tmp_path / "whole", logging_steps=3)
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "broken", 6, logging_steps=3)
    assert [step for step, _ in losses(whole)] == [3, 4, 6, 8, 9, 10]
    for name in ("loss", "loss/hidden"):
        assert losses(resumed, name) == losses(whole, name)
    assert same_weights(whole, resumed)


def test_going_on_from_the_last_checkpoint_takes_no_further_step(tmp_path):
    whole = saving(tmp_path)
    whole.train()
    again = saving(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert again.state.global_step == 10
    assert same_weights(whole, again)


@pytest.mark.parametrize("step", [6, 8])
def test_early_stopping_counts_on_after_an_interruption(tmp_path, step):
    """With a learning rate of 0 nothing is gained after the first evaluation, at step 2; the third without gain is at 8."""
    fields = {"learning_rate": 0.0, "max_steps": 20, "save_steps": 2, "eval_steps": 2, "eval_strategy": "steps"}
    fields |= {"eval_dataset": as_rows(sample(8)), "callbacks": [EarlyStopping(3)]}
    if step == 8:  # killed when all was done but the end
        saving(tmp_path, **fields).train()
        resumed = saving(tmp_path, **fields)
        resumed.train(resume_from_checkpoint=str(last_complete(tmp_path)))
    else:
        resumed = interrupted_and_resumed(tmp_path, step, **fields)
    assert resumed.state.global_step == 8


class Taught(ToyMimForPreTraining):
    """Carries a running average that a shared model leaves out."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("average", torch.zeros(config.hidden_size))
        self._keys_to_ignore_on_save = {"average"}

    def forward(self, values, **kwargs):
        output = super().forward(values, **kwargs)
        output.loss = output.loss + self.average.sum() * self.mask_token.sum()
        return output


def follow(model, step, total):
    model.average.lerp_(model.toy.embed.bias.detach(), 0.5)


def test_teachers_are_in_checkpoints_and_not_in_what_is_shared(tmp_path):
    from safetensors.torch import load_file

    torch.manual_seed(0)
    whole = saving(tmp_path / "whole", Taught, on_step=follow)
    whole.train()
    torch.manual_seed(0)
    resumed = interrupted_and_resumed(tmp_path / "broken", 6, model=Taught, on_step=follow)
    assert whole.model.average.any()
    assert same_weights(whole, resumed)
    whole.model.save_pretrained(tmp_path / "shared")
    assert "average" not in load_file(tmp_path / "shared" / "model.safetensors")


def test_the_best_weights_come_back_though_the_folder_was_moved(tmp_path):
    def spoil(model, step, total):
        if step == 6:
            model.decoder[2].weight.data.mul_(100)

    fields = {"on_step": spoil, "eval_steps": 4, "eval_strategy": "steps", "load_best_model_at_end": True}
    fields |= {"eval_dataset": as_rows(sample(8, 1)), "max_steps": 16, "save_total_limit": 1}
    whole = saving(tmp_path / "whole", **fields)
    whole.train()
    best = whole.state.best_global_step
    assert best == 4
    shutil.move(tmp_path / "whole", tmp_path / "there")
    resumed = saving(tmp_path / "there", **fields)  # killed when only the best weights had to be put back
    resumed.train(resume_from_checkpoint=str(tmp_path / "there" / "checkpoint-16"))
    assert same_weights(whole, resumed)


def test_old_checkpoints_go_once_the_new_one_is_complete(tmp_path, monkeypatch):
    made = saving(tmp_path, save_steps=2, save_total_limit=2, max_steps=8)
    made.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-8"]

    def cut(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("hub_mim.trainer.mark_complete", cut)
    more = saving(tmp_path, save_steps=2, save_total_limit=1, max_steps=12)
    with pytest.raises(KeyboardInterrupt):
        more.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert (tmp_path / "checkpoint-10" / "model.safetensors").is_file()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-8"


def test_the_callers_arguments_stay_as_they_are(tmp_path):
    given = arguments(tmp_path, save_total_limit=3)
    made = MaskedTrainer(model=ToyMimForPreTraining(ToyMimConfig()), args=given, data_collator=Collator(None))
    assert (given.save_total_limit, given.logging_nan_inf_filter, made.keep) == (3, True, 3)


def test_keep_best_puts_the_best_weights_back(tmp_path):
    best = KeepBest(patience=1)
    fields = {"max_steps": 200, "learning_rate": 0.3, "eval_strategy": "steps", "eval_steps": 5}
    made = trainer(tmp_path, eval_dataset=as_rows(sample(8, 1)), callbacks=[best], **fields)
    made.train()
    assert made.state.global_step < 200
    assert made.evaluate()["eval_loss"] == pytest.approx(best.best)


def test_progress_is_one_line_a_log_with_the_latest_of_both_losses(tmp_path, capsys):
    fields = {"eval_dataset": as_rows(sample(4)), "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 2}
    made = trainer(tmp_path, max_steps=4, callbacks=[ProgressLine()], **fields)
    made.train()
    made.evaluate()
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/4", "4/4"]
    assert "eval_loss" not in lines[0]
    assert "eval_loss" in lines[1]
    assert lines[1].endswith("about 0 s left")
    assert out == ""
