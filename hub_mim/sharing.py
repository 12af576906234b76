"""Save a model as the folder that a Hub holds, and load it back: safetensors only, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import new_folder, write_json
from hub_mim.run import FILE, Run

if TYPE_CHECKING:
    from hub_mim.evaluation import Result

RESULTS = "results"
_OURS = ("*.safetensors", "*.safetensors.index.json", "config.json", "*processor_config.json", "README.md", FILE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def save(
    folder: str | Path,
    model: Any,
    processor: Any = None,
    *,
    run: Run | None = None,
    results: Sequence[Result] = (),
    overwrite: bool = False,
) -> Path:
    """Write model, processor, card, results and `run.json` into a folder, all or nothing.

    Args:
        folder: to write; other files in it are kept, and so is text that a user added to its card.
        model: a `PreTrainedModel`.
        processor: saved beside it.
        run: the record of its training.
        results: measured figures, kept in `results/` and shown in the card.
        overwrite: replace what an earlier call wrote.
    Raises:
        FileExistsError: the folder holds something and `overwrite` is false.
    """
    from hub_mim.cards import keep_user_text, render_card

    folder = Path(folder)
    old = folder / "README.md"
    before = old.read_text(encoding="utf-8") if old.is_file() else ""
    with new_folder(folder, overwrite=overwrite, replaced=_OURS) as partial:
        model.save_pretrained(partial)
        (partial / "generation_config.json").unlink(missing_ok=True)
        if processor is not None:
            processor.save_pretrained(partial)
        if run is not None:
            run.save(partial)
        for result in results:
            write_json(partial / RESULTS / f"{result.name}.json", result.to_dict())
        card = render_card(folder.name, model.config, run=run, results=results)
        (partial / "README.md").write_text(keep_user_text(card, before), encoding="utf-8")
    return folder


def load(source: str | Path, *, auto: str = "AutoModel", revision: str | None = None, **kwargs: Any) -> Any:
    """Load a checkpoint from a folder or a Hub by one of transformers' auto classes.

    Args:
        source: folder or Hub id.
        auto: which auto class.
        revision: of a Hub repository.
        kwargs: passed to `from_pretrained`.
    Raises:
        ValueError: not a checkpoint, no plugin here has its model type (the message says what to install), or its
            weights are a pickle, which can execute code and is never loaded.
    """
    import transformers

    import hub_mim

    hub_mim.register()
    check_loadable(source, revision)
    return getattr(transformers, auto).from_pretrained(
        str(source), revision=revision or "main", use_safetensors=True, **kwargs
    )


def load_processor(source: str | Path, *, revision: str | None = None) -> Any:
    """Load the processor saved beside a checkpoint; see `load`."""
    import transformers

    import hub_mim

    hub_mim.register()
    read_config(source, revision)
    return transformers.AutoProcessor.from_pretrained(str(source), revision=revision or "main")


def read_config(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint as plain values.

    Raises:
        ValueError: there is none.
    """
    from transformers.utils import cached_file

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ValueError(f"{source} is no checkpoint: it holds no config.json")
    try:
        path = cached_file(str(source), "config.json", revision=revision)
    except OSError as error:
        raise ValueError(f"{source} is neither a folder nor a repository that the Hub gave: {error}") from error
    return json.loads(Path(str(path)).read_text(encoding="utf-8"))


def check_loadable(source: str | Path, revision: str | None = None) -> None:
    """Raise a clear error for a checkpoint that cannot or must not be loaded here; see `load`."""
    from transformers import CONFIG_MAPPING

    from hub_mim.registry import missing_plugin_message

    model_type = read_config(source, revision).get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(missing_plugin_message(str(model_type)))
    folder = Path(source)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.iterdir() if path.suffix in _PICKLES]
        found = f"only {pickles[0]}, a pickle, which could execute code" if pickles else "no weights"
        raise ValueError(f"{source} holds {found}; safetensors are needed (hub-mim convert makes them)")


def checkpoint_weights(source: str | Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint's safetensors files by name, from a folder or a Hub."""
    from huggingface_hub import snapshot_download

    from hub_mim.weights import read_weights

    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(source), allow_patterns=["*.safetensors", "config.json"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{source} holds no safetensors weights")
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}
