"""What MaskedTrainer costs a step over a bare Accelerate loop: same toy model, rows, batch, optimiser, number of steps.

Interleaved, the minimum of several repeats, process CPU time, one thread; prints one JSON document.
    python scripts/bench_trainer.py
"""

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from hub_mim.data import Collator, EncodedRows
from hub_mim.masking import row_seeds
from hub_mim.trainer import MaskedTrainer
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.modeling_toy import ToyMimForPreTraining

BATCH, RATE = 8, 1e-3


def rows() -> EncodedRows:
    """Return encoded rows."""
    return EncodedRows({"values": torch.rand(512, 6, 3, generator=torch.Generator().manual_seed(0))})


def bare(steps: int) -> float:
    """Train with Accelerate alone; returns CPU seconds of the loop."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = ToyMimForPreTraining(ToyMimConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    loader = torch.utils.data.DataLoader(rows(), batch_size=BATCH, shuffle=True, collate_fn=lambda batch: batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    done, epoch, started = 0, 0, time.process_time()
    while done < steps:
        for batch in loader:
            seeds = row_seeds(0, epoch, batch.pop("row_index"))
            loss = model(**batch, row_seed=seeds).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
        epoch += 1
    return time.process_time() - started


class Clock:
    """Tells the CPU time between the first and the last step, as the bare loop does."""

    def __init__(self) -> None:
        from transformers import TrainerCallback

        outer = self

        class Callback(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                outer.started = time.process_time()

            def on_train_end(self, *args: Any, **kwargs: Any) -> None:
                outer.seconds = time.process_time() - outer.started

        self.callback = Callback()
        self.started = self.seconds = 0.0


def ours(steps: int) -> float:
    """Train with MaskedTrainer; returns CPU seconds of the loop."""
    torch.manual_seed(0)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = MaskedTrainer(
            model=ToyMimForPreTraining(ToyMimConfig()),
            args=TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                logging_steps=max(1, steps // 5),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                max_grad_norm=0.0,
                logging_nan_inf_filter=False,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows(),
            data_collator=Collator(None),
            callbacks=[clock.callback],
        )
        trainer.train()
    return clock.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bare(20), ours(20)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(options.repeats):
        times["bare"].append(bare(options.steps))
        times["ours"].append(ours(options.steps))
    best = {name: 1000 * min(values) / options.steps for name, values in times.items()}
    figures = {f"{name}_ms_per_step": round(value, 3) for name, value in best.items()}
    figures["overhead_ms_per_step"] = round(best["ours"] - best["bare"], 3)
    print(json.dumps(figures | {"steps": options.steps, "repeats": options.repeats, "batch": BATCH}, indent=2))


if __name__ == "__main__":
    main()
