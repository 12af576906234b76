"""Save a model as the folder that a Hub holds: safetensors only, written whole or not at all; `loading.py` reads it back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.checkpoints import in_turn
from hub_mim.files import finished, new_folder, read_json, write_file, write_json
from hub_mim.loading import ADAPTER, CONFIG, PROCESSORS, adapter_base, check_loadable, read_config
from hub_mim.run import FILE, Run
from hub_mim.secrets import hide

if TYPE_CHECKING:
    from hub_mim.results import Result

RESULTS = "results"
CONVERSION = "conversion.json"
PICTURE = "training.png"
# what describes the old weights goes with them, results too; a user's own files stay
OURS = (
    *(
        "*.safetensors",
        "*.safetensors.index.json",
        CONFIG,
        "generation_config.json",
        "README.md",
        FILE,
        CONVERSION,
        PICTURE,
        RESULTS,
    ),
    *(*PROCESSORS, "tokenizer.json", "vocab.*", "merges.txt", "special_tokens_map.json", "chat_template*"),
)


def save(
    folder: str | Path,
    model: Any,
    processor: Any = None,
    *,
    run: Run | None = None,
    results: Sequence[Result] = (),
    converted_from: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write model, processor, card, results and `run.json` into a folder, all or nothing.

    Args:
        folder: to write; a user's own files in it are kept, and so is text that a user added to its card; results of
            the weights that were there before are not.
        model: a `PreTrainedModel`.
        processor: saved beside it.
        run: the record of its training.
        results: measured figures, kept in `results/` and shown in the card.
        converted_from: file, sha256 and licence of the authors' weights, kept in `conversion.json`.
        overwrite: replace what an earlier call wrote.
    Raises:
        FileExistsError: the folder holds something and `overwrite` is false.
    """
    folder = Path(folder)
    before = _read_card(folder)
    with new_folder(folder, overwrite=overwrite, replaced=OURS, last=CONFIG) as partial:
        model.save_pretrained(partial)
        (partial / "generation_config.json").unlink(missing_ok=True)
        if processor is not None:
            processor.save_pretrained(partial)
        if run is not None:
            run.save(partial)
            _draw(run, partial)
        if converted_from is not None:
            write_json(partial / CONVERSION, dict(converted_from))
        _write_results(partial, results)
        _write_card(partial, folder.resolve().name, model.config, before)
    return folder


def _draw(run: Run, folder: Path) -> None:
    """Draw the losses of a run, where it logged any."""
    if any("loss" in line or "eval_loss" in line for line in run.history):
        from hub_mim.pictures import loss_curve

        loss_curve(run, folder / PICTURE)


def add_results(folder: str | Path, results: Sequence[Result]) -> Path:
    """Keep further results in a checkpoint's folder and show them in its card; the weights are not touched.

    Raises:
        ValueError: the folder holds no checkpoint.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder here; pull the checkpoint first, then keep results in it")
    check_loadable(folder)
    with (
        in_turn(folder.resolve().parent),
        new_folder(folder, overwrite=True, replaced=("README.md", RESULTS)) as partial,
    ):
        if (folder / RESULTS).is_dir():
            shutil.copytree(folder / RESULTS, partial / RESULTS)
        _write_results(partial, results)
        card = card_of(folder, folder.resolve().name, config_of(folder), results=read_results(partial))
        _keep_card(partial, card, _read_card(folder))
    return folder


def read_results(folder: str | Path) -> list[Result]:
    """Return the results kept in a checkpoint's folder, by name."""
    from hub_mim.results import Result

    return [Result.from_dict(read_json(path)) for path in finished(Path(folder) / RESULTS, "*.json")]


def _write_results(folder: Path, results: Sequence[Result]) -> None:
    for result in results:
        values = json.loads(hide(json.dumps(result.to_dict())))
        write_json(folder / RESULTS / f"{result.name}.json", values, overwrite=True)


def _write_card(folder: Path, name: str, config: Any, before: str) -> None:
    """Render the card from what the folder holds, below it what a user wrote before."""
    _keep_card(folder, card_of(folder, name, config), before)


def _keep_card(folder: Path, card: str, before: str) -> None:
    from hub_mim.cards import keep_user_text

    write_file(folder / "README.md", keep_user_text(card, before), overwrite=True)


def card_of(
    folder: Path, name: str, config: Any, *, place: str | None = None, results: Sequence[Result] | None = None
) -> str:
    """Return a fresh rendering of the card of a folder.

    Args:
        folder: of a checkpoint.
        name: of the checkpoint.
        config: the model's configuration.
        place: what the snippet loads; default the name.
        results: default those in the folder.
    """
    from hub_mim.cards import render_card

    run = Run.load(folder) if (folder / FILE).is_file() else None
    source = read_json(folder / CONVERSION) if (folder / CONVERSION).is_file() else None
    adapters = (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file()
    return render_card(
        name,
        config,
        run=run,
        results=read_results(folder) if results is None else results,
        converted_from=source,
        place=place,
        pictures=[path.name for path in finished(folder, "*.png")],
        base=adapter_base(folder)[0] if adapters else None,
    )


def config_of(folder: Path) -> Any:
    """Return the configuration of a checkpoint, of adapters that of their base."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**read_config(folder))


def _read_card(folder: Path) -> str:
    card = folder / "README.md"
    return card.read_text(encoding="utf-8") if card.is_file() else ""
