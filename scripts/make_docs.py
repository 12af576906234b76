"""Write the generated pages of the documentation: command line, Method, hooks, checks, one page a method, the field.

    python scripts/make_docs.py            # writes docs/reference, docs/methods, docs/field.md
    python scripts/make_docs.py --check    # writes nothing; says what is out of date

The field's page needs the shared list of papers (seeds.tsv beside the checkout, or HUB_MIM_SHARED); without it, it stays.
"""

import argparse
import csv
import inspect
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# rows of the list by short name -> what carries them here
CARRIED = {
    "ReMasker": "`remasker`",
    "MultiMAE": "`multimae`",
    "MW-MAE": "`mwmae`",
    "Bandana": "`bandana`",
    "UNITER": "`uniter`",
    "LXMERT": "`lxmert`",
    "SigLIP 2": "`siglip2`",
    "SigLIP2": "`siglip2`",
    "CFM-ViT": "`cfm_vit`",
    "MAE": "`mae` (native)",
    "SimMIM": "`simmim-vit`, `simmim-swin` (native)",
    "VideoMAE": "`videomae` (native)",
}
NEXT: tuple[str, ...] = ()


def command_line() -> str:
    """Return the page of all verbs, as `--help` tells them."""
    import typer

    from hub_mim import cli, plugins

    plugins.register_commands(cli.app)
    group: Any = typer.main.get_command(cli.app)
    parts = [
        "# Command line\n\nGenerated from `hub-mim --help`. Results go to stdout, progress to stderr; exit code 2 is wrong usage, 1 a failure.\n"
    ]
    for name in sorted(group.commands):
        command = group.commands[name]
        told = inspect.cleandoc(command.callback.__doc__ or "").replace("Example: ", "\n```sh\n") + "\n```"
        parts.append(f"## hub-mim {name}\n\n{told}\n\n| | | default |\n|---|---|---|")
        for parameter in command.params:
            if parameter.name == "help":
                continue
            kind = parameter.param_type_name
            label = parameter.name.upper() if kind == "argument" else ", ".join(parameter.opts)
            usual = parameter.default
            shown = "" if usual in (None, False, [], ()) or callable(usual) else f"`{usual}`"
            parts.append(f"| `{label}` | {(parameter.help or '').replace('|', chr(92) + '|')} | {shown} |")
        parts.append("")
    return "\n".join(parts)


def reference() -> str:
    """Return the page of what a plugin declares: hooks, Method, Example."""
    from hub_mim import hookspecs
    from hub_mim.method import Example, Method

    parts = [
        "# Hooks and Method\n\nGenerated from the docstrings. A plugin is a distribution with an entry point in the group `hub_mim`.\n"
    ]
    for name, value in vars(hookspecs).items():
        if name.startswith("hub_mim_") and inspect.isfunction(value):
            parts.append(f"## {name}{inspect.signature(value)}\n\n{inspect.getdoc(value)}\n")
    for kind in (Method, Example):
        parts.append(f"## {kind.__name__}\n\n{_fields(inspect.getdoc(kind) or '')}\n")
    return "\n".join(parts)


def _fields(text: str) -> str:
    """Return a docstring with its list of attributes as a definition list."""
    head, _, rest = text.partition("Attributes:\n")
    items: list[str] = []
    for line in rest.splitlines():
        if line.startswith("    ") and not line.startswith("     ") and ": " in line:
            name, _, told = line.strip().partition(": ")
            items.append(f"- **{name}**: {told}")
        elif line.strip():
            items[-1] += " " + line.strip()
    return head.strip() + "\n\n" + "\n".join(items)


def checks() -> str:
    """Return the page of all checks."""
    from hub_mim.testing import checks as found

    parts = [
        f"# Checks\n\nGenerated. `hub-mim check NAME` runs these {len(found.ALL)}; those marked slow start processes, build or compile and are left out by `--fast`.\n"
    ]
    for module in found.MODULES:
        title = module.__name__.rpartition(".")[2]
        parts.append(f"## {title.capitalize()}\n\n{inspect.getdoc(module)}\n\n| check | |\n|---|---|")
        for check in found.ALL:
            if check.__module__ == module.__name__:
                slow = " (slow)" if check in found.SLOW else ""
                parts.append(f"| `{check.__name__}` | {(inspect.getdoc(check) or '').splitlines()[0]}{slow} |")
        parts.append("")
    return "\n".join(parts)


def method_page(name: str) -> str:
    """Return the page of one method."""
    from hub_mim import plugins
    from hub_mim.cards import _read

    method = plugins.get_method(name)
    distribution, _ = plugins.origin(name)
    sizes = "\n".join(
        f"| `{size}` | {', '.join(f'{k} {v}' for k, v in fields.items()) or 'as the configuration has it'} |"
        for size, fields in method.presets.items()
    )
    heads = ", ".join(f"`{auto}`" for auto in method.auto)
    recipe = ", ".join(f"{key} {value}" for key, value in method.recipe.items())
    text = _read(method.config.partition(".")[0], "card.md").strip().replace("\n### ", "\n## ")
    parts = [
        f"# {method.title}\n",
        f"`{name}`, brought by `{distribution}`. [Paper]({method.paper}). Input: {', '.join(method.modalities)}. Licence of code and weights: {method.licence}.\n",
        f"```sh\npip install {distribution}\nhub-mim pretrain {name} --data ROWS --out runs/{name}\n```\n",
        f"Auto classes: {heads}.\n",
        f"| preset | |\n|---|---|\n{sizes}\n",
        f"Recipe: {recipe or 'none'}.\n",
    ]
    if method.evaluators:
        parts.append(
            f"Its own protocols of `hub-mim evaluate`: {', '.join(f'`{key}`' for key in method.evaluators)}.\n"
        )
    return "\n".join([*parts, text]).rstrip() + "\n"


def field(seeds: Path) -> str:
    """Return the page of the field: every paper of the shared list, and whether it is here."""
    with seeds.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    parts = [
        f"# The field\n\n{len(rows)} papers on masked modelling, and where they stand here. `carried`: its method can be trained by the plugin named. `next`: its "
        "specification and the authors' numbers are at hand. `not yet`: nothing here but this row; a plugin for it is welcome "
        "([how to write one](https://github.com/) begins with `hub-mim new`). Roles other than a pre-training method (a study, a distillation, a target) need no plugin of "
        "their own where an option of another one can do it; none of these has been written.\n",
        "| | | modality | role | here |\n|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["short name"]
        state = f"carried by {CARRIED[name]}" if name in CARRIED else "next" if name in NEXT else "not yet"
        title = row["full title"].replace("|", "\\|")
        parts.append(f"| {name} | {title} | {row['modality']} | {row['role']} | {state} |")
    return (
        "\n".join(parts).replace(
            "([how to write one](https://github.com/) begins with `hub-mim new`)", "(it begins with `hub-mim new`)"
        )
        + "\n"
    )


def pages() -> dict[Path, str]:
    """Return every generated page by its place."""
    from hub_mim import plugins
    from hub_mim.testing.shared import find_shared

    made = {
        DOCS / "reference" / "command-line.md": command_line(),
        DOCS / "reference" / "method.md": reference(),
        DOCS / "reference" / "checks.md": checks(),
    }
    for name in plugins.methods():
        if name != "toy":  # the tests' own
            made[DOCS / "methods" / f"{name}.md"] = method_page(name)
    seeds = find_shared("seeds.tsv")
    if seeds is not None:
        made[DOCS / "field.md"] = field(seeds)
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    options = parser.parse_args(arguments)
    stale = {
        path: text for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'out of date' if options.check else 'wrote'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
