"""How fast rows come from files to tensors: pictures, sound, texts, tables, each beside what transformers or scikit-learn has.

Rows per CPU second on one thread, interleaved, the best of some repetitions; prints JSON.

- pictures: generated JPEGs of 640 x 480 to 224 x 224: ViTImageProcessor on files, and on decoded pictures; ours on both; the same
  two on pictures of the cache, and cached pixels alone as uint8 tensors; how fast the cache is built; "bytes": normalised later,
  on the device (`hub_mim.on_device`); "draft": JPEGs decoded smaller (`--draft-side 224`), and how many levels of 255 the pixels
  are off on average, of these and of scikit-learn's two photographs made 192 pixels large;
- workers (`--workers 0 1 2`, instead of all others): rows per second through a DataLoader with so many workers, by the clock and
  in CPU seconds of all processes, as floats and as bytes that become floats in this process; how many bytes a row has on the way;
- sound: clips of 10 s to log-mel spectrograms: ASTFeatureExtractor, ours (MW-MAE's);
- texts: sentences to padded numbers: the tokenizer alone, and within ours (UNITER's, with regions' tensors);
- tables: 20 columns to scaled values: scikit-learn's MinMaxScaler, ours (ReMasker's).

    python scripts/bench_data.py --pictures 256
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ASTFeatureExtractor, ViTImageProcessorPil

from hub_mim.data import Collator, Rows, load_rows
from hub_mim.drafting import drafted, with_drafts
from hub_mim.on_device import OnDevice, in_bytes
from hub_mim.picture_cache import cached
from hub_mim.pixels import pixel_values, squashed

BATCH, SIDE = 32, 224
Case = tuple[int, Callable[[], Any]]  # rows, and what makes their tensors


def write_pictures(folder: Path, count: int) -> None:
    """Write smooth random pictures, which compress as photographs do."""
    source = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def best_of(cases: dict[str, Case], repeats: int, clock: Callable[[], Any] = time.process_time) -> dict[str, Any]:
    """Return rows per second of each, taken in turn; by several clocks where `clock` gives an array."""
    found: dict[str, Any] = dict.fromkeys(cases, 0.0)
    for _ in range(repeats):
        for name, (rows, make) in cases.items():
            started = clock()
            make()
            found[name] = np.maximum(found[name], rows / (clock() - started)).tolist()
    return found


def clocks() -> Any:
    """Return the CPU seconds of this process and of its workers that have ended, and the time."""
    return np.array([sum(os.times()[:4]), time.perf_counter()])


def vit() -> Any:
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def pictures(count: int, repeats: int) -> dict[str, Any]:
    """Measure pictures."""
    processor, travel = vit(), in_bytes(vit())
    assert travel is not None

    def theirs(given: list[Any]) -> Any:
        return processor(images=given, return_tensors="pt")["pixel_values"]

    def their_bytes(given: list[Any]) -> Any:
        return travel.processor(images=given, return_tensors="pt")["pixel_values"]

    def ours(given: list[Any]) -> Any:
        return pixel_values([each.convert("RGB") for each in given], (SIDE, SIDE), [0.5] * 3, [0.5] * 3)

    def our_bytes(given: list[Any]) -> Any:
        return squashed([each.convert("RGB") for each in given], (SIDE, SIDE))

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
        decoded, drafts = rows[:BATCH]["image"], with_drafts(rows, SIDE)
        off = {"generated": levels_off(decoded, drafts[:BATCH]["image"], SIDE)} | photographs_off()
        best = best_of(
            {
                "files, ViTImageProcessor": of(rows, theirs),
                "files, ViTImageProcessor, bytes": of(rows, their_bytes),
                "files, ours": of(rows, ours),
                "files, ours, bytes": of(rows, our_bytes),
                "draft, ViTImageProcessor": of(drafts, theirs),
                "draft, ViTImageProcessor, bytes": of(drafts, their_bytes),
                "draft, ours": of(drafts, ours),
                "draft, ours, bytes": of(drafts, our_bytes),
                "decoded, ViTImageProcessor": (len(decoded), lambda: theirs(decoded)),
                "decoded, ViTImageProcessor, bytes": (len(decoded), lambda: their_bytes(decoded)),
                "decoded, ours": (len(decoded), lambda: ours(decoded)),
                "cache, ViTImageProcessor": of(kept, theirs),
                "cache, ViTImageProcessor, bytes": of(kept, their_bytes),
                "cache, ours": of(kept, ours),
                "cache, ours, bytes": of(kept, our_bytes),
                "cache, uint8": of(kept, pixels),
            },
            repeats,
        )
    return best | {
        "building the cache": built,
        "draft: levels off": off,
    }


def levels_off(whole: list[Any], others: list[Any], side: int) -> float:
    """Return the mean difference of pictures, made so large, from others."""
    first, second = (squashed(each, (side, side)).float() for each in (whole, others))
    return float((first - second).abs().mean())


def photographs_off(side: int = 192) -> dict[str, float]:
    """Return how far photographs that are decoded smaller are from whole ones."""
    from sklearn import datasets

    files = sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))
    return {each.name: levels_off([Image.open(each)], [drafted(Image.open(each), side)], side) for each in files}


def through_workers(count: int, repeats: int, workers: list[int]) -> dict[str, Any]:
    """Measure rows of files, and of the cache, through a loader to floats in this process."""
    processor, travel = vit(), in_bytes(vit())
    assert travel is not None
    finish = OnDevice(travel.table)
    collators = {"floats": Collator(processor), "bytes": Collator(processor, in_bytes=travel.processor)}

    def all_of(loader: DataLoader) -> None:
        for batch in loader:
            finish(batch)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        write_pictures(folder, count)
        rows = load_rows(folder).rename_column("image", "images")
        sources = {"files": rows, "cache": cached(rows, Path(place) / "cache", SIDE)}
        cases: dict[str, Case] = {}
        for (source, kept), (kind, collate), number in product(sources.items(), collators.items(), workers):
            loader: DataLoader = DataLoader(Rows(kept), BATCH, collate_fn=collate, num_workers=number)  # type: ignore[arg-type]
            cases[f"{source}, {kind}, {number} workers"] = count, partial(all_of, loader)
        best = best_of(cases, repeats, clocks)
        first = [dict(rows[number]) for number in range(BATCH)]
        size = {kind: collate(first)["pixel_values"].nbytes // BATCH for kind, collate in collators.items()}
    return {"rows per CPU second, per second": best, "bytes of a row": size}


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
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of data workers to compare, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.workers:
        print(json.dumps(through_workers(options.pictures, options.repeats, options.workers), indent=1))
        return
    told: dict[str, Any] = {"pictures": pictures(options.pictures, options.repeats)}
    told |= {"sound": sound(options.repeats), "texts": texts(options.repeats), "tables": tables(options.repeats)}
    print(json.dumps({"torch": torch.__version__} | told, indent=1))


if __name__ == "__main__":
    main()
