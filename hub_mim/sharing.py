"""Save a model as the folder that a Hub holds, and load it back: safetensors only, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import check_exists, first_line, new_folder, read_json, write_file, write_json
from hub_mim.run import FILE, Run

if TYPE_CHECKING:
    from hub_mim.evaluation import Result

RESULTS = "results"
CONFIG = "config.json"
CONVERSION = "conversion.json"
_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
# what describes the old weights goes with them, results too; a user's own files stay
_OURS = (
    *(
        "*.safetensors",
        "*.safetensors.index.json",
        CONFIG,
        "generation_config.json",
        "README.md",
        FILE,
        CONVERSION,
        RESULTS,
    ),
    *(*_PROCESSORS, "tokenizer.json", "vocab.*", "merges.txt", "special_tokens_map.json", "chat_template*"),
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


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
    with new_folder(folder, overwrite=overwrite, replaced=_OURS, last=CONFIG) as partial:
        model.save_pretrained(partial)
        (partial / "generation_config.json").unlink(missing_ok=True)
        if processor is not None:
            processor.save_pretrained(partial)
        if run is not None:
            run.save(partial)
        if converted_from is not None:
            write_json(partial / CONVERSION, dict(converted_from))
        _write_results(partial, results)
        _write_card(partial, folder.resolve().name, model.config, before)
    return folder


def add_results(folder: str | Path, results: Sequence[Result]) -> Path:
    """Keep further results in a checkpoint's folder and show them in its card; the weights are not touched.

    Raises:
        ValueError: the folder holds no checkpoint.
    """
    from transformers import AutoConfig

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder here; pull the checkpoint first, then keep results in it")
    check_loadable(folder)
    _write_results(folder, results)
    _write_card(folder, folder.resolve().name, AutoConfig.from_pretrained(folder), _read_card(folder))
    return folder


def read_results(folder: str | Path) -> list[Result]:
    """Return the results kept in a checkpoint's folder, by name."""
    from hub_mim.evaluation import Result

    return [Result.from_dict(read_json(path)) for path in sorted((Path(folder) / RESULTS).glob("*.json"))]


def _write_results(folder: Path, results: Sequence[Result]) -> None:
    for result in results:
        write_json(folder / RESULTS / f"{result.name}.json", result.to_dict(), overwrite=True)


def _write_card(folder: Path, name: str, config: Any, before: str) -> None:
    """Render the card from what the folder holds, below it what a user wrote before."""
    from hub_mim.cards import keep_user_text, render_card

    run = Run.load(folder) if (folder / FILE).is_file() else None
    source = read_json(folder / CONVERSION) if (folder / CONVERSION).is_file() else None
    card = render_card(name, config, run=run, results=read_results(folder), converted_from=source)
    write_file(folder / "README.md", keep_user_text(card, before), overwrite=True)


def _read_card(folder: Path) -> str:
    card = folder / "README.md"
    return card.read_text(encoding="utf-8") if card.is_file() else ""


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
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _PROCESSORS):
        raise ValueError(f"{source} holds no processor ({', '.join(_PROCESSORS)})")
    return transformers.AutoProcessor.from_pretrained(str(source), revision=revision or "main")


def read_config(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint as plain values.

    Raises:
        ValueError: there is none.
        FileNotFoundError: a path that does not exist.
    """
    from transformers.utils import cached_file

    check_exists(source)
    if Path(source).is_file():
        raise ValueError(f"{source} is a file; give the folder of a checkpoint (hub-mim convert makes one of it)")
    if Path(source).is_dir() and not (Path(source) / CONFIG).is_file():
        raise ValueError(f"{source} is no checkpoint: it holds no config.json")
    try:
        path = cached_file(str(source), CONFIG, revision=revision)
    except OSError as error:
        raise ValueError(
            f"{source} is neither a folder nor a repository that the Hub gave: {first_line(error)}"
        ) from error
    return read_json(str(path))


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
        folder = Path(snapshot_download(str(source), allow_patterns=["*.safetensors", CONFIG]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{source} holds no safetensors weights")
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}
