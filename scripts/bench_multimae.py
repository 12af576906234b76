"""MultiMAE's speed: one training step beside transformers' ViTMAE of the same size and a naive model in the authors' layout.

The naive model is written here after the authors' structure: attention by matmul and softmax with a fused qkv, positions
interpolated in every forward, all tokens unshuffled in every decoder, losses on pixels. Same weights, masks and
optimiser; loss and gradients are asserted equal first. Interleaved, minimum process CPU time; peak memory of each in a
process of its own. Prints one JSON document.
    python scripts/bench_multimae.py --repeats 5
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_mim.conversion import rename_back
from hub_mim.speed import peak_flops
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.conversion_multimae import rules
from hub_mim_multimae.modeling_multimae import MultiMAEForPreTraining

AUTHORS_RATIO = 1.26  # CPU time of the authors' own step over ViTMAE's, fp32, batch 8 (4.8 and 3.8 s on one machine)


class NaiveAttention(nn.Module):
    """Fused qkv, scores by matmul, softmax."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to the same."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class NaiveCross(nn.Module):
    """Cross-attention with a fused kv."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (B, N, D) and (B, S, D) to (B, N, D)."""
        batch, length, width = x.shape
        q = self.q(x).reshape(batch, length, self.heads, -1).transpose(1, 2)
        k, v = self.kv(context).reshape(batch, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class NaiveMlp(nn.Module):
    """Two layers and an exact GELU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class NaiveBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = NaiveAttention(width, heads), NaiveMlp(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class NaiveInput(nn.Module):
    """An input adapter."""

    def __init__(self, config: MultiMAEConfig, name: str):
        super().__init__()
        made, side = config.modality(name), config.patch_side(name)
        self.categorical = made.categorical
        if made.categorical:
            self.class_emb = nn.Embedding(made.num_classes, made.class_width)
        grid = config.image_size // config.patch_size
        self.pos_emb = nn.Parameter(torch.zeros(1, config.hidden_size, grid, grid), requires_grad=False)
        self.proj = nn.Conv2d(made.depth, config.hidden_size, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """Map a modality to tokens."""
        if self.categorical:
            x = self.class_emb(x).permute(0, 3, 1, 2)
        y = self.proj(x)
        mode = "bilinear" if self.categorical else "bicubic"
        places = F.interpolate(self.pos_emb, size=y.shape[-2:], mode=mode, align_corners=False)
        return y.flatten(2).transpose(1, 2) + places.flatten(2).transpose(1, 2)


class NaiveOutput(nn.Module):
    """An output adapter."""

    def __init__(self, config: MultiMAEConfig, task: str):
        super().__init__()
        self.config, self.target = config, config.targets[task]
        width, heads, inner = (
            config.decoder_hidden_size,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
        )
        grid = config.image_size // config.patch_size
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_emb = nn.Parameter(torch.zeros(1, width, grid, grid), requires_grad=False)
        self.task_embeddings = nn.ParameterDict({n: nn.Parameter(torch.zeros(1, 1, width)) for n in config.names})
        self.proj_context = nn.Linear(config.hidden_size, width)
        self.context_norm, self.query_norm, self.out_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.decoder, self.mlp = NaiveCross(width, heads), NaiveMlp(width, inner)
        self.decoder_transformer = nn.ModuleList(
            NaiveBlock(width, heads, inner) for _ in range(config.decoder_num_hidden_layers)
        )
        made = config.modality(self.target)
        self.side = config.patch_side(self.target)
        self.out_proj = nn.Linear(width, made.outputs * self.side**2)

    def forward(self, encoded: Tensor, keep: Tensor, back: Tensor, count: int) -> Tensor:
        """Predict a map (B, C, H, W)."""
        config, seen = self.config, keep.shape[1]
        x = self.proj_context(encoded)
        tokens, rest = x[:, :seen], x[:, seen:]
        fill = self.mask_token.expand(len(x), back.shape[1] - seen, -1)
        tokens = torch.cat([tokens, fill], 1).gather(1, back[:, :, None].expand(-1, -1, x.shape[2]))
        grid = round(count**0.5)
        table = []
        for name in config.names:
            places = F.interpolate(self.pos_emb, size=(grid, grid), mode="bilinear", align_corners=False)
            table.append(places.flatten(2).transpose(1, 2) + self.task_embeddings[name])
        tokens = tokens + torch.cat(table, 1)
        start = config.names.index(self.target) * count
        context = torch.cat([tokens.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2])), rest], 1)
        y = self.decoder(self.query_norm(tokens[:, start : start + count]), self.context_norm(context))
        y = y + self.mlp(self.out_norm(y))
        for block in self.decoder_transformer:
            y = block(y)
        y = self.out_proj(y)
        y = y.reshape(len(y), grid, grid, -1, self.side, self.side)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(len(y), -1, grid * self.side, grid * self.side)


class Naive(nn.Module):
    """The authors' structure, written plainly."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__()
        self.config = config
        self.global_tokens = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.input_adapters = nn.ModuleDict({name: NaiveInput(config, name) for name in config.names})
        self.encoder = nn.ModuleList(
            NaiveBlock(config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.output_adapters = nn.ModuleDict({task: NaiveOutput(config, task) for task in config.targets})

    def forward(self, maps: dict[str, Tensor], mask: dict[str, Tensor]) -> Tensor:
        """Return the sum of the losses."""
        tokens = {name: adapter(maps[name]) for name, adapter in self.input_adapters.items()}
        count = next(iter(tokens.values())).shape[1]
        x = torch.cat(list(tokens.values()), 1)
        hidden = torch.cat([mask[name] for name in tokens], 1).float()
        shuffle = hidden.argsort(dim=1, stable=True)
        back, seen = shuffle.argsort(1), int((hidden[0] == 0).sum())
        keep = shuffle[:, :seen]
        x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x, self.global_tokens.expand(len(x), -1, -1)], 1)
        for block in self.encoder:
            x = block(x)
        losses = []
        for task, adapter in self.output_adapters.items():
            prediction = adapter(x, keep, back, count)
            losses.append(self._loss(task, adapter.target, prediction, maps[adapter.target], mask[adapter.target]))
        return torch.stack(losses).sum()

    def _loss(self, task: str, target: str, prediction: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        made, side = self.config.modality(target), self.config.patch_side(target)
        grid = round(mask.shape[1] ** 0.5)
        if task != target:
            parts = values.reshape(len(values), -1, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5)
            flat = parts.flatten(3)
            flat = (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True) + 1e-6).sqrt()
            values = flat.reshape(parts.shape).permute(0, 3, 1, 4, 2, 5).reshape(values.shape)
        if made.categorical:
            error = F.cross_entropy(prediction.float(), values, reduction="none")
        else:
            difference = prediction.float() - values
            error = (difference.square() if made.loss == "mse" else difference.abs()).mean(1)
        pixels = F.interpolate(mask.view(-1, 1, grid, grid).float(), size=error.shape[-2:], mode="nearest")[:, 0]
        per_row = (error * pixels).flatten(1).sum(1) / pixels.flatten(1).sum(1)
        return per_row.nanmean()


def setting(size: str, batch: int) -> tuple[MultiMAEConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Return a configuration, a batch and masks."""
    small = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 4}
    config = MultiMAEConfig(**(small if size == "small" else {}))
    source = torch.Generator().manual_seed(0)
    side, quarter = config.image_size, config.image_size // 4
    maps = {
        "rgb": torch.randn(batch, 3, side, side, generator=source),
        "depth": torch.randn(batch, 1, side, side, generator=source),
        "semseg": torch.randint(0, 133, (batch, quarter, quarter), generator=source),
    }
    torch.manual_seed(0)
    few = MultiMAEConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=0)
    with torch.no_grad():
        model = MultiMAEForPreTraining(few).eval()
        mask = model(**maps, row_seed=torch.arange(batch), return_loss=False).mask
    return config, maps, mask


def ours_of(config: MultiMAEConfig) -> MultiMAEForPreTraining:
    """Return our model."""
    torch.manual_seed(0)
    return MultiMAEForPreTraining(config).train()


def naive_of(config: MultiMAEConfig, ours: MultiMAEForPreTraining) -> Naive:
    """Return the naive model with our weights."""
    model = Naive(config)
    model.load_state_dict(rename_back(ours.state_dict(), rules(config)))
    return model.train()


def vit_mae(config: MultiMAEConfig, batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return transformers' ViTMAE of the same encoder, and a step of it."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    given = ViTMAEConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        layer_norm_eps=1e-6,
    )
    model, pixels = ViTMAEForPreTraining(given).train(), torch.randn(batch, 3, 224, 224)
    return model, lambda: model(pixels).loss


def assert_equal(ours: MultiMAEForPreTraining, naive: Naive, maps: Any, mask: Any) -> dict[str, float]:
    """Assert that loss and gradients agree; returns the largest differences."""
    first, second = ours(mask=mask, **maps).loss, naive(maps, mask)
    first.backward()
    second.backward()
    back = rename_back({n: p.grad for n, p in ours.named_parameters() if p.grad is not None}, rules(ours.config))
    far = max(
        float((back[n] - p.grad).abs().max() / p.grad.abs().max().clamp(min=1e-8))
        for n, p in naive.named_parameters()
        if p.grad is not None
    )
    loss = abs(first.item() - second.item()) / abs(second.item())
    assert loss < 1e-5, loss
    assert far < 1e-3, far
    return {"loss": loss, "gradient": far}


def memory(size: str, batch: int, which: str, bf16: bool) -> float:
    """Return the peak memory of a process that takes two steps, in MiB."""
    command = [sys.executable, __file__, "--memory-of", which, "--size", size, "--batch", str(batch)]
    told = subprocess.run(command + (["--bf16"] if bf16 else []), capture_output=True, text=True, check=True)
    return float(told.stdout.strip().splitlines()[-1])


def peak_memory() -> float:
    """Return this process's peak memory in MiB; `getrusage` would tell the parent's, where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def take_steps(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer, bf16: bool, count: int) -> float:
    """Take steps; returns CPU seconds of one."""
    started = time.process_time()
    for _ in range(count):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = step()
        loss.backward()
        optimizer.step()
    return (time.process_time() - started) / count


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser that all share."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, betas=(0.9, 0.95), fused=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", choices=("base", "small"), default="base")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--memory-of", choices=("ours", "naive"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, maps, mask = setting(options.size, options.batch)
    ours = ours_of(config)
    if options.memory_of:
        model = ours if options.memory_of == "ours" else naive_of(config, ours)
        if options.memory_of == "naive":
            del ours
        step = (lambda: model(mask=mask, **maps).loss) if options.memory_of == "ours" else (lambda: model(maps, mask))
        take_steps(step, optimizer_of(model), options.bf16, 2)
        print(peak_memory())
        return
    naive = naive_of(config, ours)
    equal = assert_equal(ours, naive, maps, mask)
    mae, mae_step = vit_mae(config, options.batch)
    runs: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "ours": (ours, lambda: ours(mask=mask, **maps).loss),
        "naive": (naive, lambda: naive(maps, mask)),
        "vit_mae": (mae, mae_step),
    }
    optimizers = {name: optimizer_of(model) for name, (model, _) in runs.items()}
    found = {"size": options.size, "batch": options.batch, "threads": options.threads, "torch": torch.__version__}
    report: dict[str, Any] = found | {"differences": equal}
    for kind, bf16 in (("float32", False), ("bfloat16", True)):
        seconds = {name: float("inf") for name in runs}
        for repeat in range(options.repeats + 1):
            for name, (_, step) in runs.items():
                spent = take_steps(step, optimizers[name], bf16, 1)
                seconds[name] = min(seconds[name], spent) if repeat else seconds[name]  # the first warms up
        peak = peak_flops("cpu", kind)
        flops = 3 * 22.336e9 * options.batch if options.size == "base" else None
        sizes = {name: memory(options.size, options.batch, name, bf16) for name in ("ours", "naive")}
        report[kind] = {
            "step_seconds": {name: round(value, 3) for name, value in seconds.items()},
            "step_time_ratio": round(seconds["naive"] / seconds["ours"], 3),
            "naive_over_vit_mae": round(seconds["naive"] / seconds["vit_mae"], 3),
            "memory_mib": {name: round(value) for name, value in sizes.items()},
            "memory_ratio": round(sizes["ours"] / sizes["naive"], 3),
            "mfu": None if flops is None else round(flops / seconds["ours"] / peak, 3),
        }
    report["authors_over_vit_mae"] = AUTHORS_RATIO
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
