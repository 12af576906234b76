"""Time a training step of a method beside a plain one: forward, backward, AdamW; equal loss and gradients are asserted first.

Ours runs as `hub-mim pretrain` runs it: the fastest attention for device and number format, fused AdamW, the method's own
quick step where it has one. Beside it, with the same weights, rows and masks:

- plain: the same model with eager attention and torch's default AdamW;
- transformers (of mae, siglip2, lxmert): its own model with sdpa attention, with its default AdamW and with the fused one;
- options: ours with what `hub-mim pretrain` offers: compiled, gradients checkpointed, weights in bfloat16.

Interleaved in one process; the least process CPU time counts, on a GPU the least mean of several windows. The share of the
peak (MFU) is of a matrix product measured in the same number format in the same run; FLOPs are counted by torch, forward and
backward of ours. On a GPU also how long a batch takes to it, as it is and with its pictures as bytes, which are normalised there
(as `hub-mim pretrain` does). Prints JSON lines.

    python scripts/bench_step.py --method mae --against transformers --dtype bfloat16
    python scripts/bench_step.py --method mae --against options --dtype bfloat16
    python scripts/bench_step.py --method mae --against transformers --dtype bfloat16 --with "half weights"    # that, too
    python scripts/bench_step.py --method mae --against none --with checkpointing    # alone, with its memory
    python scripts/bench_step.py --gpu            # every row that a machine with a GPU can fill
"""

import argparse
import itertools
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hub_mim import plugins
from hub_mim.data import Collator
from hub_mim.half_weights import MasterWeights, castable
from hub_mim.method import resolve
from hub_mim.on_device import OnDevice, in_bytes
from hub_mim.samples import sample_rows
from hub_mim.speed import peak_flops
from hub_mim.starting import make_model, make_processor

OPTIONS = ("compiled", "checkpointing", "half weights")
KINDS = ("default", "fused")  # of AdamW, for transformers' models
WINDOW = 10  # steps between two looks at a GPU's clock
# method, preset, rows: the rows of a GPU
GPU = (
    ("mae", "base", 64),
    ("multimae", "base", 64),
    ("mwmae", "nano", 256),
    ("mwmae", "base", 64),
    ("mwmae", "base-mae", 64),
    ("siglip2", "base", 64),
    ("cfm_vit", "base", 64),
    ("uniter", "base", 64),
    ("lxmert", "base", 64),
    ("remasker", "default", 1024),
    ("bandana", "link", 4096),
)


class Side:
    """A model with its optimiser, and what gives the loss of the one batch."""

    def __init__(
        self, model: Any, loss: Callable[[], Tensor], device: str, half: bool, fused: bool, option: str | None = None
    ):
        self.model, self.loss, self.device, self.half = model.to(device).train(), loss, device, half
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(weights, lr=0.0, fused=fused)
        self.compiled = option == "compiled"
        if option == "checkpointing":
            model.activation_checkpointing_enable()
        if option == "half weights":
            self.optimizer = MasterWeights(self.optimizer, castable(model))

    def backward(self) -> Tensor:
        """Return the loss of the batch, after the backward pass."""
        with torch.autocast(self.device, torch.bfloat16) if self.half else nullcontext():
            loss = self.loss()
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """Take a step that leaves the weights as they are: the rate is 0."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def built(name: str, preset: str, rows: int, attention: str, device: str) -> tuple[Any, Callable[[], Tensor]]:
    """Return a method's model, always with the same weights, and its loss on rows of its sample data."""
    method = plugins.get_method(name)
    processor, chosen = rows_of(method, preset, rows)
    told = processor.config_arguments() if hasattr(processor, "config_arguments") else {}
    told |= {field: 0.0 for field in resolve(method.config)().to_dict() if "dropout" in field}  # else no two are equal
    torch.manual_seed(0)
    model = make_model(method, preset, told)
    if model._supports_sdpa:
        model.set_attn_implementation(attention)
    collate = Collator(processor, resolve(method.collator) if method.collator else None)
    batch = {key: value.to(device) for key, value in collate(chosen).items()}
    return model, loss_of(method, model, batch, torch.arange(len(chosen), device=device))


