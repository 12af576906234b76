"""SigLIP 2's step beside transformers' own model: same towers, weights, loss; and the memory of a large batch's loss.

Both take a forward and a backward pass and an optimiser step (fused AdamW) on the same batch, interleaved in one process, one
thread; the minimum of process CPU time counts. Loss and gradients are asserted to be equal first. transformers starts with the
same temperature and bias, as its own initial ones (0 and 0) would not train. Prints JSON.

    python scripts/bench_pairs.py --batch 8 --repeats 5
"""

import argparse
import json
import resource
import time
from typing import Any

import torch
import transformers

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.contrast import sigmoid_loss
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
WORDS = 32_000  # of 256,000: the table alone would be half of the step


def models() -> tuple[Any, Any]:
    """Return ours and transformers' with the same weights."""
    torch.manual_seed(0)
    config = Siglip2MimConfig(
        losses=["sigmoid"],
        vision_config=BASE | {"image_size": 224, "patch_size": 16},
        text_config=BASE | {"vocab_size": WORDS, "max_position_embeddings": 64},
    )
    ours = Siglip2MimForPreTraining(config)
    towers = transformers.SiglipConfig(
        text_config=config.text_config.to_dict(), vision_config=config.vision_config.to_dict()
    )
    theirs = transformers.SiglipModel(towers)
    told = theirs.load_state_dict(ours.siglip.state_dict(), strict=False)
    assert not told.missing_keys, told
    return ours, theirs


def batch_of(rows: int) -> dict[str, torch.Tensor]:
    """Return random pairs."""
    return {"pixel_values": torch.randn(rows, 3, 224, 224), "input_ids": torch.randint(1, WORDS, (rows, 64))}


def loss_of(model: Any, batch: dict[str, torch.Tensor], ours: bool) -> torch.Tensor:
    """Return the loss of a batch."""
    loss: torch.Tensor = (
        model(**batch, row_seed=torch.arange(len(batch["input_ids"]))).loss
        if ours
        else model(**batch, return_loss=True).loss
    )
    return loss


def equal(ours: Any, theirs: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the differences of loss and gradients, relative to the loss and to the largest gradient of all."""
    for model in (ours, theirs):
        model.zero_grad()
    first, second = loss_of(ours, batch, True), loss_of(theirs, batch, False)
    first.backward()
    second.backward()
    own = {name: weight.grad for name, weight in ours.siglip.named_parameters()}
    pairs = [(own[name], weight.grad) for name, weight in theirs.named_parameters()]
    # of the largest of all: gradients of keys' biases are 0 up to rounding
    worst = max(float((x - y).abs().max()) for x, y in pairs) / max(float(y.abs().max()) for _, y in pairs)
    found = {"loss": abs(float(first.detach()) - float(second.detach())) / float(second.detach()), "gradients": worst}
    assert found["loss"] < 1e-5, found
    assert worst < 1e-3, found
    return found


def times(ours: Any, theirs: Any, batch: dict[str, torch.Tensor], repeats: int, bf16: bool) -> dict[str, float]:
    """Return the least CPU seconds of a step of each."""
    pairs = {"ours": (ours, True), "transformers": (theirs, False)}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=0.0, fused=True) for name, (model, _) in pairs.items()}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(repeats):
        for name, (model, own) in pairs.items():
            started = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(model, batch, own)
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            best[name] = min(best[name], time.process_time() - started)
    return {name: round(value, 3) for name, value in best.items()} | {
        "times": round(best["transformers"] / best["ours"], 3)
    }


def memory(pairs: int, width: int, chunk: int) -> dict[str, float]:
    """Return what the loss of so many pairs and its gradient take, in GiB, beside the vectors, and the seconds."""
    torch.manual_seed(0)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(pairs, width), dim=-1).requires_grad_() for _ in range(2)
    )
    scale, bias = torch.tensor([2.3], requires_grad=True), torch.tensor([-10.0], requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    sigmoid_loss(images, texts, scale, bias, chunk=chunk).backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = time.process_time() - started
    return {"pairs": pairs, "width": width, "GiB": round((after - before) / 2**20, 3), "cpu_seconds": round(spent, 1)}


def packing(repeats: int) -> dict[str, float]:
    """Return how much faster pictures of different shapes are seen in one sequence than padded, forward and backward.

    Eight pictures of base size, at most 256 patches; `ideal` is places by patches.
    """
    from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimModel

    torch.manual_seed(0)
    config = Siglip2MimConfig(
        naflex=True,
        vision_config=BASE | {"patch_size": 16, "num_patches": 256},
        text_config=BASE | {"num_hidden_layers": 1, "vocab_size": 100, "max_position_embeddings": 8},
    )
    model = Siglip2MimModel(config)
    shapes = torch.tensor([(16, 16), (8, 12), (10, 25), (6, 16), (14, 9), (12, 12), (5, 20), (11, 20)])
    valid = torch.arange(256) < shapes.prod(1)[:, None]
    batch = {"pixel_values": torch.randn(8, 256, 768), "pixel_attention_mask": valid, "spatial_shapes": shapes}
    best = {True: float("inf"), False: float("inf")}
    for _ in range(repeats):
        for packed in best:
            model.config.pack = packed
            started = time.process_time()
            model.get_image_features(**batch).pooler_output.square().sum().backward()
            best[packed] = min(best[packed], time.process_time() - started)
    times_faster, ideal = best[False] / best[True], 256 * 8 / int(valid.sum())
    return {
        "packed": round(best[True], 3),
        "padded": round(best[False], 3),
        "times": round(times_faster, 3),
        "ideal": round(ideal, 3),
        "share_of_ideal": round(times_faster / ideal, 3),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--loss", action="store_true", help="measure the loss of 32,768 pairs, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if options.loss:
        told["loss"] = memory(32_768, 768, 512)  # first: the peak is of the whole process
    ours, theirs = models()
    batch = batch_of(options.batch)
    told["difference"] = equal(ours, theirs, batch)
    told["float32"] = times(ours, theirs, batch, options.repeats, False)
    if not options.no_bf16:
        told["bfloat16"] = times(ours, theirs, batch, options.repeats, True)
    told["naflex_packing"] = packing(options.repeats)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
