"""Verbs that tell what is here: methods, runs, what is broken.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from hub_mim.commands.options import Endpoint, Json, known_method
from hub_mim.console import print_json, print_pairs, print_table, say


def ls(
    hub: Annotated[bool, typer.Option("--hub", help="List the checkpoints that a Hub holds instead.")] = False,
    search: Annotated[str | None, typer.Option(help="With --hub: part of a name.")] = None,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """List the installed methods and where each comes from, or the checkpoints of a Hub.

    Example: hub-mim ls --hub --search wine
    """
    if hub:
        _ls_hub(search, endpoint, json)
        return
    if search is not None or endpoint is not None:
        raise typer.BadParameter("--search and --endpoint go with --hub")
    from hub_mim import plugins

    rows = [
        (
            name,
            method.title,
            ", ".join(method.modalities),
            method.licence,
            " ".join(plugins.origin(name)),
            plugins.source(name),
        )
        for name, method in sorted(plugins.methods().items())
    ]
    if json:
        keys = ("name", "title", "modalities", "licence", "distribution", "source")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_table(("METHOD", "TITLE", "MODALITIES", "LICENCE", "FROM", "SOURCE"), rows)
    for plugin in plugins.broken():
        say(f"{plugin.name} ({plugin.distribution} {plugin.version}) is set apart: {plugin.error}; see hub-mim doctor")


def _ls_hub(search: str | None, endpoint: str | None, json: bool) -> None:
    from hub_mim.transfer import listed

    found = listed(search=search, endpoint=endpoint)
    if json:
        print_json(found)
        return
    rows = [
        (
            each["repository"] + (" (private)" if each["private"] else ""),
            (each["method"] or "?") + ("" if each["installed"] else " (not installed)"),
            ", ".join(each["tags"]),
            each["modified"],
        )
        for each in found
    ]
    print_table(("REPOSITORY", "METHOD", "TAGS", "CHANGED"), rows)


def info(name: Annotated[str, typer.Argument(help="A method, or the folder of a run.")], json: Json = False) -> None:
    """Tell about a method (paper, presets, recipe) or about a finished run.

    Example: hub-mim info remasker
    """
    facts = _run_facts(Path(name)) if (Path(name) / "run.json").is_file() else _method_facts(name)
    if json:
        print_json(facts)
    else:
        print_pairs({key: _flat(value) for key, value in facts.items() if key not in ("config", "history")})


def _method_facts(name: str) -> dict[str, Any]:
    from hub_mim import plugins

    method = known_method(name)
    distribution, version = plugins.origin(method.name)
    facts = {key: getattr(method, key) for key in ("name", "title", "paper", "licence", "modalities", "tags")}
    facts |= {"from": f"{distribution} {version}", "auto classes": dict(method.auto)}
    facts |= {"presets": {key: dict(value) for key, value in method.presets.items()}, "recipe": dict(method.recipe)}
    return facts | {"evaluators": sorted(method.evaluators), "adapters (LoRA) on": list(method.lora_targets)}


def _run_facts(folder: Path) -> dict[str, Any]:
    from hub_mim.run import Run

    return Run.load(folder).to_dict()


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key}={{}}" if item == {} else f"{key}={_flat(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def doctor(json: Json = False) -> None:
    """Look for what is broken here: plugins, libraries, accelerators.

    Example: hub-mim doctor
    """
    import dataclasses

    from hub_mim.doctor import diagnose

    findings = diagnose()
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"[{finding.level}] {finding.text}" + (f"\n        {finding.advice}" if finding.advice else ""))
    raise typer.Exit(1 if any(finding.level == "error" for finding in findings) else 0)
