"""ReMasker's speed: rows predicted a second, a training step beside a plain loop in the authors' layout, peak memory.

The plain loop is written here after the authors' structure: fused qkv, gather by two argsorts, a class token and mask
tokens joined and unshuffled, un-fused AdamW, the loss on all cells by multiplication with masks. Same weights, batch,
noise and optimiser; losses and gradients are asserted equal first. Interleaved, minimum process CPU time, one thread.
    python scripts/bench_remasker.py            # prints one JSON document
    python scripts/bench_remasker.py --memory   # peak memory of filling 1,000,000 rows x 20 columns
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_mim.conversion import rename_back
from hub_mim_remasker.configuration_remasker import ReMaskerConfig
from hub_mim_remasker.conversion_remasker import rules
from hub_mim_remasker.imputation import BATCH
from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining
from hub_mim_remasker.plugin import hub_mim_methods

COLUMNS = 10


class PlainBlock(nn.Module):
    """A timm-style block: fused qkv."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-8), nn.LayerNorm(width, eps=1e-8)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        batch, length, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(batch, length, width)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Plain(nn.Module):
    """The authors' structure, written plainly."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.ratio = config.mask_ratio
        self.mask_embed = nn.ModuleDict({"proj": nn.Conv1d(1, width, 1)})
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_columns + 1, width), requires_grad=False)
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, config.num_columns + 1, width), requires_grad=False)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(config.num_hidden_layers))
        self.decoder_blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(config.decoder_num_hidden_layers))
        self.norm, self.decoder_norm = nn.LayerNorm(width, eps=1e-8), nn.LayerNorm(width, eps=1e-8)
        self.decoder_embed, self.decoder_pred = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, data: Tensor, observed: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of data (B, L) under the masks that the noise decides."""
        batch, length = data.shape
        x = self.mask_embed["proj"](data[:, None]).permute(0, 2, 1) + self.pos_embed[:, 1:]
        noise = noise.masked_fill(~observed, 1)
        shuffle = noise.argsort(1)
        back = shuffle.argsort(1)
        keep = int(length * (1 - self.ratio))
        x = x.gather(1, shuffle[:, :keep, None].expand(-1, -1, x.shape[2]))
        mask = torch.ones(batch, length)
        mask[:, :keep] = 0
        mask = mask.gather(1, back)
        visible = (mask < 0.5).float()
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.mask_token.repeat(batch, length - keep, 1)], 1)
        tokens = tokens.gather(1, back[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = torch.tanh(self.decoder_pred(self.decoder_norm(x)))[:, 1:, 0] / 2 + 0.5
        error = (prediction - data) ** 2
        mask = mask * observed
        return (error * mask).sum() / mask.sum() + (error * visible).sum() / visible.sum()


def pair(preset: str) -> tuple[ReMaskerForPreTraining, Plain, dict[str, Tensor]]:
    """Return ours and the plain model with the same weights, and a batch without starved rows."""
    torch.manual_seed(0)
    config = ReMaskerConfig(cardinalities=[0] * COLUMNS, **hub_mim_methods()[0].presets[preset])
    ours, plain = ReMaskerForPreTraining(config), Plain(config)
    theirs = rename_back(ours.state_dict(), rules(config))
    tables = {"pos_embed": ours.remasker.embeddings.positions, "decoder_pos_embed": ours.decoder.positions}
    theirs |= {name: torch.cat([torch.zeros(1, config.hidden_size), table])[None] for name, table in tables.items()}
    plain.load_state_dict(theirs)
    observed = torch.rand(64, COLUMNS).argsort(1) < 8  # eight of ten cells in every row
    batch = {"values": torch.rand(64, COLUMNS) * observed, "observed": observed, "noise": torch.rand(64, COLUMNS)}
    return ours, plain, batch


def given_mask(batch: dict[str, Tensor]) -> Tensor:
    """Return the mask that the noise decides, True = hidden."""
    order = batch["noise"].masked_fill(~batch["observed"], 1).argsort(1)
    return torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, : COLUMNS // 2], False)


def our_loss(model: ReMaskerForPreTraining, batch: dict[str, Tensor]) -> Tensor:
    """Return our loss, the mask drawn from the noise inside, as training does."""
    return model(batch["values"], observed=batch["observed"], mask=given_mask(batch)).loss


def assert_equal(ours: ReMaskerForPreTraining, plain: Plain, batch: dict[str, Tensor]) -> dict[str, float]:
    """Assert that loss and gradients agree; returns the largest differences."""
    first, second = our_loss(ours, batch), plain(batch["values"], batch["observed"], batch["noise"])
    first.backward()
    second.backward()
    gradients = {name: weight.grad for name, weight in ours.named_parameters()}
    back = rename_back(gradients, rules(ours.config))
    far = max((back[n] - w.grad).abs().max().item() for n, w in plain.named_parameters() if w.requires_grad)
    loss = abs(first.item() - second.item())
    assert loss < 1e-6, loss
    assert far < 1e-5, far
    return {"loss": loss, "gradient": far}


def training(preset: str, repeats: int, steps: int) -> dict[str, Any]:
    """Time training steps, ours with fused AdamW, the plain loop with torch's default."""
    ours, plain, batch = pair(preset)
    equal = assert_equal(ours, plain, batch)

    def steps_of(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
        started = time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return (time.process_time() - started) / steps * 1000

    options = {"lr": 1e-3, "betas": (0.9, 0.95)}
    runs = {
        "ours": (lambda: our_loss(ours, batch), torch.optim.AdamW(ours.parameters(), **options, fused=True)),
        "plain": (
            lambda: plain(batch["values"], batch["observed"], batch["noise"]),
            torch.optim.AdamW([w for w in plain.parameters() if w.requires_grad], **options),
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (loss, optimizer) in runs.items():
            times[name].append(steps_of(loss, optimizer))
    best = {name: round(min(values), 3) for name, values in times.items()}
    return {
        "preset": preset,
        "ms_per_step": best,
        "ratio": round(best["plain"] / best["ours"], 3),
        "differences": equal,
    }


def prediction(preset: str, repeats: int) -> dict[str, Any]:
    """Time prediction of 8,192 rows with three of ten cells missing, in the imputer's batches."""
    torch.manual_seed(0)
    config = ReMaskerConfig(cardinalities=[0] * COLUMNS, **hub_mim_methods()[0].presets[preset])
    model = ReMaskerForPreTraining(config).eval()
    observed = torch.rand(8192, COLUMNS).argsort(1) < 7
    values, best = torch.rand(8192, COLUMNS) * observed, float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            started = time.process_time()
            for rows, seen in zip(values.split(BATCH), observed.split(BATCH), strict=True):
                model(rows, observed=seen, mask=~seen, return_loss=False)
            best = min(best, time.process_time() - started)
    return {"preset": preset, "rows_per_second": round(8192 / best)}


def memory() -> dict[str, float]:
    """Fill 1,000,000 rows x 20 columns with a fitted imputer; returns peak memory in GiB, the table itself included."""
    import numpy as np

    from hub_mim_remasker import ReMaskerImputer

    random = np.random.default_rng(0)
    table = random.random((1_000_000, 20))
    table[random.random(table.shape) < 0.05] = np.nan
    imputer = ReMaskerImputer(preset="tiny", max_steps=5, random_state=0).fit(table[:2000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    filled = imputer.transform(table)
    assert not np.isnan(filled).any()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_gib": round(peak / 2**20, 2), "before_transform_gib": round(before / 2**20, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(memory(), indent=2))
        return
    figures = {
        "training": training("legacy", options.repeats, options.steps),
        "prediction": [prediction(preset, options.repeats) for preset in ("tiny", "default", "legacy")],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
