"""The commands under test that need no Hub: how each is prepared, called and read."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
from snapshots import tree_hash
from trials import NEW, NOTHING, OLD, Command

CHECKPOINTS = "run/checkpoints/checkpoint-*"


def copied(name: str) -> Callable[[Path], Any]:
    """Return what lays a finished checkpoint out as `run`."""
    return lambda folder: shutil.copytree(made.MADE / name, folder / "run")


def pretrain() -> Command:
    def run(folder: Path) -> None:
        made.train(folder / "run", 2, overwrite=(folder / "run" / "run.json").is_file())

    def state(folder: Path) -> str:
        return made.checkpoint_state(folder / "run", {"2": NEW})

    return Command("pretrain", lambda folder: None, run, state, hashed=(CHECKPOINTS,))


def pretrain_over() -> Command:
    def run(folder: Path) -> None:
        made.train(folder / "run", 2, overwrite=not (folder / "run" / "checkpoints" / "run.json").is_file())

    def state(folder: Path) -> str:
        return made.checkpoint_state(folder / "run", {"1": OLD, "2": NEW})

    return Command("pretrain --overwrite", copied("old"), run, state, OLD, hashed=(CHECKPOINTS,))


def finetune() -> Command:
    def run(folder: Path) -> None:
        made.tune(made.MADE / "old", folder / "run", overwrite=(folder / "run" / "run.json").is_file())

    def state(folder: Path) -> str:
        return made.checkpoint_state(folder / "run", {"3": NEW}, "AutoModelForSequenceClassification")

    return Command("finetune", lambda folder: None, run, state, hashed=(CHECKPOINTS,))


def table(folder: Path) -> None:
    """Write a table with gaps."""
    rows = [f"{n},{n * 2 if n % 5 else ''},{'x' if n % 2 else 'y'}" for n in range(40)]
    (folder / "table.csv").write_text("a,b,c\n" + "\n".join(rows) + "\n")


def impute() -> Command:
    def run(folder: Path) -> None:
        from hub_mim_remasker.filling import fill_file

        fill_file(folder / "table.csv", folder / "filled.csv", max_steps=2, compare=False, overwrite=True, seed=3)

    def state(folder: Path) -> str:
        import pandas

        from hub_mim import loading

        if not (folder / "filled.csv").exists():
            return NOTHING
        filled = pandas.read_csv(folder / "filled.csv")
        if filled.isna().any().any() or len(filled) != 40:
            return "a table with gaps"
        loading.load(folder / "filled-model")  # the table is written last: with it, all is there
        return NEW if (folder / "filled-distributions.png").read_bytes()[:4] == b"\x89PNG" else "half a picture"

    return Command("impute", table, run, state)


def embed() -> Command:
    def run(folder: Path) -> None:
        from hub_mim import embedding

        embedding._PART_ROWS = 16  # several parts
        embedding.embed(folder / "old", "sample:toy", folder / "vectors.parquet", batch_size=8, overwrite=True)

    def state(folder: Path) -> str:
        import pyarrow.parquet

        if not (folder / "vectors.parquet").exists():
            return NOTHING
        vectors = pyarrow.parquet.read_table(folder / "vectors.parquet").column("embedding").combine_chunks().flatten()
        found = hashlib.sha256(vectors.to_numpy().tobytes()).hexdigest()
        return NEW if found == (made.MADE / "vectors.sha").read_text() else "other vectors"

    def prepare(folder: Path) -> None:
        shutil.copytree(made.MADE / "old", folder / "old")

    return Command("embed", prepare, run, state, hashed=(".vectors.parquet.parts/*.parquet",))


def regions() -> Command:
    def run(folder: Path) -> None:
        from hub_mim_regions import extraction

        extraction.PART = 8  # several parts
        extraction.extract(made.MADE / "stored.parquet", folder / "regions.parquet", backend="stored", overwrite=True)

    def state(folder: Path) -> str:
        import pyarrow.parquet as pq

        if not (folder / "regions.parquet").exists():
            return NOTHING
        found, wanted = (pq.read_table(place / "regions.parquet") for place in (folder, made.MADE))
        return NEW if found.equals(wanted) else "other regions"

    return Command("regions", lambda folder: None, run, state, hashed=(".regions.parquet.parts/*.parquet",))


def show() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.showing import show as run_show

        run_show(made.MADE / "old", "sample:toy", folder / "out" / "shown.png", overwrite=True)

    return Command("show", lambda folder: None, run, same_file("out/shown.png"))


def report() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.reporting import report as run_report

        run_report([made.MADE / "old"], folder / "out" / "report.html", overwrite=True)

    return Command("report", lambda folder: None, run, same_file("out/report.html"))


def same_file(name: str) -> Callable[[Path], str]:
    """Return what tells whether a file is there, and is what an undisturbed call made."""

    def state(folder: Path) -> str:
        if not (folder / name).exists():
            return NOTHING
        return NEW if made.digest(folder / name) == made.digest(made.MADE / name) else f"another {name}"

    return state


def new() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.newplugin import new_plugin

        new_plugin("never-seen", folder / "plugin", overwrite=True)

    def state(folder: Path) -> str:
        if not (folder / "plugin").exists():
            return NOTHING
        return NEW if tree_hash(folder / "plugin") == tree_hash(made.MADE / "plugin") else "another plugin"

    return Command("new", lambda folder: None, run, state)


def convert() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.conversion import convert as run_convert

        run_convert("toy", made.MADE / "authors.pt", folder / "out", config={"num_attention_heads": 2}, overwrite=True)

    def prepare(folder: Path) -> None:
        shutil.copytree(made.MADE / "old", folder / "out")

    def state(folder: Path) -> str:
        from hub_mim import loading

        converted, run = (folder / "out" / "conversion.json").exists(), (folder / "out" / "run.json").exists()
        loading.load(folder / "out", auto="AutoModelForPreTraining")
        same = made.digest(folder / "out" / "model.safetensors") == made.digest(made.MADE / "old" / "model.safetensors")
        return {(False, True, True): OLD, (True, False, False): NEW}.get((converted, run, same), "a mixture")

    return Command("convert --overwrite", prepare, run, state, OLD)


def evaluate() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.evaluation import evaluate as run_evaluate

        run_evaluate(folder / "run", "sample:toy", protocol="mean-error", save=True)

    def state(folder: Path) -> str:
        from hub_mim.sharing import read_results

        kept, before = read_results(folder / "run"), made.checkpoint_state(folder / "run", {"1": OLD})
        card = (folder / "run" / "README.md").read_text(encoding="utf-8")
        told = [each for each in kept if f"{each.metric_value:.4g}" in card]
        if before != OLD or len(told) != len(kept):
            return f"{before}; the card tells {len(told)} of {len(kept)} results"
        return NEW if kept else OLD

    return Command("evaluate --save (card)", copied("old"), run, state, OLD)


def cache() -> Command:
    def prepare(folder: Path) -> None:
        shutil.copytree(made.MADE / "pictures", folder / "pictures")

    def cached(folder: Path) -> Any:
        from hub_mim import picture_cache
        from hub_mim.data import load_rows

        picture_cache.FLUSH = 4
        return picture_cache.cached(load_rows(folder / "pictures"), folder / "cache")

    def state(folder: Path) -> str:
        if not (folder / "cache" / "index.bin").exists():
            return NOTHING
        if (folder / "cache" / "index.bin").stat().st_size < 12 * 32:
            return NOTHING  # not whole: what reads it builds it first
        pixels = b"".join(row["image"].tobytes() for row in cached(folder))
        same = hashlib.sha256(pixels).hexdigest() == (made.MADE / "pictures.sha").read_text()
        return NEW if same else "other pixels"

    return Command("cache", prepare, lambda folder: len(cached(folder)), state)


COMMANDS = (
    cache,
    show,
    report,
    new,
    convert,
    regions,
    embed,
    evaluate,
    impute,
    pretrain,
    finetune,
    pretrain_over,
)


def make_results() -> None:
    """Make once what the commands make whose results are compared byte for byte."""
    for command in (regions(), show(), report(), new()):
        command.run(made.MADE)
