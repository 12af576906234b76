"""What of a checkpoint's folder goes to a Hub, and what is written for it: card, results for leaderboards, shim."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hub_mim.files import read_json, write_file, write_json
from hub_mim.loading import ADAPTER, CONFIG, PICKLES, adapter_base, check_weights, read_config

SHIM = "hub_mim_shim"
EVAL_RESULTS = ".eval_results"
_SMALL = 2**20
_TRAINERS = ("training_args.bin", "lock", "complete.json")  # what Trainer pushes while it trains
_LOCAL = ("checkpoints", "__pycache__")  # of a run that goes on


def pushed_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are pushed; hidden ones and checkpoints of an unfinished run are not."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    parts = [path.relative_to(folder).parts for path in found]
    return [
        path
        for path, names in zip(found, parts, strict=True)
        if names[0] not in _LOCAL and not any(name.startswith(".") for name in names)
    ]


def check_pushable(folder: Path, token: str | None = None) -> None:
    """Raise unless a folder is a checkpoint that can be shared.

    Raises:
        ValueError: it is none, or holds a pickle, a damaged file, or a token of a Hub.
    """
    from hub_mim.secrets import TOKEN, known_tokens

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder here; give the folder of a checkpoint")
    if not (folder / CONFIG).is_file() and not (folder / ADAPTER).is_file():
        raise ValueError(f"{folder} is no checkpoint: it holds no config.json")
    if not (folder / CONFIG).is_file() and Path(adapter_base(folder)[0]).exists():
        raise ValueError(
            f"the adapters in {folder} belong to a folder of this machine ({adapter_base(folder)[0]}); push that first, and "
            f"write its repository into {ADAPTER}"
        )
    check_weights(folder)
    secrets = [each for each in (token, *known_tokens()) if each]
    for path in pushed_files(folder):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{name} in {folder} is a link to {path.resolve()}, outside of the folder; copy what is meant"
            )
        if path.suffix in PICKLES:
            raise ValueError(
                f"{name} in {folder} is a pickle or could hold one; only safetensors are shared: remove it"
            )
        if path.stat().st_size <= _SMALL:
            content = path.read_bytes().decode("utf-8", "replace")
            if TOKEN.search(content) or any(secret in content for secret in secrets):
                raise ValueError(f"{name} in {folder} holds a token of a Hub; remove it there (and make a new one)")


def is_ours(path: str) -> bool:
    """Tell whether a file of a repository is one that we write, so that it goes when its model does."""
    from hub_mim.sharing import OURS

    top = path.partition("/")[0]
    return any(fnmatch(top, pattern) for pattern in (*OURS, ADAPTER, *_TRAINERS)) or path in (
        f"{SHIM}.py",
        f"{EVAL_RESULTS}/{SHIM.partition('_shim')[0]}.yaml",
    )


def stage(folder: Path, repository: str, where: Path, *, card: str = "", remote_shim: bool = False) -> Path:
    """Lay out a folder as it will be in a repository.

    Args:
        folder: of a checkpoint.
        repository: its name on the Hub, for the card.
        where: an empty folder to write into.
        card: the README that is on the Hub now; what a user wrote there is kept.
        remote_shim: see `transfer.push`.
    """
    for path in pushed_files(folder):
        goal = where / path.relative_to(folder)
        goal.parent.mkdir(parents=True, exist_ok=True)
        try:
            goal.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, goal)
    _write_card(folder, repository, where, card)
    _write_eval_results(folder, where)
    if remote_shim:
        _write_shim(where)
    return where


def _write_card(folder: Path, repository: str, where: Path, before: str) -> None:
    from hub_mim import plugins
    from hub_mim.cards import merge_user_text
    from hub_mim.sharing import card_of, config_of

    local = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    if plugins.find_by_model_type(read_config(folder).get("model_type")) is not None:
        text = card_of(folder, repository.rpartition("/")[2], config_of(folder), place=repository)
        text = merge_user_text(text, local, before)
    else:  # a model of transformers' own: its card is its owner's
        text = local or before
    if text:
        write_file(where / "README.md", text, overwrite=True)


def _write_eval_results(folder: Path, where: Path) -> None:
    """Write the results on a Hub's datasets in the form that leaderboards read; others mean nothing there."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    from hub_mim.sharing import read_results

    entries = [
        EvalResultEntry(
            dataset_id=result.dataset_name,
            task_id=result.protocol,
            value=result.metric_value,
            notes=f"{result.metric_name}; split: {result.split}; seeds: {', '.join(map(str, result.seeds))}",
        )
        for result in read_results(folder)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", result.dataset_name)
    ]
    if entries:
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        write_file(where / EVAL_RESULTS / "hub_mim.yaml", text)


def _write_shim(where: Path) -> None:
    """Add the code and the `auto_map` by which `trust_remote_code=True` finds the installed plugin.

    Raises:
        ValueError: no plugin here has the model type.
    """
    from hub_mim import plugins
    from hub_mim.method import split

    method = plugins.method_for_model_type(read_config(where)["model_type"])
    classes = {"AutoConfig": method.config}
    classes |= {auto: value for auto, value in method.auto.items() if isinstance(value, str)}
    names = {auto: split(value) for auto, value in classes.items()}
    imports: dict[str, set[str]] = {}
    for module, name in names.values():
        imports.setdefault(module, set()).add(name)
    lines = [
        f"from {module} import {', '.join(sorted(found))}  # noqa: F401" for module, found in sorted(imports.items())
    ]
    text = f'"""Finds {method.name} in the installed {plugins.origin(method.name)[0]}; nothing else is here."""\n\n'
    write_file(where / f"{SHIM}.py", text + "\n".join(lines) + "\n")
    processors = {auto: name for auto, (_, name) in names.items() if "Model" not in auto and auto != "AutoConfig"}
    models = {auto: name for auto, (_, name) in names.items() if auto not in processors}
    _add_auto_map(where / CONFIG, models)
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (where / file).is_file():
            _add_auto_map(where / file, processors)


def _add_auto_map(path: Path, classes: dict[str, Any]) -> None:
    values = read_json(path) | {"auto_map": {auto: f"{SHIM}.{name}" for auto, name in classes.items()}}
    write_json(path, values, overwrite=True)
