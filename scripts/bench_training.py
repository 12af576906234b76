"""Pre-train from files on disk as a user does, and tell rows a second, the share of waiting for rows, MFU and memory.

Pictures are JPEG files of 640 by 480 with a caption each, sounds are wav files of ten seconds, all made here. Each method is
trained through `hub_mim.pretrain(..., mfu=True)`: from the files, and of pictures from the cache as well. Prints JSON lines.

    python scripts/bench_training.py --method mae siglip2 mwmae --preset base --batch 64 --workers 14 --set bf16=true
"""

import argparse
import csv
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_data import write_pictures

import hub_mim
from hub_mim import plugins

SECONDS, RATE = 10, 16_000


def write_sounds(folder: Path, count: int) -> None:
    """Write noise."""
    import soundfile

    source = np.random.default_rng(0)
    for number in range(count):
        soundfile.write(folder / f"{number:05}.wav", source.normal(0, 0.1, SECONDS * RATE).astype(np.float32), RATE)


def write_rows(folder: Path, count: int, sounds: bool) -> None:
    """Write a folder of rows, as `datasets` reads it."""
    folder.mkdir()
    if sounds:
        write_sounds(folder, count)
        return
    write_pictures(folder, count)
    with (folder / "metadata.csv").open("w") as file:
        rows = [(path.name, f"picture number {path.stem}") for path in sorted(folder.glob("*.jpg"))]
        csv.writer(file).writerows([("file_name", "text"), *rows])


def measure(name: str, data: Path, folder: Path, cache: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Train once; returns what was measured."""
    arguments = {key: json.loads(value) for key, value in (each.split("=", 1) for each in options.set)}
    arguments |= {
        "save_steps": 2 * options.steps,
        "dataloader_num_workers": options.workers,
        "logging_steps": max(1, options.steps // 5),
    }
    presets = plugins.get_method(name).presets
    preset = options.preset if options.preset in presets else next(iter(presets))
    extra: dict[str, Any] = {"cache": folder / "cache", "cache_side": 256} if cache else {}
    run = hub_mim.pretrain(
        name,
        str(data),
        folder / "out",
        preset=preset,
        steps=options.steps,
        batch_size=options.batch,
        validation=0,
        mfu=True,
        overwrite=True,
        arguments=arguments,
        **extra,
    )
    told = {"method": name, "preset": preset, "rows a step": options.batch, "from": "cache" if cache else "files"}
    return told | {"arguments": arguments, "hardware": run.hardware} | run.speed


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["mae", "siglip2", "cfm_vit", "mwmae"])
    parser.add_argument("--preset", default="base", help="the method's first, where it has none of that name")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--files", type=int, default=2048)
    parser.add_argument("--set", nargs="*", default=[], help="name=JSON of TrainingArguments")
    options = parser.parse_args()
    print(json.dumps({"torch": torch.__version__, "machine": platform.machine()}), flush=True)
    with tempfile.TemporaryDirectory() as root:
        for name in options.method:
            sounds = name == "mwmae"
            data = Path(root) / ("sounds" if sounds else "pictures")
            if not data.is_dir():
                write_rows(data, options.files, sounds)
            for cache in (False,) if sounds else (False, True):
                print(json.dumps(measure(name, data, Path(root), cache, options)), flush=True)


if __name__ == "__main__":
    main()
