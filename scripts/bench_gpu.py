"""Time training steps of the presets on an accelerator: forward, backward, fused AdamW; prints JSON.

Each line: milliseconds (the least of several windows), rows a second, share of the peak that was measured by a matrix
product of the same type in the same process, peak memory.

    python scripts/bench_gpu.py --repeats 3
"""

import argparse
import json
from typing import Any

import torch

from hub_mim import plugins
from hub_mim.method import resolve
from hub_mim.speed import peak_flops

# method, preset, rows, overrides of the configuration
PLANS: tuple[tuple[str, str, int], ...] = (
    ("mwmae", "nano", 256),
    ("mwmae", "base", 64),
    ("mwmae", "base-mae", 64),
    ("multimae", "base", 64),
    ("remasker", "default", 1024),
)


def inputs(name: str, config: Any, rows: int) -> dict[str, torch.Tensor]:
    """Return random rows of a method's shapes."""
    if name == "mwmae":
        return {"input_values": torch.randn(rows, *config.spectrogram_size)}
    if name == "remasker":
        return {"values": torch.rand(rows, config.num_columns)}
    made: dict[str, torch.Tensor] = {}
    for each in config.modalities:
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        if each.get("kind") == "categorical":
            made[each["name"]] = torch.randint(0, each["num_classes"], (rows, size // 4, size // 4))
        else:
            made[each["name"]] = torch.rand(rows, each["channels"], size, size)
    return made


def timed(step: Any, repeats: int, times: int = 10) -> float:
    """Return milliseconds a call: the least mean over several windows, after warming up."""
    for _ in range(5):
        step()
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(times):
            step()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / times)
    return min(found)


def measure(name: str, preset: str, rows: int, half: bool, repeats: int, best: float) -> dict[str, Any]:
    """Time one preset."""
    method = plugins.get_method(name)
    config = resolve(method.config)(**method.presets[preset])
    model = resolve(str(method.auto["AutoModelForPreTraining"]))(config).cuda().train()
    batch = {key: value.cuda() for key, value in inputs(name, config, rows).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seeds = torch.arange(rows, device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = model(**batch, row_seed=seeds).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.cuda.reset_peak_memory_stats()
    spent = timed(step, repeats)
    told = {"method": name, "preset": preset, "rows": rows, "bf16": half, "ms": round(spent, 2)}
    told |= {"rows_per_s": round(rows / spent * 1000), "peak_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return told | {"share_of_peak": round(counter.get_total_flops() / (spent / 1000) / best, 3)}


def main() -> None:
    """Print one line a plan and type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    best = {half: peak_flops("cuda", "bfloat16" if half else "float32") for half in (False, True)}
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps(facts | {"peak_TFLOPS": {"fp32": best[False] / 1e12, "bf16": best[True] / 1e12}}), flush=True)
    for name, preset, rows in PLANS:
        for half in (False, True):
            try:
                told = measure(name, preset, rows, half, options.repeats, best[half])
            except Exception as error:
                told = {"method": name, "preset": preset, "bf16": half, "error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
