"""How fast rows come from files to tensors: pictures, sound, texts, tables, each beside what transformers or scikit-learn has.

Rows per CPU second on one thread, interleaved, the best of some repetitions; prints JSON.

- pictures: generated JPEGs of 640 x 480 to 224 x 224: ViTImageProcessor on files, and on decoded pictures; ours on both; the same
  two on pictures of the cache, and cached pixels alone as uint8 tensors; how fast the cache is built;
- sound: clips of 10 s to log-mel spectrograms: ASTFeatureExtractor, ours (MW-MAE's);
- texts: sentences to padded numbers: the tokenizer alone, and within ours (UNITER's, with regions' tensors);
- tables: 20 columns to scaled values: scikit-learn's MinMaxScaler, ours (ReMasker's).

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
from transformers import ASTFeatureExtractor, ViTImageProcessorPil

from hub_mim.data import load_rows
from hub_mim.picture_cache import cached
from hub_mim.pixels import pixel_values

BATCH, SIDE = 32, 224
Case = tuple[int, Callable[[], Any]]  # rows, and what makes their tensors


def write_pictures(folder: Path, count: int) -> None:
    """Write smooth random pictures, which compress as photographs do."""
    source = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def best_of(cases: dict[str, Case], repeats: int) -> dict[str, float]:
    """Return rows per CPU second of each, taken in turn."""
    found = dict.fromkeys(cases, 0.0)
    for _ in range(repeats):
        for name, (rows, make) in cases.items():
            started = time.process_time()
            make()
            found[name] = max(found[name], rows / (time.process_time() - started))
    return found


def pictures(count: int, repeats: int) -> dict[str, Any]:
    """Measure pictures."""
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})

    def theirs(given: list[Any]) -> Any:
        return processor(images=given, return_tensors="pt")["pixel_values"]

    def ours(given: list[Any]) -> Any:
        return pixel_values([each.convert("RGB") for each in given], (SIDE, SIDE), [0.5] * 3, [0.5] * 3)

    def pixels(given: list[Any]) -> Any:
        return torch.from_numpy(np.stack([np.asarray(each.crop((0, 0, SIDE, SIDE))) for each in given]))

    def of(rows: Any, make: Callable[[list[Any]], Any]) -> Case:
        return len(rows), lambda: [make(rows[start : start + BATCH]["image"]) for start in range(0, len(rows), BATCH)]

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        write_pictures(folder, count)
        rows = load_rows(folder)
        started = time.process_time()
        kept = cached(rows, Path(place) / "cache", SIDE)
        built = count / (time.process_time() - started)
        decoded = rows[:BATCH]["image"]
        best = best_of(
            {
                "files, ViTImageProcessor": of(rows, theirs),
                "files, ours": of(rows, ours),
                "decoded, ViTImageProcessor": (len(decoded), lambda: theirs(decoded)),
                "decoded, ours": (len(decoded), lambda: ours(decoded)),
                "cache, ViTImageProcessor": of(kept, theirs),
                "cache, ours": of(kept, ours),
                "cache, uint8": of(kept, pixels),
            },
            repeats,
        )
    return best | {"building the cache": built}


def sound(repeats: int, clips: int = 8) -> dict[str, float]:
    """Measure spectrograms."""
    from hub_mim_mwmae.frontend import log_mel

    rate = 16_000
    waves = np.random.default_rng(0).normal(0, 0.1, (clips, 10 * rate)).astype(np.float32)
    extractor, tensor = ASTFeatureExtractor(), torch.from_numpy(waves)
    return best_of(
        {
            "ASTFeatureExtractor": (clips, lambda: extractor(list(waves), sampling_rate=rate, return_tensors="pt")),
            "ours": (clips, lambda: log_mel(tensor)),
        },
        repeats,
    )


def texts(repeats: int, count: int = 512) -> dict[str, float]:
    """Measure sentences, with ten regions each."""
    from hub_mim_uniter.processing_uniter import UniterProcessor

    source = np.random.default_rng(0)
    words = ["".join(source.choice(list("abcdefghijklmnopqrst"), 5)) for _ in range(500)]
    said = [" ".join(source.choice(words, 12)) for _ in range(count)]
    features = source.random((count, 10, 64), dtype=np.float32)
    rows = [
        {"text": text, "features": part, "boxes": np.tile([0.1, 0.1, 0.5, 0.5], (10, 1)), "box_unit": "share"}
        for text, part in zip(said, features, strict=True)
    ]
    processor = UniterProcessor(box_unit="share").fit(rows)
    return best_of(
        {
            "tokenizer alone": (count, lambda: processor.tokenizer(said, padding=True, return_tensors="pt")),
            "ours, with regions": (count, lambda: processor(rows=rows)),
        },
        repeats,
    )


def tables(repeats: int, count: int = 20_000) -> dict[str, float]:
    """Measure a table with missing cells."""
    import pandas as pd
    from sklearn.preprocessing import MinMaxScaler

    from hub_mim_remasker.processing_remasker import ReMaskerProcessor

    source = np.random.default_rng(0)
    values = source.normal(size=(count, 20))
    values[source.random(values.shape) < 0.1] = np.nan
    table = pd.DataFrame(values, columns=[f"c{number}" for number in range(20)])
    scaler, processor = MinMaxScaler().fit(values), ReMaskerProcessor().fit(table)
    return best_of(
        {
            "MinMaxScaler": (count, lambda: torch.from_numpy(scaler.transform(values).astype(np.float32))),
            "ours": (count, lambda: processor(table)),
        },
        repeats,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"pictures": pictures(options.pictures, options.repeats)}
    told |= {"sound": sound(options.repeats), "texts": texts(options.repeats), "tables": tables(options.repeats)}
    print(json.dumps({"torch": torch.__version__} | told, indent=1))


if __name__ == "__main__":
    main()