def rows_of(method: Any, preset: str, rows: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return a method's processor, and rows of its sample data."""
    given = resolve(method.sample_data)(rows, 0) if method.sample_data else sample_rows("breast_cancer", num_rows=rows)
    processor = make_processor(method, given, None, dict(method.presets[preset]))
    if hasattr(processor, "expand"):
        given = processor.expand(given, 0)
    return processor, [
        dict(given[row]) for row in range(min(rows, len(given)))
    ]  # a graph's is one row of so many nodes


def transfers(name: str, preset: str, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the megabytes of a batch and the least seconds until it is on the GPU as the model takes it."""
    method = plugins.get_method(name)
    processor, chosen = rows_of(method, preset, rows)
    travel = in_bytes(processor)
    kinds = {"as it is": (Collator(processor, resolve(method.collator) if method.collator else None), OnDevice())}
    if travel is not None:
        kinds["as bytes"] = Collator(processor, in_bytes=travel.processor), OnDevice(travel.table)
    told = {}
    for kind, (collate, finish) in kinds.items():
        batch = {key: value.pin_memory() for key, value in collate(chosen).items()}
        spent = min(_arrival(batch, finish) for _ in range(repeats + 1))
        told[kind] = {"MB": sum(value.nbytes for value in batch.values()) / 1e6, "seconds": spent}
    return told


def _arrival(batch: dict[str, Tensor], finish: OnDevice) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    finish({key: value.to("cuda", non_blocking=True) for key, value in batch.items()})
    torch.cuda.synchronize()
    return time.perf_counter() - started


def loss_of(method: Any, model: Any, batch: dict[str, Tensor], seeds: Tensor) -> Callable[[], Tensor]:
    """Return what gives a model's loss on a batch, with the masks that the seeds decide."""
    drawn = resolve(method.draws)(model, batch, seeds) if method.draws else {"row_seed": seeds}
    step = {"step_seed": 0} if "step_seed" in model.forward.__code__.co_varnames else {}
    return lambda: model(**batch, **drawn, **step).loss


def sides(name: str, preset: str, rows: int, against: str, device: str, half: bool) -> dict[str, Side]:
    """Return ours and what it is compared with, or ours with each option."""
    if against in ("options", *OPTIONS):
        return _with_options(name, preset, rows, device, half, (None, *OPTIONS) if against == "options" else (against,))
    model, loss = built(name, preset, rows, "sdpa", device)
    method = plugins.get_method(name)
    if against == "none":
        others = {}
    elif against == "plain":
        others = {"plain": (*built(name, preset, rows, "eager", device), False)}
    elif name == "mae":
        others = {
            f"transformers, {kind} AdamW": (*built(name, preset, rows, "sdpa", device), kind == "fused")
            for kind in KINDS
        }
    else:
        model, loss, others = _beside_transformers(name, rows)
    if method.quicken:
        resolve(method.quicken)(model)
    ours = Side(model, loss, device, half, True)
    return {"ours": ours} | {
        kind: Side(other, value, device, half, fused) for kind, (other, value, fused) in others.items()
    }


def _with_options(
    name: str, preset: str, rows: int, device: str, half: bool, options: Sequence[str | None]
) -> dict[str, Side]:
    """Return ours with each of some options; the first is called ours, and those that do not apply are left out."""
    method, found = plugins.get_method(name), {}
    for option in options:
        if option == "half weights" and not half:
            continue
        model, loss = built(name, preset, rows, "sdpa", device)
        if option == "checkpointing" and not model.supports_gradient_checkpointing:
            continue
        if method.quicken:
            resolve(method.quicken)(model)
        found[str(option) if found else "ours"] = Side(model, loss, device, half, True, option)
    return found


def _beside_transformers(name: str, rows: int) -> tuple[Any, Callable[[], Tensor], dict[str, Any]]:
    """Return our model, its loss, and transformers' with the same weights, as the methods' own benches build them."""
    if name == "siglip2":
        import bench_pairs

        model, other = bench_pairs.models()
        batch = bench_pairs.batch_of(rows)
        losses = [lambda: bench_pairs.loss_of(model, batch, True), lambda: bench_pairs.loss_of(other, batch, False)]
    elif name == "lxmert":
        import bench_regions

        given = bench_regions.inputs()
        (model, first), (other, second) = bench_regions.ours(given), bench_regions.theirs(given)
        other.load_state_dict(model.state_dict(), strict=False)
        losses = [first, second]
    else:
        raise SystemExit(f"transformers has no {name} to compare with; --against plain compares with eager attention")
    return model, losses[0], {f"transformers, {kind} AdamW": (other, losses[1], kind == "fused") for kind in KINDS}


def assert_equal(found: dict[str, Side], half: bool) -> dict[str, float]:
    """Assert that all compute the same loss and gradients; returns the largest relative differences."""
    losses, gradients = {}, {}
    for name, side in found.items():
        losses[name] = side.backward().item()
        prefix = f"{side.model.base_model_prefix}."
        weights = {n.removeprefix(prefix): w for n, w in side.model.named_parameters()}
        gradients[name] = {n: w.grad.clone() for n, w in weights.items() if w.grad is not None}
        side.model.zero_grad()
    largest = max(float(each.abs().max()) for each in gradients["ours"].values())
    far = {"loss": 0.0, "gradient": 0.0}
    for name in set(found) - {"ours"}:
        far["loss"] = max(far["loss"], abs(losses[name] / losses["ours"] - 1))
        assert len(set(gradients["ours"]) & set(gradients[name])) > 0.9 * len(gradients[name]), "weights of other names"
        for weight in set(gradients["ours"]) & set(gradients[name]):
            difference = gradients["ours"][weight] - gradients[name][weight]
            far["gradient"] = max(far["gradient"], float(difference.abs().max()) / largest)
    assert far["loss"] < (1e-2 if half else 1e-5), far
    assert far["gradient"] < (5e-2 if half else 1e-4), far
    return far


def timed(found: dict[str, Side], repeats: int, device: str) -> dict[str, float]:
    """Return the least seconds of a step of each, taken in turn; the first turn warms up."""
    best = dict.fromkeys(found, float("inf"))
    for turn, (name, side) in itertools.product(range(repeats + 1), found.items()):
        spent = _window(side) if device == "cuda" else _cpu(side)
        if turn:
            best[name] = min(best[name], spent)
    return best


def _cpu(side: Side) -> float:
    started = time.process_time()
    side.step()
    return time.process_time() - started


def _window(side: Side) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(WINDOW):
        side.step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / WINDOW / 1000


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def measure(name: str, preset: str, rows: int, against: str, device: str, half: bool, options: Any) -> dict[str, Any]:
    """Compare one method."""
    found = sides(name, preset, rows, against, device, half)
    if options.option and options.option not in (against, *found):
        found |= {options.option: _with_options(name, preset, rows, device, half, (options.option,))["ours"]}
    told = {"method": name, "preset": preset, "rows": rows, "dtype": "bfloat16" if half else "float32"}
    told |= {"differences": assert_equal(found, half)} if len(found) > 1 else {}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # the CPU's fused kernel is not counted
        found["ours"].step()
    for side in found.values():
        if side.compiled:
            side.model.compile()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    best = timed(found, options.repeats, device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    peak = peak_flops(device, told["dtype"], clock=clock)
    told |= {"seconds": best, "times": {kind: best[kind] / best["ours"] for kind in best if kind != "ours"}}
    told |= {"rows_per_s": rows / best["ours"], "GFLOP": counter.get_total_flops() / 1e9, "peak_GFLOP/s": peak / 1e9}
    told |= {"mfu": counter.get_total_flops() / best["ours"] / peak, "with": options.option}
    if device == "cpu" and len(found) == 1:
        told["peak_MiB"] = peak_memory()
    if device == "cuda":
        told |= {"peak_GiB": torch.cuda.max_memory_allocated() / 2**30}
        told["transfer"] = transfers(name, preset, rows, options.repeats)
    return told


def main() -> None:
    """Print a line of facts, and one for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["mae"])
    parser.add_argument("--preset", help="default base, or the method's first")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--against", choices=("plain", "transformers", "options", "none"), default="plain")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--with", dest="option", choices=OPTIONS, help="ours with one of the options, too; with --against none alone"
    )
    parser.add_argument("--gpu", action="store_true", help="all methods, both number formats, alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if options.gpu else "cpu"
    facts = {"machine": torch.cuda.get_device_name() if options.gpu else platform.processor() or platform.machine()}
    print(json.dumps(facts | {"torch": torch.__version__, "threads": options.threads}), flush=True)
    plans = GPU if options.gpu else [(n, options.preset or _usual(n), options.batch) for n in options.method]
    types = ("float32", "bfloat16") if options.gpu else options.dtype
    for (name, preset, rows), dtype in itertools.product(plans, types):
        against = "none" if options.gpu else options.against
        against = options.option if options.option and against == "none" else against
        try:
            told = measure(name, preset, rows, against, device, dtype == "bfloat16", options)
        except Exception as error:
            if not options.gpu:
                raise
            told = {"method": name, "preset": preset, "dtype": dtype, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)


def _usual(name: str) -> str:
    presets = plugins.get_method(name).presets
    return "base" if "base" in presets else next(iter(presets))


if __name__ == "__main__":
    main()
