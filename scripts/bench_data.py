"""How fast pictures come from files to tensors: transformers' processor on JPEGs, and on pictures of hub-mim's cache.

Writes JPEGs of 640 x 480 (generated), builds the cache at 224, and measures images per CPU second on one thread, interleaved, the
best of some repetitions: decoding and ViTImageProcessor; the same processor on cached pictures; cached pixels alone as uint8
tensors. Prints JSON, with the time to build the cache.

    python scripts/bench_data.py --pictures 256
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from hub_mim.data import load_rows
from hub_mim.picture_cache import cached

BATCH, SIDE = 32, 224


def write_pictures(folder: Path, count: int) -> None:
    """Write smooth random pictures, which compress as photographs do."""
    source = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def rate(rows: Any, make: Callable[[list[Any]], torch.Tensor]) -> float:
    """Return images per CPU second."""
    started = time.process_time()
    for start in range(0, len(rows), BATCH):
        make(rows[start : start + BATCH]["image"])
    return len(rows) / (time.process_time() - started)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})

    def processed(pictures: list[Any]) -> torch.Tensor:
        return processor(images=pictures, return_tensors="pt")["pixel_values"]

    def pixels(pictures: list[Any]) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(each.crop((0, 0, SIDE, SIDE))) for each in pictures]))

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        write_pictures(folder, options.pictures)
        rows = load_rows(folder)
        started = time.process_time()
        kept = cached(rows, Path(place) / "cache", SIDE)
        built = options.pictures / (time.process_time() - started)
        cases = {
            "files, processor": (rows, processed),
            "cache, processor": (kept, processed),
            "cache, uint8": (kept, pixels),
        }
        best = dict.fromkeys(cases, 0.0)
        for _ in range(options.repeats):
            for name, (source, make) in cases.items():
                best[name] = max(best[name], rate(source, make))
    told: dict[str, Any] = {name: round(value, 1) for name, value in best.items()}
    told["cache is built at"] = round(built, 1)
    told["times"] = {name: round(value / best["files, processor"], 2) for name, value in best.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
