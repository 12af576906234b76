"""`hub-mim new`: write a plugin that works, to be turned into a method step by step."""

import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from hub_mim.files import new_folder

# modality -> numbers per token and numbers per place of the template's processor at its defaults
MODALITIES = {
    "image": (192, 8),
    "audio": (129, 16),
    "text": (8, 32),
    "table": (1, 4),
    "graph": (3, 9),
    "image-text": (200, 33),
}


def new_plugin(
    name: str, folder: str | Path | None = None, *, modality: str = "image", overwrite: bool = False
) -> Path:
    """Write a plugin: a small masked autoencoder of the modality, its tests, README, card and packaging.

    Args:
        name: of the method: lower-case letters, digits and hyphens, beginning with a letter.
        folder: to write; default `hub-mim-NAME` here.
        modality: one of `MODALITIES`.
        overwrite: replace what is there.
    Returns:
        The folder.
    Raises:
        ValueError: a name that cannot be a module, or an unknown modality.
        FileExistsError: the folder holds something and `overwrite` is false.
    """
    stem = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", stem) or keyword.iskeyword(stem):
        raise ValueError(
            f"the name is {name!r}; it must be lower-case letters, digits and hyphens, such as 'my-method'"
        )
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}; it must be one of {', '.join(MODALITIES)}")
    _refuse_taken(name)
    target = Path(folder) if folder is not None else Path(f"hub-mim-{name}")
    words = _replacements(name, stem, modality)
    with new_folder(target, overwrite=overwrite) as partial:
        _write(files("hub_mim") / "template", partial, words)
        processor = (files("hub_mim") / "template" / "modalities" / f"{modality}.py").read_text(encoding="utf-8")
        goal = partial / f"hub_mim_{stem}" / f"processing_{stem}.py"
        goal.write_text(_replace(processor, words), encoding="utf-8")
    return target


def _refuse_taken(name: str) -> None:
    from hub_mim import plugins

    if name in plugins.methods():
        raise ValueError(f"a method called {name!r} is installed already, by {plugins.origin(name)[0]}; choose another")


def _replacements(name: str, stem: str, modality: str) -> dict[str, str]:
    title = "".join(word.capitalize() for word in stem.split("_"))
    channels, coordinates = MODALITIES[modality]
    kinds = '", "'.join(modality.split("-"))
    return {
        "hub-mim-mymethod": f"hub-mim-{name}",
        'name="mymethod"': f'name="{name}",\n            model_type="{stem}"' if name != stem else f'name="{name}"',
        '"hub-mim", "mymethod"]': f'"hub-mim", "{name}"]',
        "pretrain mymethod": f"pretrain {name}",
        "check mymethod": f"check {name}",
        'plugin_checks("mymethod")': f'plugin_checks("{name}")',
        "mymethod": stem,
        "MyMethod": title,
        "CHANNELS": str(channels),
        "COORDINATES": str(coordinates),
        "MODALITY": kinds,
    }


def _replace(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def _write(source: Any, target: Path, words: dict[str, str]) -> None:
    """Copy the template's files, names and text filled in; the processors of the modalities are not among them."""
    for entry in source.iterdir():
        if entry.name in ("modalities", "__pycache__"):
            continue
        goal = target / _replace(entry.name, words)
        if entry.is_dir():
            goal.mkdir()
            _write(entry, goal, words)
        else:
            goal.write_text(_replace(entry.read_text(encoding="utf-8"), words), encoding="utf-8")
