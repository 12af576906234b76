"""Render a model card from what happened: the run, the results, the plugin's own text. No other number gets in."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hub_mim.method import Method

if TYPE_CHECKING:
    from hub_mim.evaluation import Result
    from hub_mim.run import Run

USER_TEXT = "<!-- Your own text: what stands below this line is kept when the card is written again. -->"


def render_card(
    name: str, config: Any, *, run: "Run | None" = None, results: Sequence["Result"] = (), place: str | None = None
) -> str:
    """Return the text of a card.

    Args:
        name: of the checkpoint.
        config: the model's configuration; its `model_type` decides the method.
        run: the record of its training.
        results: measured figures; without any the card says `not run`.
        place: what the snippet loads; default the name.
    Returns:
        Markdown with the front matter that a Hub reads.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from hub_mim import plugins

    method = plugins.method_for_model_type(config.model_type)
    distribution = plugins.origin(method.name)[0]
    data = ModelCardData(
        license=method.licence,
        library_name="hub_mim",
        tags=["hub-mim", method.name, *method.modalities, *method.tags],
        model_name=name if results else None,
        eval_results=[result.to_eval_result() for result in results] or None,
    )
    snippet = [(auto, _VARIABLES[auto]) for auto in _VARIABLES if auto in method.auto]
    card = ModelCard.from_template(
        data,
        template_str=_read("hub_mim", "card_template.md"),
        name=name,
        title=method.title,
        paper=method.paper,
        text=_read(method.config.partition(".")[0], "card.md"),
        distribution=distribution,
        autos=[auto for auto, _ in snippet],
        snippet=snippet,
        place=place or name,
        run=run,
        repeat=repeat_command(run, method) if run is not None else "",
        results=list(results),
    )
    return card.content.rstrip() + f"\n\n{USER_TEXT}\n"


_VARIABLES = {"AutoModel": "model", "AutoProcessor": "processor", "AutoFeatureExtractor": "extractor"}


def repeat_command(run: "Run", method: Method) -> str:
    """Return the command line that repeats a run."""
    parts = ["hub-mim pretrain", run.method, f"--data {run.data}", "--out again", f"--seed {run.seed}"]
    parts += [f"--validation {run.validation}"] + ([f"--preset {run.preset}"] if run.preset else [])
    parts += [f"--map {column}={argument}" for column, argument in (run.columns or {}).items()]
    parts += [f"--split {run.split}"] if run.split else []
    parts += [f"--set {key}={value}" for key, value in run.arguments.items() if method.recipe.get(key) != value]
    parts += [f"--init-from {run.init_from}"] if run.init_from else []
    return " ".join(parts + (["--lora"] if run.lora else []))


def keep_user_text(card: str, before: str) -> str:
    """Return a new card with what a user wrote below the marker of the old one; an old card without it is kept below."""
    if not before:
        return card
    if USER_TEXT in before:
        return card.rstrip() + before.partition(USER_TEXT)[2].rstrip() + "\n"
    return card.rstrip() + "\n\n" + re.sub(r"\A---\n.*?\n---\n", "", before, flags=re.DOTALL).strip() + "\n"


def _read(package: str, name: str) -> str:
    """Return the text of a file in a package, empty where it has none."""
    path = files(package) / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""
