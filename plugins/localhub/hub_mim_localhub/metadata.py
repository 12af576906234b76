"""What a README's front matter says: checked like the Hub checks it, and turned into the tags that searches look at."""

import re
from typing import Any

import yaml

from hub_mim_localhub.errors import HubError

MAX_CARD = 2**20
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*$\r?\n?", re.DOTALL | re.MULTILINE)
_TEXTS = ("license", "library_name", "pipeline_tag", "license_name", "license_link")
_LISTS = ("tags", "datasets", "metrics", "language", "base_model", "task_categories", "size_categories")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: ten lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed here")
        return super().compose_node(parent, index)


def split_card(text: str) -> tuple[str, str]:
    """Return the front matter and what follows it."""
    found = _FRONT.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def read_metadata(text: str) -> dict[str, Any]:
    """Return the front matter of a README.

    Raises:
        HubError: it is no YAML mapping, or a member has the wrong type; all faults are told.
    """
    front, _ = split_card(text)
    try:
        data = yaml.load(front, _PlainLoader) if front.strip() else {}
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise _invalid([f"the front matter is no YAML: {' '.join(str(error).split())[:300]}"]) from error
    if not isinstance(data, dict):
        raise _invalid([f"the front matter must be a mapping, not {type(data).__name__}"])
    plain: dict[str, Any] = _plain(data)
    if faults := _faults(plain):
        raise _invalid(faults)
    return plain


def _invalid(faults: list[str]) -> HubError:
    return HubError(400, "invalid metadata in README.md", errors=[{"message": fault} for fault in faults], warnings=[])


def _plain(value: Any) -> Any:
    """Turn what YAML knows and JSON does not (dates, sets, keys that are no text) into text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value not in (value,):
        return str(value)  # not a number
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _faults(data: dict[str, Any]) -> list[str]:
    faults = [f'"{name}" must be a string' for name in _TEXTS if not isinstance(data.get(name, ""), str | list)]
    for name in _LISTS:
        value = data.get(name, [])
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
        ):
            faults.append(f'"{name}" must be a string or a list of strings')
    return faults + _index_faults(data.get("model-index", []))


def _index_faults(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be a list']
    faults = []
    for number, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            faults.append(f'"model-index[{number}].name" is required and must be a string')
            continue
        for place, result in enumerate(model.get("results") or []):
            where = f"model-index[{number}].results[{place}]"
            for part, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
                value = result.get(part) if isinstance(result, dict) else None
                faults += [
                    f'"{where}.{part}.{name}" is required'
                    for name in needed
                    if not isinstance(value, dict) or name not in value
                ]
    return faults


def warnings(text: str) -> list[dict[str, str]]:
    """Return what a card should have and lacks."""
    lacks = not split_card(text)[0].strip()
    return [{"message": "empty or missing yaml metadata in repo card"}] if lacks else []


def tags(data: dict[str, Any]) -> list[str]:
    """Return the words by which a repository is found, without doubles."""
    found = [*_list(data.get("tags")), *_list(data.get("library_name")), *_list(data.get("language"))]
    found += [f"license:{each}" for each in _list(data.get("license"))]
    found += [f"dataset:{each}" for each in _list(data.get("datasets"))]
    found += [f"base_model:{each}" for each in _list(data.get("base_model"))]
    found += [f"task_categories:{each}" for each in _list(data.get("task_categories"))]
    found += [f"size_categories:{each}" for each in _list(data.get("size_categories"))]
    return list(dict.fromkeys([*found, *_list(data.get("pipeline_tag"))]))


def _list(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [value] if isinstance(value, str) else []
