"""Write docs/reference/sizes.md: memory of each process, operations of a sample and GPU-hours of the published run, by preset.

    python scripts/make_sizes.py            # writes the page
    python scripts/make_sizes.py --check    # writes nothing; says whether it is out of date

Everything is computed: models are built on the meta device, and nothing is trained. Operations are what `Method.flops` says;
for the methods that transformers carries, they are counted in one forward pass over one row.
"""

import argparse
import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "sizes.md"
RANKS = 8
PEAK, MFU = 989e12, 0.4  # of an H100, bf16 without sparsity, as its maker states it; a share that well-fed ViTs reach
IMAGENET, KINETICS = 1_281_167, 240_000
WORDS, REGIONS = 20, 36
# name -> samples that the published run saw, and in words what they are
PUBLISHED: dict[str, tuple[float, str]] = {
    "multimae": (1600 * IMAGENET, "1600 epochs of ImageNet-1K"),
    "mwmae": (100 * 2_032_320, "100 epochs of AudioSet's 2,032,320 clips"),
    "siglip2": (40e9, "40 billion pairs"),
    "cfm_vit": (500_000 * 4096, "500,000 steps of 4096 pairs"),
    "lxmert": (20 * 9.18e6, "20 epochs of 9.18 million pairs"),
    "uniter": (200_000 * 10_240 / (WORDS + REGIONS), f"200,000 steps of 10,240 tokens, {WORDS + REGIONS} a pair"),
    "mae": (1600 * IMAGENET, "1600 epochs of ImageNet-1K"),
    "simmim-vit": (800 * IMAGENET, "800 epochs of ImageNet-1K"),
    "simmim-swin": (800 * IMAGENET, "800 epochs of ImageNet-1K"),
    "beit": (800 * IMAGENET, "800 epochs of ImageNet-1K"),
    "hiera": (1600 * IMAGENET, "1600 epochs of ImageNet-1K"),
    "videomae": (1600 * KINETICS, "1600 epochs of Kinetics-400's 240,000 clips"),
}


