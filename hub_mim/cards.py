"""Render a model card from what happened: the run, the results, the plugin's own text. No other number gets in."""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hub_mim.method import Method

if TYPE_CHECKING:
    from hub_mim.results import Result
    from hub_mim.run import Run

USER_TEXT = "<!-- Your own text: what stands below this line is kept when the card is written again. -->"
IN_MEMORY = "in memory"  # how a run names rows that came from no place
_VARIABLES = {"AutoModel": "model", "AutoProcessor": "processor", "AutoFeatureExtractor": "extractor"}


def render_card(
    name: str,
    config: Any,
    *,
    run: "Run | None" = None,
    results: Sequence["Result"] = (),
    converted_from: Mapping[str, str] | None = None,
    place: str | None = None,
    pictures: Sequence[str] = (),
    base: str | None = None,
) -> str:
    """Return the text of a card; needs no network.

    Args:
        name: of the checkpoint.
        config: the model's configuration; its `model_type` decides the method.
        run: the record of its training.
        results: measured figures; a protocol of the method without any is shown as `not run`.
        converted_from: file, sha256 and licence of the authors' weights, where they were converted.
        place: what the snippet loads; default the name.
        pictures: names of picture files beside the card.
        base: the model that these adapters belong to, where it is no model by itself.
    Returns:
        Markdown with the front matter that a Hub reads.
    Raises:
        ValueError: neither an installed plugin nor transformers has the configuration's model type.
    """
    from jinja2 import Environment, StrictUndefined

    from hub_mim import plugins

    method = plugins.method_or_native(config.model_type, getattr(config, "architectures", None))
    origins = list(dict.fromkeys(map(_origin, results)))
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )  # Markdown: no HTML escapes
    text = environment.from_string(_read("hub_mim", "card_template.md")).render(
        card_data=_front_matter(name, method, results, (converted_from or {}).get("licence"), base).to_yaml(),
        name=name,
        title=method.title.rstrip("."),
        paper=method.paper,
        citation=method.citation.strip(),
        text=_read(method.config.partition(".")[0], "card.md").strip(),
        distribution=plugins.origin(method.name)[0],
        folder=f"plugins/{_stem(method)}" if method.name in plugins.known_distributions() else None,
        base=base,
        snippet={auto: variable for auto, variable in _VARIABLES.items() if auto in method.auto},
        place=place or name,
        run=run,
        pictures=pictures,
        converted_from=converted_from,
        repeat=repeat_command(run, method) if run is not None else "",
        results=[_table_row(result, origins) for result in results],
        origins=origins,
        not_run=_not_run(method, results),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + f"\n\n{USER_TEXT}\n"


def _stem(method: Method) -> str:
    return method.name.replace("-", "_")


def _front_matter(name: str, method: Method, results: Sequence["Result"], licence: str | None, base: str | None) -> Any:
    """Return the metadata, with the results as a model-index."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        license=(licence or method.licence).lower(),
        library_name="hub_mim" if method.example and not method.native else "transformers",
        tags=list(
            dict.fromkeys(["hub-mim", method.name, *method.modalities, *method.tags, *(["lora"] if base else [])])
        ),
        base_model=base,
        model_name=name if results else None,
        eval_results=[result.to_eval_result() for result in results] or None,
    )


def _origin(result: "Result") -> str:
    """Return where a figure comes from: the command and the commit."""
    command = f"`{result.command}`" if result.command else "called from Python"
    return f"{command}, {f'commit `{result.commit}`' if result.commit else 'installed package'}"


def _table_row(result: "Result", origins: list[str]) -> list[str]:
    """Return the cells of a result's line: measure, value, data, split, protocol, seeds, number of its origin."""
    value = f"{result.metric_value:.4g}"
    if result.interval is not None:
        value += f" ({result.interval[0]:.4g} to {result.interval[1]:.4g})"
    cells = [result.metric_name, value, result.dataset_name, result.split, result.protocol]
    cells += [", ".join(map(str, result.seeds)), str(origins.index(_origin(result)) + 1)]
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def _not_run(method: Method, results: Sequence["Result"]) -> list[str]:
    from hub_mim.results import LOSS

    ran = {result.protocol for result in results}
    return [protocol for protocol in (LOSS, *method.evaluators) if protocol not in ran]


def repeat_command(run: "Run", method: Method) -> str:
    """Return the command line that repeats a run, empty where its rows came from no place that one can name."""
    if run.data.startswith(IN_MEMORY):
        return ""
    told = ["finetune", str(run.init_from)] if run.task else ["pretrain", run.method]
    parts = ["hub-mim", *told, "--data", run.data, "--out", "again", "--seed", str(run.seed)]
    parts += ["--validation", str(run.validation)]
    options = {"--preset": run.preset, "--split": run.split, "--init-from": None if run.task else run.init_from}
    options |= {
        f"--{name.replace('_', '-')}": str(value)
        for name, value in run.task.items()
        if value not in (None, False, True)
    }
    if run.early_stopping != method.recipe.get("early_stopping"):
        options["--early-stopping"] = None if run.early_stopping is None else str(run.early_stopping)
    parts += [part for option, value in options.items() if value is not None for part in (option, value)]
    for option, pairs in (
        ("--map", run.columns or {}),
        ("--config", run.overrides),
        ("--processor", run.processor),
        ("--set", {name: value for name, value in run.arguments.items() if method.recipe.get(name) != value}),
    ):
        parts += [part for assignment in _assignments(pairs) for part in (option, assignment)]
    parts += ["--streaming"] if run.rows is None else []
    parts += ["--lora"] if run.lora else []
    parts += [f"--{name.replace('_', '-')}" for name, value in run.task.items() if value is True]
    return shlex.join(parts)


def _assignments(pairs: Mapping[str, Any]) -> list[str]:
    """Return `name=value` strings; text as it is, all else as JSON."""
    import json

    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in pairs.items()]


