"""Time embedding against the model's own forward pass, nearest neighbours and batched probes; prints JSON.

    python scripts/bench_evaluation.py --rows 2048 --repeats 3

Interleaved in one process, same threads, batch and dtype; figures are minima of process CPU seconds.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def least(repeats: int, **work: Callable[[], Any]) -> dict[str, float]:
    """Return the least CPU seconds of each piece of work over interleaved repetitions."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            started = time.process_time()
            function()
            found[name].append(time.process_time() - started)
    return {name: round(min(seconds), 4) for name, seconds in found.items()}


def embedding(rows: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Compare `features` (processor, encoder, pooling) with the processor and the encoder alone."""
    from hub_mim.data import batches, encode
    from hub_mim.features import features
    from hub_mim.samples import sample_rows
    from hub_mim.testing.subject import Subject

    subject = Subject("mae")
    model, processor = subject.model("AutoModel", mask_ratio=0.0), subject.example.processor
    data = list(sample_rows("mae", num_rows=rows))

    def forward() -> None:
        with torch.inference_mode():
            for part in batches(data, batch_size):
                model(**encode(processor, part))

    seconds = least(repeats, forward=forward, features=lambda: features(model, processor, data, batch_size=batch_size))
    return {
        "rows": rows,
        "batch_size": batch_size,
        **seconds,
        "ratio": round(seconds["features"] / seconds["forward"], 4),
    }


def neighbours(count: int, width: int) -> dict[str, Any]:
    """Time the nearest neighbours of a fifth of so many features among the rest."""
    from hub_mim.probes import nearest

    source = np.random.default_rng(0)
    values, labels = source.normal(size=(count, width)).astype(np.float32), source.integers(0, 10, count)
    held = count // 5
    started, wall = time.process_time(), time.monotonic()
    nearest(values[held:], labels[held:], values[:held])
    return {
        "features": count,
        "width": width,
        "cpu_seconds": round(time.process_time() - started, 2),
        "wall_seconds": round(time.monotonic() - wall, 2),
    }


def probes(rows: int, width: int, repeats: int) -> dict[str, Any]:
    """Compare seven learning rates trained at once with seven trained one after another."""
    from hub_mim.probes import RATES, _train_probes

    source = torch.Generator().manual_seed(0)
    values, targets = torch.randn(rows, width, generator=source), torch.randint(0, 10, (rows,), generator=source)

    def train(rates: list[float]) -> Any:
        return _train_probes(values, targets, 10, 0, 10, 512, rates)

    seconds = least(repeats, at_once=lambda: train(list(RATES)), one_by_one=lambda: [train([rate]) for rate in RATES])
    return {"rows": rows, "width": width, **seconds, "speedup": round(seconds["one_by_one"] / seconds["at_once"], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time embedding, nearest neighbours and probes.")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        json.dumps(
            {
                "threads": options.threads,
                "embedding": embedding(options.rows, options.batch_size, options.repeats),
                "neighbours": neighbours(50_000, 768),
                "probes": probes(20_000, 384, options.repeats),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
