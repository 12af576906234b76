"""What all trials begin with, made once: finished checkpoints, tables, pictures, and what undisturbed commands make of them."""

import gc
import hashlib
import importlib
import io
import json
import pkgutil
from pathlib import Path
from typing import Any

from trials import NOTHING

MADE = Path()  # where it lies; see `at`
EXPECTED: dict[str, float] = {}  # seed -> sum of the weights; filled before anything is broken


def at(place: Path) -> Path:
    """Name the folder of what is made once."""
    global MADE
    MADE = place
    return place


def digest(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def visible(folder: Path) -> list[str]:
    """Return the names in a folder that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def checkpoint_state(folder: Path, names: dict[str, str], auto: str = "AutoModelForPreTraining") -> str:
    """Return which checkpoint a folder holds, by the seed in its record, and that all its parts are of that one.

    Args:
        folder: of the checkpoint. names: seed -> state. auto: the class that loads it.
    """
    from hub_mim import loading
    from hub_mim.run import Run

    if not folder.exists() or visible(folder) in ([], ["checkpoints"]):
        return NOTHING
    run = Run.load(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    if f"--seed {run.seed} " not in f"{card} ":
        return f"the card is not of the run with seed {run.seed}"
    weights = loading.load(folder, auto=auto).state_dict()
    total = sum(float(tensor.double().abs().sum()) for tensor in weights.values())
    known = EXPECTED.setdefault(str(run.seed), total)
    if known != total:
        return f"the weights are not those of seed {run.seed}: {total} and {known}"
    return names.get(str(run.seed), f"seed {run.seed}")


def train(folder: Path, seed: int, **options: Any) -> Any:
    """Train the toy for two steps, with a checkpoint after each."""
    from hub_mim.training import pretrain

    arguments = {"save_steps": 1, "eval_steps": 1, "save_total_limit": 1}
    return pretrain("toy", "sample:toy", folder, steps=2, batch_size=4, seed=seed, arguments=arguments, **options)


def tune(source: Path, folder: Path, **options: Any) -> Any:
    """Fine-tune the toy on labelled rows for two steps, with a checkpoint after each."""
    from hub_mim.finetuning import finetune

    arguments = {"save_steps": 1, "eval_steps": 1, "save_total_limit": 1}
    rows = str(MADE / "labelled.jsonl")
    return finetune(source, rows, folder, steps=2, batch_size=4, seed=3, arguments=arguments, **options)


def _write_labelled(path: Path) -> None:
    """Write rows of the toy that are called "large" or "small"."""
    from hub_mim_toy.example import sample

    rows = [row | {"label": "large" if row["values"][0][2] > 1 else "small"} for row in sample(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_states(place: Path) -> None:
    """Make once what all trials start from, and what they are compared with."""
    import numpy as np
    import torch

    from hub_mim import embedding
    from hub_mim.conversion import rename_back
    from hub_mim.loading import checkpoint_weights, load
    from hub_mim_toy.conversion_toy import rules

    for name, seed in (("old", 1), ("next", 2)):
        train(place / name, seed)
        checkpoint_state(place / name, {})
    _write_labelled(place / "labelled.jsonl")
    tune(place / "old", place / "tuned")
    checkpoint_state(place / "tuned", {}, "AutoModelForSequenceClassification")
    (place / "expected.json").write_text(json.dumps(EXPECTED))
    model = load(place / "old", auto="AutoModelForPreTraining")
    torch.save(rename_back(checkpoint_weights(place / "next"), rules(model.config)), place / "authors.pt")
    embedding.embed(place / "old", "sample:toy", place / "v.npy", batch_size=8)
    (place / "vectors.sha").write_text(hashlib.sha256(np.load(place / "v.npy").tobytes()).hexdigest())
    (place / "pictures.sha").write_text(hashlib.sha256(_draw_pictures(place / "pictures")).hexdigest())
    _write_regions(place / "stored.parquet")


def _draw_pictures(folder: Path) -> bytes:
    """Draw twelve small pictures; returns their pixels."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    source, pixels = np.random.default_rng(0), []
    for number in range(12):
        picture = source.integers(0, 255, (6 + number, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
        pixels.append(picture.tobytes())
    return b"".join(pixels)


def _write_regions(path: Path) -> None:
    """Write the regions of 24 pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hub_mim_regions.example import sample

    pq.write_table(pa.Table.from_pylist([{"id": number, **row} for number, row in enumerate(sample(24))]), path)


def warm() -> None:
    """Import what the commands use, and run none of it: threads and locks do not survive a fork. Fonts are laid out once here,
    and what there is by now is left out of every later garbage collection, which took most of a trial's time."""
    import datasets
    import matplotlib.pyplot
    import pandas  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401

    import hub_mim
    import hub_mim_remasker.filling  # noqa: F401
    import hub_mim_toy.modeling_toy  # noqa: F401

    for each in pkgutil.iter_modules(hub_mim.__path__, "hub_mim."):  # all, so that an edit meanwhile changes nothing
        if not each.ispkg and each.name != "hub_mim.__main__":
            importlib.import_module(each.name)
    torch.set_num_threads(1)
    hub_mim.register()
    datasets.disable_progress_bars()
    figure = matplotlib.pyplot.figure(layout="constrained")
    figure.gca().plot([0.1, 1, 10])
    figure.savefig(io.BytesIO())
    matplotlib.pyplot.close(figure)
    gc.collect()
    gc.freeze()
