"""MW-MAE's speed: its front end beside transformers' own, and a training step beside a loop over heads and windows.

Front end: 10-second clips, process CPU seconds, beside ASTFeatureExtractor (whose spectrogram is another one) and beside
`audio_utils.spectrogram` with our settings, whose values are asserted equal. Training step: the same model whose heads attend
one by one, window by window; loss and gradients are asserted equal. Interleaved, minimum of several, one thread; prints
JSON.
    python scripts/bench_mwmae.py --repeats 5
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.speed import peak_flops
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.flops import forward_flops
from hub_mim_mwmae.frontend import log_mel, mel_filters
from hub_mim_mwmae.modeling_mwmae import MwMaeForPreTraining
from hub_mim_mwmae.windows import MultiWindowAttention

RATE = 16_000


def fastest(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each, taken in turn; the first turn warms up."""
    found = dict.fromkeys(runs, float("inf"))
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            spent = time.process_time() - started
            found[name] = min(found[name], spent) if repeat else found[name]
    return found


def front_end(clips: int, repeats: int) -> dict[str, Any]:
    """Time spectrograms of 10-second clips."""
    from transformers import ASTFeatureExtractor
    from transformers.audio_utils import spectrogram, window_function

    waves = np.random.default_rng(0).normal(0, 0.1, (clips, 10 * RATE)).astype(np.float32)
    tensor, extractor = torch.from_numpy(waves), ASTFeatureExtractor()
    filters = mel_filters(400, 80, 50.0, 8000.0, RATE).numpy().astype(np.float64)
    window = window_function(400, "hann", periodic=True)

    def theirs(wave: np.ndarray) -> np.ndarray:
        mel = spectrogram(wave, window, 400, 160, power=2.0, mel_filters=filters, mel_floor=0.0)
        return np.log(mel + np.finfo(np.float32).eps)

    ours = log_mel(tensor[:1])[0].T.numpy()
    far = float(np.abs(ours - theirs(waves[0])).max())
    assert far < 1e-4, far
    seconds = fastest(
        {
            "ours": lambda: log_mel(tensor),
            "spectrogram": lambda: [theirs(wave) for wave in waves],
            "ast": lambda: extractor(list(waves), sampling_rate=RATE, return_tensors="pt"),
        },
        repeats,
    )
    return {
        "clips_per_second": {name: round(clips / value, 1) for name, value in seconds.items()},
        "over_spectrogram": round(seconds["spectrogram"] / seconds["ours"], 2),
        "over_ast": round(seconds["ast"] / seconds["ours"], 2),
        "largest_difference_to_spectrogram": far,
    }


def one_by_one(self: MultiWindowAttention, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """Attend head by head, in windows, by matrix products and softmax: the authors' way."""
    qkv = torch.cat([layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj)], -1)
    batch, length, _ = x.shape
    parts = qkv.reshape(batch, length, 3, len(self.windows), self.head_dim).permute(2, 3, 0, 1, 4)
    outs = []
    for head, window in enumerate(self.windows):
        size = window or length
        q, k, v = (part[head].reshape(-1, size, self.head_dim) for part in parts)
        scores = q @ k.transpose(1, 2) * self.scaling
        if window:
            places = torch.arange(window)
            scores = scores + self.tables[str(head)][places[:, None] - places + window - 1]
        outs.append((scores.softmax(-1) @ v).reshape(batch, length, -1))
    return self.o_proj(torch.cat(outs, -1)), None


def training(batch: int, repeats: int) -> dict[str, Any]:
    """Time a forward and backward pass of the base model."""
    torch.manual_seed(0)
    config = MwMaeConfig()
    model = MwMaeForPreTraining(config).train()
    values, seeds = torch.randn(batch, 200, 80), torch.arange(batch)
    usual = MultiWindowAttention.forward

    def step(forward: Any) -> Tensor:
        MultiWindowAttention.forward = forward  # type: ignore[method-assign]
        model.zero_grad()
        loss = model(values, row_seed=seeds).loss
        loss.backward()
        return loss.detach()

    first = step(usual)
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    second = step(one_by_one)
    # the bias of keys has no gradient but rounding: nothing is measured against less than a thousandth of the largest
    largest = max(float(weight.abs().max()) for weight in gradients.values())
    far = max(
        float((gradients[name] - p.grad).abs().max()) / max(float(p.grad.abs().max()), 1e-3 * largest)
        for name, p in model.named_parameters()
        if p.grad is not None
    )
    assert abs(first - second) / second < 1e-5
    assert far < 1e-3, far
    seconds = fastest({"ours": lambda: step(usual), "one by one": lambda: step(one_by_one)}, repeats)
    flops = 3 * forward_flops(config, {"input_values": values})
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "step_time_ratio": round(seconds["one by one"] / seconds["ours"], 3),
        "gradient_difference": far,
        "mfu_with_whole_scores_counted": round(flops / seconds["ours"] / peak_flops("cpu", "float32"), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "torch": torch.__version__,
        "front_end": front_end(options.clips, options.repeats),
        "training": training(options.batch, options.repeats),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
