"""Training: gradients reach every parameter, one batch is learned by heart, runs run."""

import io
import math
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from hub_mim.method import resolve
from hub_mim.testing.subject import SkipCheck, Subject, compare, own_fields, without_dropout


def check_gradients(subject: Subject) -> None:
    """Every trainable parameter gets a finite gradient over a few steps."""
    model = subject.model().train()
    for seed in range(4):
        model(**subject.batch(), row_seed=subject.seeds(seed)).loss.backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, f"{name} gets no gradient; what a step does not use is joined with weight 0"
            assert weight.grad.isfinite().all(), f"the gradient of {name} is not finite"
    dead = [
        n for n, w in model.named_parameters() if w.requires_grad and not w.grad.any() and not n.endswith("k_proj.bias")
    ]
    assert not dead, f"{dead} get no gradient but zero: the loss does not depend on them"


def check_overfits_one_batch(subject: Subject) -> None:
    """A hundred steps on one batch with one mask at least halve the loss."""
    model = without_dropout(subject.model().train())
    batch, mask = subject.batch(), subject.mask(subject.model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    for _ in range(100):
        loss = model(**batch, mask=mask).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], f"the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} only"


def check_pretrains(subject: Subject) -> None:
    """`pretrain` runs on the example's rows and its folder loads."""
    from hub_mim import loading
    from hub_mim.evaluation import masked_losses
    from hub_mim.training import pretrain

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fields = own_fields(subject.example.config)
        options: dict[str, Any] = {"steps": 3, "batch_size": 2, "validation": 0.25}
        with redirect_stderr(io.StringIO()):
            run = pretrain(
                subject.name,
                subject.rows,
                out,
                config=fields,
                processor=subject.example.processor,
                **options,
            )
        assert run.status == "finished"
        assert run.steps == 3
        model, processor = loading.load(out, auto="AutoModelForPreTraining"), loading.load_processor(out)
        draws = resolve(subject.method.draws) if subject.method.draws else None
        losses = masked_losses(model, processor, subject.rows, draws=draws)
        assert math.isfinite(losses["loss"]), f"the loss of the loaded model is {losses['loss']}"


def check_plain_trainer(subject: Subject) -> None:
    """transformers' own Trainer trains the model: steps are taken, the loss stays finite, evaluation has a loss."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from hub_mim.data import Collator

    options: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 2, "remove_unused_columns": False}
    quiet: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            subject.model(),
            TrainingArguments(folder, **options, **quiet),
            Collator(subject.example.processor),
            train_dataset=subject.rows,
            eval_dataset=subject.rows,
        )
        trainer.remove_callback(PrinterCallback)
        told = trainer.train()
        assert told.global_step == 3
        assert torch.tensor(told.training_loss).isfinite(), "the loss is not finite under transformers' Trainer"
        assert "eval_loss" in trainer.evaluate(), "transformers' Trainer finds no evaluation loss; see return_loss"


def check_adapters(subject: Subject) -> None:
    """Low-rank adapters train alone, and merged into the weights they compute the same."""
    if not subject.method.lora_targets:
        raise SkipCheck("the method declares no lora_targets")
    from peft import LoraConfig, get_peft_model

    targets = list(subject.method.lora_targets)
    model: Any = get_peft_model(subject.model(), LoraConfig(target_modules=targets, init_lora_weights=False))
    before = {name: weight.clone() for name, weight in model.named_parameters() if "lora_" not in name}
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained, f"no layer is called {targets}; see lora_targets"
    assert all("lora_" in name for name in trained), (
        f"{[n for n in trained if 'lora_' not in n]} would be trained as well"
    )
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    model(**subject.batch(), row_seed=subject.seeds()).loss.backward()
    optimizer.step()
    compare(before, {name: weight for name, weight in model.named_parameters() if name in before}, "the frozen weights")
    mask = subject.mask(subject.model())
    with torch.no_grad():
        beside = model.eval()(**subject.batch(), mask=mask)
        compare(beside, model.merge_and_unload()(**subject.batch(), mask=mask), "merged adapters", tolerance=1e-4)


def check_teachers_are_detached(subject: Subject) -> None:
    """The modules that the model lists as `teacher_modules` get no gradient and are left to `Method.on_step`."""
    model = subject.model().train()
    teachers = getattr(model, "teacher_modules", ())
    if not teachers:
        raise SkipCheck("the model lists no teacher_modules")
    model(**subject.batch(), row_seed=subject.seeds()).loss.backward()
    for name in teachers:
        for part, weight in model.get_submodule(name).named_parameters():
            assert not weight.requires_grad, f"{name}.{part} would be trained; set requires_grad to False"
            assert weight.grad is None, f"{name}.{part} gets a gradient; detach the teacher's output"
    assert subject.method.on_step, "a teacher needs Method.on_step, which moves it after each step"