@dataclass(frozen=True)
class Bytes:
    """Memory of one process: weights, gradients and AdamW's two moments, of rank 0, which has the largest share."""

    weights: int
    gradients: int
    moments: int

    @property
    def all(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.moments


def memory(model: Any, *, ranks: int = 1, sharded: bool = False, width: int = 4) -> Bytes:
    """Return what a model's training holds on rank 0, without activations and buffers.

    Args:
        model: with parameters on any device, "meta" too.
        ranks: number of processes. sharded: FSDP2, which cuts every parameter along its first axis; else DDP, where all have
            all of it.
        width: bytes of a number: 4 (float32, also under autocast), 2 (weights and all else in bfloat16).
    """

    def share(weight: Any) -> int:
        if not sharded or not weight.dim():
            return int(weight.numel())
        return -(-weight.shape[0] // ranks) * (weight.numel() // max(1, weight.shape[0]))

    every = [(share(weight), weight.requires_grad) for weight in model.parameters()]
    trained = width * sum(count for count, learns in every if learns)
    return Bytes(width * sum(count for count, _ in every), trained, 2 * trained)


def built(method: Any, preset: str) -> tuple[Any, Any]:
    """Return a preset's configuration, and its pre-training model on the meta device."""
    import torch

    from hub_mim.method import resolve

    config = resolve(method.config)(**copy.deepcopy(dict(method.presets[preset])))
    with torch.device("meta"):
        return config, resolve(method.auto["AutoModelForPreTraining"])(config)


def _square(config: Any, **more: Any) -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.zeros(1, 3, config.image_size, config.image_size), **more}


def _pair(words: int) -> dict[str, Any]:
    import torch

    return {"input_ids": torch.full((1, words), 7)}


def _regions(config: Any) -> dict[str, Any]:
    import torch

    return _pair(WORDS) | {"visual_feats": torch.zeros(1, REGIONS, config.visual_feat_dim)}


def _modalities(config: Any) -> dict[str, Any]:
    import torch

    size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    sides = {name: size // config.modality(name).stride for name in config.names}
    return {name: torch.zeros(1, 1, side, side, device="meta") for name, side in sides.items()}


def _values(config: Any) -> dict[str, Any]:
    import torch

    return {"input_values": torch.zeros(1, 1)}


BATCHES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "multimae": _modalities,
    "mwmae": _values,
    "siglip2": lambda config: _square(config, **_pair(config.text_config.max_position_embeddings)),
    "cfm_vit": lambda config: _square(config, **_pair(config.max_position_embeddings)),
    "uniter": _regions,
    "lxmert": _regions,
}


def operations(method: Any, config: Any, model: Any) -> int | None:
    """Return the operations of one row's forward pass; None where they depend on the table or graph."""
    from hub_mim.method import resolve

    if method.native:
        return _counted(method, config, type(model))
    if method.name not in BATCHES:
        return None
    count = resolve(method.flops)
    whole = {"training": True} if "training" in inspect.signature(count).parameters else {}  # small views, teachers
    return int(count(config, BATCHES[method.name](config), **whole))


def _counted(method: Any, config: Any, kind: Any) -> int:
    """Count the operations of a forward pass over a sample row."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from hub_mim.data import as_records, encode
    from hub_mim.masking import row_seeds
    from hub_mim.method import resolve
    from hub_mim.samples import sample_rows
    from hub_mim.starting import make_processor

    if hasattr(config, "codebook"):
        config.codebook = "random-projection"  # the tokenizer is not part of the model
    model = kind(config).eval()
    rows = as_records(sample_rows(method.name, num_rows=1))
    batch = encode(make_processor(method, rows, fields=config.to_dict()), rows)
    if hasattr(config, "num_frames"):  # sample clips are short
        batch["pixel_values"] = batch["pixel_values"][
            :, torch.arange(config.num_frames) % batch["pixel_values"].shape[1]
        ]
    batch |= resolve(method.draws)(model, batch, row_seeds(0, 0, torch.arange(1)))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**batch)
    return int(counter.get_total_flops())


def hours(samples: float, forward: int) -> float:
    """Return the GPU-hours of so many samples: a step costs three forward passes."""
    return samples * 3 * forward / (PEAK * MFU) / 3600


def lines() -> Iterator[str]:
    """Yield the rows of the table."""
    from hub_mim import plugins

    for name, method in plugins.methods().items():
        for preset in method.presets if name != "toy" else ():
            config, model = built(method, preset)
            whole = sum(weight.numel() for weight in model.parameters())
            shown = [f"{each.all / 2**20:,.1f}" for each in _layouts(model)]
            forward = operations(method, config, model)
            samples, _ = PUBLISHED.get(name, (0, ""))
            flops = "-" if forward is None else f"{forward / 1e9:,.2f}"
            cost = f"{hours(samples, forward):,.0f}" if forward and samples and _published(preset) else "-"
            yield f"| `{name}` | `{preset}` | {whole / 1e6:,.2f} | {' | '.join(shown)} | {flops} | {cost} |"


def _published(preset: str) -> bool:
    return not preset.startswith(("tiny", "nano"))


def _layouts(model: Any) -> list[Bytes]:
    return [
        memory(model),
        memory(model, ranks=RANKS, sharded=True),
        memory(model, width=2),
        memory(model, ranks=RANKS, sharded=True, width=2),
    ]


def page() -> str:
    """Return the page."""
    told = "\n".join(f"- `{name}`: {what}." for name, (_, what) in PUBLISHED.items())
    return f"""# Sizes

Generated by `scripts/make_sizes.py`; computed, not measured. Memory is MiB of each process: weights, gradients and
the two moments of AdamW, without activations, buffers and what communication needs. DDP: every process has all of it,
whatever their number. FSDP2: of {RANKS} processes the first, which has the largest share; while a layer computes, its
weights are there whole. "bf16" is weights, gradients and moments in bfloat16; `bf16=true` (autocast) keeps them in
float32. `tests/test_sizes.py` compares both formulas with tiny trainings, to the byte.

GFLOP is one sample's forward pass, matrix products, 2 for a multiplication and an addition; a training step takes
about three times as many (a teacher, which has no backward pass, is counted as if it had one). Pairs of words and
regions are counted with {WORDS} and {REGIONS}; what the heads of hidden words add is left out. "-": depends on the
table or graph, or nothing of that size was published. GPU-hours are those that the published number of samples takes
at {MFU:.0%} of {PEAK / 1e12:.0f} TFLOP/s (an H100 in bfloat16, as its maker states it), if three forward passes are a
step; a size that the authors did not train is counted with the same samples.

| method | preset | million weights | DDP fp32 | FSDP2 fp32 | DDP bf16 | FSDP2 bf16 | GFLOP | GPU-hours |
|---|---|--:|--:|--:|--:|--:|--:|--:|
{chr(10).join(lines())}

Samples of the published runs; those of the methods that transformers carries are quoted from their papers and were not
compared with a copy:

{told}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the table of sizes.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the page is out of date")
    check = parser.parse_args(arguments).check
    text = page()
    stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text
    if stale:
        print(f"{'out of date' if check else 'wrote'}: docs/reference/{PAGE.name}")
    if stale and not check:
        PAGE.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
