"""Write what this version makes into `tests/compatibility/VERSION`, for every later version to load, judge and go on from.

    OMP_NUM_THREADS=1 python scripts/make_compatibility.py              # once, when a version is released
    OMP_NUM_THREADS=1 python scripts/make_compatibility.py --cards      # when a checkpoint under model_cards/ is trained anew

A version's folder is kept as it is: one that is there is never written again. For each method it holds rows, a finished run,
an interrupted one with its checkpoint, adapters (peft), what was fine-tuned with adapters, and the numbers that came out.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "compatibility"
EXPECTED, CARDS = "expected.json", "model_cards.json"
STEPS, SAVED, KILLED = 8, 4, 6
TRAINED: dict[str, dict[str, Any]] = {
    "toy": {"config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "dropout": 0.1}},
    "remasker": {
        "preset": "tiny",
        "config": dict.fromkeys(("hidden_size", "decoder_hidden_size"), 8)
        | dict.fromkeys(("intermediate_size", "decoder_intermediate_size"), 16)
        | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.1},
    },
}
WIDTHS = {"bandana-cora": 1433, "lxmert-tiny": 768, "uniter-tiny": 768}  # of features learnt from, not of the sample's
INTERRUPT = """
import json, sys
from hub_mim.testing.killing import kill_after
sys.path.insert(0, sys.argv[1])
from make_compatibility import KILLED, pretrain
kill_after(KILLED)
pretrain(sys.argv[2], "interrupted")
"""


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Stand in a folder, so that what is written names no place of this machine."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def pretrain(method: str, out: str) -> Any:
    """Train on `rows.jsonl` of the current folder; the very call that a later version repeats to go on."""
    import hub_mim

    arguments = {"save_steps": SAVED, "eval_steps": SAVED, "logging_steps": 2}
    return hub_mim.pretrain(
        method,
        "rows.jsonl",
        out,
        validation=0.2,
        seed=3,
        steps=STEPS,
        batch_size=4,
        arguments=arguments,
        **TRAINED[method],
    )


def rows_of(method: str) -> list[dict[str, Any]]:
    """Return labelled rows of the toy's circle, or some of a table with gaps."""
    import math

    from hub_mim.samples import sample_rows

    if method == "toy":
        return [row | {"label": str(int(row["values"][0][2] > 1))} for row in sample_rows("toy", num_rows=32)]
    cells = sample_rows("iris-gaps", num_rows=32)
    return [
        {name: None if value is None or math.isnan(value) else value for name, value in row.items()} for row in cells
    ]


def vectors(source: Any, rows: Any) -> list[list[float]]:
    """Return the first numbers of the first vectors that a checkpoint makes of rows."""
    import numpy as np

    import hub_mim

    with tempfile.TemporaryDirectory() as folder:
        made = hub_mim.embed(source, rows, Path(folder) / "vectors.npy")
        return np.load(made.path)[:3, :16].tolist()


def losses(source: Any) -> dict[str, float]:
    """Return the masked losses of a checkpoint on the rows that its run held out, without those of a random model."""
    import hub_mim

    told = hub_mim.evaluate(source, "rows.jsonl", seed=1)
    return {result.metric_type: result.metric_value for result in told if "untrained" not in result.metric_type}


def logits(source: Any, rows: Any) -> list[list[float]]:
    """Return what a fine-tuned toy says of rows."""
    import torch

    import hub_mim

    model = hub_mim.load(source, auto="AutoModelForSequenceClassification").eval()
    batch = hub_mim.load_processor(source)(values=[row["values"] for row in rows])
    with torch.inference_mode():
        return model(**batch).logits.tolist()


def resumed(method: str) -> dict[str, float]:
    """Go on with the interrupted run of the current folder and return its last losses."""
    return pretrain(method, "interrupted").losses


def add_adapters() -> None:
    """Write adapters over the run of the current folder, with weights that are not zero."""
    import peft
    import torch

    import hub_mim

    base = hub_mim.load("run", auto="AutoModelForPreTraining")
    base.config._name_or_path = "run"
    torch.manual_seed(0)
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(base, options).save_pretrained("adapters")
    hub_mim.load_processor("run").save_pretrained("adapters")
    Path("adapters/README.md").unlink(missing_ok=True)


def fill(method: str) -> dict[str, Any]:
    """Write a method's folders into the current one; returns the numbers."""
    import hub_mim

    rows = rows_of(method)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pretrain(method, "run")
    hub_mim.evaluate("run", "rows.jsonl", save=True)
    command = [sys.executable, "-c", INTERRUPT, str(Path(__file__).parent), method]
    assert subprocess.run(command).returncode < 0, "it was to be killed"
    expected: dict[str, Any] = {"vectors": vectors("run", rows[:3]), "losses": losses("run")}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("rows.jsonl", "interrupted"):
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy
            copy(name, Path(folder) / name)
        with inside(Path(folder)):
            expected["resumed"] = resumed(method)
    if method == "toy":
        add_adapters()
        expected["adapters"] = vectors("adapters", rows[:3])
        hub_mim.finetune("run", "rows.jsonl", "finetuned", lora=True, steps=4, batch_size=8)
        expected["logits"] = logits("finetuned", rows[:3])
    return expected


def sample_for(folder: Path) -> Any:
    """Return two rows that a checkpoint under model_cards/ takes: sample rows, their features repeated to its width."""
    from hub_mim.evaluation import method_of
    from hub_mim.samples import sample_rows

    method = method_of(folder)
    rows = [dict(row) for row in sample_rows(method.name if method.sample_data else "breast_cancer", num_rows=2)]
    width = WIDTHS.get(folder.name)
    for row in rows if width else ():
        row["features"] = [(each * width)[:width] for each in row["features"]]
    return rows


def write_cards() -> None:
    """Write the numbers of the checkpoints under model_cards/."""
    found = {folder.name: vectors(folder, sample_for(folder)) for folder in sorted((ROOT / "model_cards").iterdir())}
    (KEPT / CARDS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write_version() -> None:
    """Write this version's folder, whole or not at all."""
    import hub_mim
    from hub_mim.files import new_folder

    lacking = [name for name in TRAINED if importlib.util.find_spec(f"hub_mim_{name}") is None]
    if lacking:
        raise SystemExit(f"the plugin of {lacking[0]} is not installed; make test installs all")
    with new_folder(KEPT / hub_mim.__version__) as folder:
        for method in TRAINED:
            (folder / method).mkdir()
            with inside(folder / method):
                expected = fill(method)
            (folder / method / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", action="store_true", help="write only the numbers of model_cards/")
    KEPT.mkdir(exist_ok=True)
    write_cards() if parser.parse_args().cards else write_version()


if __name__ == "__main__":
    main()