def keep_user_text(card: str, before: str) -> str:
    """Return a new card with what a user wrote below the marker of the old one; an old card without it is kept below."""
    text = user_text(before)
    return card if not text else f"{card.rstrip()}\n\n{text}\n"


def merge_user_text(card: str, local: str, remote: str) -> str:
    """Return a card for a Hub with what users wrote, here and there; neither is lost, and neither stands there twice.

    Text from here stands first and follows what is changed here. What was written on the Hub stands below it; text from
    here that was changed on the Hub moves there, and its old form is not put back. A line between the two carries the hash
    of the text from here, by which the next push knows which side has changed.

    Args:
        card: fresh rendering.
        local, remote: the cards of the folder and of the repository, empty where there is none.
    """
    here, _, pulled = _parts(local)
    shown, mark, there = _parts(remote)
    there = there or ("" if remote else pulled)
    kept, changed_here = mark == _hash(shown), mark != _hash(here)
    if shown and shown != here and not kept:
        there = "\n\n".join(part for part in (shown, there) if part)
        shown = ""
    text = here if changed_here or shown else ""
    lines = [card.rstrip(), f"\n{text}" if text else "", _HUB.format(_hash(here)), f"\n{there}" if there else ""]
    return "\n".join(line for line in lines if line) + "\n"


_HUB = "<!-- What stands below this line was written on the Hub, and is kept there. {} -->"
_HUB_LINE = re.compile(re.escape(_HUB).replace(r"\{\}", "([0-9a-f]{12})"))


def _parts(card: str) -> tuple[str, str | None, str]:
    """Return a user's text from here, the hash of it when it was pushed, and the text that was written on the Hub."""
    text = user_text(card)
    mark = _HUB_LINE.search(text)
    return (text, None, "") if mark is None else (text[: mark.start()].strip(), mark[1], text[mark.end() :].strip())


def user_text(card: str) -> str:
    """Return what users wrote into a card: below the marker, or all of a card that has none."""
    if USER_TEXT in card:
        return card.partition(USER_TEXT)[2].strip()
    if "[More Information Needed]" in card:
        return ""  # peft's and transformers' own empty form
    return re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip()


def _hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(package: str, name: str) -> str:
    """Return the text of a file in a package, empty where it has none."""
    path = files(package) / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""
