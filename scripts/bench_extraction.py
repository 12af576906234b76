"""How many pictures a second regions are found in: crops of 36 given boxes, a grid over ViT-B/16, RT-DETR; prints JSON.

Generated pictures of 640 x 480, one thread, process CPU time, the best of some repetitions. The networks have random weights,
which changes nothing of their speed, and the sizes of the released ones (`google/vit-base-patch16-224`, `PekingU/rtdetr_r50vd`).

    python scripts/bench_extraction.py --pictures 8
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from hub_mim_regions.sources import Crop, Detector, Grid

REGIONS = 36


def pictures(count: int) -> list[Image.Image]:
    """Return smooth random pictures."""
    source = np.random.default_rng(0)
    small = [Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(count)]
    return [each.resize((640, 480), Image.Resampling.BICUBIC) for each in small]


def boxes(count: int) -> list[np.ndarray]:
    """Return boxes (36, 4) as shares of each picture's sides."""
    corners = np.random.default_rng(1).random((count, REGIONS, 2, 2)) * 0.5
    corners[:, :, 1] += 0.5
    return list(corners.reshape(count, REGIONS, 4).astype(np.float32))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sources: dict[str, Any] = {
        "crop": Crop(),
        "grid, ViT-B/16": Grid(ViTModel(ViTConfig()).eval(), ViTImageProcessorPil()),
        "detector, RT-DETR R50": Detector(
            RTDetrForObjectDetection(RTDetrConfig()).eval(), RTDetrImageProcessorPil(), regions=REGIONS
        ),
    }
    seen, given = pictures(options.pictures), boxes(options.pictures)
    best = dict.fromkeys(sources, 0.0)
    for _ in range(options.repeats):
        for name, source in sources.items():
            started = time.process_time()
            found = source(seen, given)
            best[name] = max(best[name], len(found) / (time.process_time() - started))
    told = {"torch": torch.__version__, "threads": 1, "pictures_per_cpu_second": best}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
