"""Time UNITER's and LXMERT's training steps: base sizes, batch 8, 20 words, 36 regions, one thread, float32; prints JSON.

LXMERT beside transformers' `LxmertForPreTraining` with eager attention: the same weights, masks and labels, all six losses, no
dropout; the losses are compared first. Steps are forward and backward, interleaved, least process CPU time. Peak resident
memory is that of a process of its own for each. UNITER: each task, and the share of the optimal transport.

    python scripts/bench_regions.py --repeats 3
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCH, WORDS, REGIONS = 8, 20, 36


def inputs() -> dict[str, Tensor]:
    """Return random rows as LXMERT takes them."""
    source = torch.Generator().manual_seed(0)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=source)

    return {
        "input_ids": whole(30_000, BATCH, WORDS) + 200,
        "visual_feats": torch.rand(BATCH, REGIONS, 2048, generator=source),
        "visual_pos": torch.rand(BATCH, REGIONS, 4, generator=source),
        "token_type_ids": torch.zeros(BATCH, WORDS, dtype=torch.int64),
        "attention_mask": torch.ones(BATCH, WORDS, dtype=torch.int64),
        "object_labels": whole(1600, BATCH, REGIONS),
        "attribute_labels": whole(400, BATCH, REGIONS),
        "confidence": torch.rand(BATCH, REGIONS, generator=source),
        "words": torch.rand(BATCH, WORDS, generator=source) < 0.15,
        "places": torch.rand(BATCH, REGIONS, generator=source) < 0.15,
        "answer": whole(9500, BATCH),
    }


def ours(given: dict[str, Tensor]) -> tuple[Any, Callable[[], Tensor]]:
    """Return our LXMERT and what gives its loss."""
    from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
    from hub_mim_lxmert.modeling_lxmert_mim import LxmertMimForPreTraining

    torch.manual_seed(0)
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = LxmertMimForPreTraining(LxmertMimConfig(visual_losses="confidence", **plain)).train()
    names = ("input_ids", "visual_feats", "visual_pos", "token_type_ids", "attention_mask", "answer")
    batch = {name: given[name] for name in names}
    batch |= {"object_labels": given["object_labels"], "attribute_labels": given["attribute_labels"]}
    batch |= {"object_confidence": given["confidence"], "attribute_confidence": given["confidence"]}
    mask = {"text": given["words"], "regions": given["places"]}
    matched = torch.ones(BATCH, dtype=torch.int64)
    return model, lambda: model(**batch, mask=mask, matched_label=matched).loss


def theirs(given: dict[str, Tensor]) -> tuple[Any, Callable[[], Tensor]]:
    """Return transformers' LXMERT and what gives its loss."""
    from transformers import LxmertConfig, LxmertForPreTraining

    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "visual_loss_normalizer": 1 / 0.15}
    model = LxmertForPreTraining(LxmertConfig(**plain)).train()
    words, places = given["words"], given["places"]
    batch = {name: given[name] for name in ("visual_pos", "token_type_ids", "attention_mask")}
    batch["input_ids"] = given["input_ids"].masked_fill(words, 103)
    batch["visual_feats"] = given["visual_feats"].masked_fill(places[..., None], 0)
    labels = given["input_ids"].masked_fill(~words, -100)
    told = {
        "obj": (given["object_labels"], given["confidence"]),
        "attr": (given["attribute_labels"], given["confidence"]),
        "feat": (given["visual_feats"], places.float()),
    }
    matched = torch.ones(BATCH, dtype=torch.int64)
    return (
        model,
        lambda: model(**batch, labels=labels, obj_labels=told, matched_label=matched, ans=given["answer"]).loss,
    )


def least(steps: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Return the least process CPU time of each step, interleaved."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            started = time.process_time()
            step().backward()
            found[name].append(time.process_time() - started)
    return {name: round(min(times[1:]), 3) for name, times in found.items()}


def uniter(repeats: int) -> dict[str, Any]:
    """Time UNITER's tasks, and the transport alone."""
    from hub_mim_uniter.configuration_uniter import UniterConfig
    from hub_mim_uniter.modeling_uniter import UniterForPreTraining
    from hub_mim_uniter.transport import alignment

    given = inputs()
    config = UniterConfig()
    model = UniterForPreTraining(config).train()
    batch = {
        "input_ids": given["input_ids"] % 28_000 + 200,
        "visual_feats": given["visual_feats"],
        "visual_pos": torch.rand(BATCH, REGIONS, 7),
        "soft_labels": torch.rand(BATCH, REGIONS, 1601).softmax(-1),
    }
    seeds = torch.arange(BATCH)
    steps: dict[str, Callable[[], Tensor]] = {
        task: (lambda task=task: model(**batch, task=task, row_seed=seeds).loss) for task in config.active_tasks
    }
    text, places = (torch.randn(BATCH, count, 768, requires_grad=True) for count in (WORDS, REGIONS))
    real = torch.ones(BATCH, WORDS, dtype=torch.bool), torch.ones(BATCH, REGIONS, dtype=torch.bool)
    steps["transport"] = lambda: alignment(text, places, *real)[0].sum()
    times = least(steps, repeats)
    return times | {"transport_share_of_itm": round(times["transport"] / times["itm"], 4)}


def memory(kind: str) -> int:
    """Return the peak resident memory of two steps in a process of its own, in MiB."""
    told = subprocess.run([sys.executable, __file__, "--one", kind], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[-1])


def peak_memory() -> int:
    """Return this process's peak memory in MiB; `getrusage` would tell the parent's, where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=("ours", "transformers"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = inputs()
    if options.one:
        _, step = (ours if options.one == "ours" else theirs)(given)
        for _ in range(2):
            step().backward()
        print(peak_memory())
        return
    mine, my_loss = ours(given)
    other, their_loss = theirs(given)
    other.load_state_dict(mine.state_dict(), strict=False)
    with torch.no_grad():
        losses = [my_loss().item(), their_loss().item()]
    times = least({"ours": my_loss, "transformers": their_loss}, options.repeats)
    lxmert = {"loss": losses, **times, "times": round(times["transformers"] / times["ours"], 2)}
    del mine, other, my_loss, their_loss
    lxmert["peak_MiB"] = {kind: memory(kind) for kind in ("ours", "transformers")}
    print(json.dumps({"torch": torch.__version__, "lxmert": lxmert, "uniter": uniter(options.repeats)}, indent=1))


if __name__ == "__main__":
    main()
