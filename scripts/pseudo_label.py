"""Make depth and class maps for a folder of pictures, so that MultiMAE can be trained on any photographs.

    python scripts/pseudo_label.py photos/ labelled/ --depth Intel/dpt-hybrid-midas \\
        --semseg facebook/mask2former-swin-small-coco-panoptic
    hub-mim pretrain multimae --data labelled/ --out runs/mine

MODEL is a Hub id or a folder of any depth-estimation or segmentation model of transformers. OUT gets `rgb/`, `depth/` (16
bits) and `semseg/` (8 bits), one PNG a picture, `metadata.jsonl`, which `datasets` reads, and `labels.json` with the names
of the classes: where they are no 133, tell MultiMAE by --config modalities=[...]. An interrupted call goes on where it
stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from hub_mim.files import new_file

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
KINDS = ("rgb", "depth", "semseg")
MOST = 256  # classes that 8 bits hold


def depth_map(estimator: Any, picture: Image.Image) -> Image.Image:
    """Return the predicted depth on 16 bits, its own range stretched to all of them (its scale means nothing)."""
    values = estimator(picture)["predicted_depth"]
    values = torch.as_tensor(values).float().reshape(1, 1, *values.shape[-2:])
    values = torch.nn.functional.interpolate(values, size=picture.size[::-1], mode="bilinear")[0, 0]
    low, high = values.aminmax()
    scaled = (values - low) / (high - low).clamp(min=1e-30) * 65535
    return Image.fromarray(scaled.round().clamp(0, 65535).numpy().astype(np.uint16))


def class_map(segmenter: Any, picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the class number of each pixel on 8 bits, and the classes' names; the last is where the model names none."""
    known = segmenter.model.config.id2label
    names = [*(str(known[number]) for number in sorted(known)), "nothing"]
    if len(names) > MOST:
        raise ValueError(f"the model names {len(names) - 1} classes; 8 bits hold {MOST - 1} and one for nothing")
    table = np.full(picture.size[::-1], len(names) - 1, np.uint8)
    for each in segmenter(picture):
        table[np.asarray(each["mask"]) > 0] = names.index(each["label"])
    return Image.fromarray(table), names


def label(source: Path, out: Path, depth: str | None, semseg: str | None, device: str | None = None) -> dict[str, Any]:
    """Label every picture under a folder.

    Args:
        source: folder of pictures. out: folder to write. depth, semseg: models; None leaves the kind out.
        device: of the models.
    Returns:
        How many pictures there are, how many were done now, and the ones that could not be read.
    Raises:
        ValueError: no picture, or no model.
    """
    from transformers import pipeline

    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise ValueError(f"no picture under {source}; endings are {', '.join(PICTURES)}")
    if depth is None and semseg is None:
        raise ValueError("give a model: --depth, --semseg or both")
    estimator = pipeline("depth-estimation", model=depth, device=device) if depth else None
    segmenter = pipeline("image-segmentation", model=semseg, device=device) if semseg else None
    told: dict[str, Any] = {"pictures": len(paths), "done": 0, "unreadable": []}
    names: list[str] = []
    for path in tqdm(paths, unit="picture"):
        name = "-".join(path.relative_to(source).with_suffix("").parts) + ".png"
        wanted = [out / kind / name for kind, model in (("rgb", True), ("depth", depth), ("semseg", semseg)) if model]
        if all(each.is_file() for each in wanted):
            continue
        try:
            picture = Image.open(path).convert("RGB")
        except (UnidentifiedImageError, OSError):
            told["unreadable"].append(str(path.relative_to(source)))
            continue
        made = {"rgb": picture}
        if estimator is not None:
            made["depth"] = depth_map(estimator, picture)
        if segmenter is not None:
            made["semseg"], names = class_map(segmenter, picture)
        for kind, value in made.items():
            (out / kind).mkdir(parents=True, exist_ok=True)
            with new_file(out / kind / name, overwrite=True) as partial:
                value.save(partial, format="PNG")
        told["done"] += 1
    _write_facts(out, names, depth, semseg)
    return told


def _write_facts(out: Path, names: list[str], depth: str | None, semseg: str | None) -> None:
    """Write which files belong together, and which models made them."""
    rows = [
        {
            f"{kind}_file_name": f"{kind}/{path.name}"
            for kind in ("rgb", "depth", "semseg")
            if (out / kind / path.name).is_file()
        }
        for path in sorted((out / "rgb").glob("*.png"))
    ]
    with new_file(out / "metadata.jsonl", overwrite=True) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    place = out / "labels.json"
    known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    facts = {"depth": depth, "semseg": semseg, "classes": names or known.get("classes", [])}
    with new_file(place, overwrite=True) as partial:
        partial.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--depth", metavar="MODEL")
    parser.add_argument("--semseg", metavar="MODEL")
    parser.add_argument("--device")
    options = parser.parse_args()
    try:
        told = label(options.source, options.out, options.depth, options.semseg, options.device)
    except ValueError as error:
        raise SystemExit(f"pseudo_label: {error}") from None
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
