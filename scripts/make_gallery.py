"""Draw one picture with a part for each modality, from checkpoints that are at hand; for the README.

    python scripts/make_gallery.py --out docs/gallery.png --row model_cards/remasker-breast-cancer sample:breast_cancer 12 ...

Each `--row` is a checkpoint, rows and how many of them; the drawing is that of `hub-mim show`.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import hub_mim
from hub_mim.files import new_file

WIDTH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw one picture with a part for each modality.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row", nargs=3, action="append", required=True, metavar=("CHECKPOINT", "DATA", "COUNT"))
    parser.add_argument("--split")
    options = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (checkpoint, data, count) in enumerate(options.row):
            split = None if data.startswith("sample:") else options.split
            path = hub_mim.show(checkpoint, data, Path(folder) / f"{number}.png", count=int(count), split=split)
            picture = Image.open(path).convert("RGB")
            parts.append(
                picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
            )
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    with new_file(options.out, overwrite=True) as partial:
        whole.quantize(256).save(partial, optimize=True)


if __name__ == "__main__":
    main()
