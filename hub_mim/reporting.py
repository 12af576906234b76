"""One page about runs: curves, results, configuration, how to repeat; of several runs the comparison."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hub_mim.files import finished, refuse_overwrite, write_file
from hub_mim.run import FILE, Run

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


@dataclass(frozen=True)
class Finished:
    """A run and what lies beside it."""

    name: str
    folder: Path
    run: Run
    results: list[Any]


def report(folders: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Write one self-contained HTML page about runs; it needs no network and runs no script.

    Args:
        folders: of runs, each with its `run.json`.
        out: file to write.
        overwrite: replace a page that is there.
    Returns:
        The page.
    Raises:
        ValueError: a folder is no run.
        FileExistsError: `out` is there and `overwrite` is false.
    """
    from jinja2 import Environment

    refuse_overwrite(out, overwrite)
    runs = [_read(Path(folder)) for folder in folders]
    if not runs:
        raise ValueError("no runs to report on")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        runs = [Finished(str(run.folder), run.folder, run.run, run.results) for run in runs]
    template = (files("hub_mim") / "report_template.html").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            runs=runs,
            colours={run.name: COLOURS[number % len(COLOURS)] for number, run in enumerate(runs)},
            curves=_curves(runs),
            settings=_settings(runs),
            comparison=_comparison(runs),
            pictures={run.name: _pictures(run.folder) for run in runs},
            commands={run.name: _command(run.run) for run in runs},
        )
    )
    return write_file(out, page, overwrite=overwrite)


def _read(folder: Path) -> Finished:
    from hub_mim.sharing import read_results

    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} is no run: it holds no {FILE}")
    return Finished(folder.resolve().name, folder, Run.load(folder), read_results(folder))


def _command(run: Run) -> str:
    from hub_mim import plugins
    from hub_mim.cards import repeat_command

    installed = plugins.methods().get(run.method)
    try:
        return repeat_command(run, installed or plugins.method_or_native(run.method))
    except ValueError:  # its plugin is not installed here
        return ""


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Return the pictures of a folder, the curve left out, as names and data addresses."""
    from hub_mim.sharing import PICTURE

    return [
        (path.name, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())
        for path in finished(folder, "*.png")
        if path.name != PICTURE
    ]


def _settings(runs: list[Finished]) -> list[tuple[str, list[str], bool]]:
    """Return the settings of all runs by name, and whether they differ."""
    tables = [_flat(run.run) for run in runs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    rows = [(name, [table.get(name, "") for table in tables]) for name in names]
    return [(name, values, len(set(values)) > 1) for name, values in rows]


def _flat(run: Run) -> dict[str, str]:
    """Return what was asked for in a run, one line each."""
    plain = run.to_dict()
    names = ("method", "distribution", "version", "preset", "data", "data_licence", "fingerprint", "split", "rows",
             "validation", "validation_rows", "seed", "init_from", "lora", "early_stopping", "processes", "steps", "best_step",
             "epochs", "started", "ended", "hardware", "commit")  # fmt: skip
    told = {name: str(plain[name]) for name in names if plain.get(name) not in (None, "", False)}
    for group in ("task", "overrides", "processor", "arguments", "versions"):
        told |= {f"{group}: {name}": str(value) for name, value in plain[group].items() if value not in (None, False)}
    return told


def _comparison(runs: list[Finished]) -> list[dict[str, Any]]:
    """Return the figures that runs share a line, and what can be said of their difference.

    Two figures differ if their intervals do not overlap; without intervals nothing is said.
    """
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        for result in run.results:
            key = (result.protocol, result.metric_type, result.dataset_name, result.dataset_type, result.split)
            rows.setdefault(key, {})[run.name] = result
    return [
        {
            "measure": key[1],
            "protocol": key[0],
            "data": key[2],
            "split": key[4],
            "cells": [_cell(found.get(run.name)) for run in runs],
            "said": _said(list(found.values())) if len(runs) > 1 else "",
        }
        for key, found in sorted(rows.items())
    ]


def _cell(result: Any) -> str:
    if result is None:
        return "not run"
    interval = f" ({result.interval[0]:.4g} to {result.interval[1]:.4g})" if result.interval else ""
    return f"{result.metric_value:.4g}{interval}"


def _said(results: list[Any]) -> str:
    if len(results) < 2:
        return ""
    if any(result.interval is None for result in results):
        same = len({result.metric_value for result in results}) == 1
        return "equal" if same else "one seed: no spread to compare with"
    low, high = min(results, key=lambda r: r.metric_value), max(results, key=lambda r: r.metric_value)
    return "differs by more than the intervals" if low.interval[1] < high.interval[0] else "within the intervals"


def _curves(runs: list[Finished]) -> str:
    """Return the losses of all runs by step as one drawing (SVG): held out thick, training thin."""
    lines = []
    for number, run in enumerate(runs):
        for name, wide in (("loss", 1), ("eval_loss", 2.5)):
            points = [(line["step"], line[name]) for line in run.run.history if name in line and "step" in line]
            if points:
                lines.append((points, COLOURS[number % len(COLOURS)], wide, f"{run.name}: {name}"))
    if not lines:
        return ""
    steps = [step for points, *_ in lines for step, _ in points]
    values = sorted(value for points, *_ in lines for _, value in points)
    top = values[min(len(values) - 1, int(0.99 * len(values)))]  # one wild first value must not flatten the rest
    low, high, last = min(values), max(top, min(values) + 1e-9), max(max(steps), 1)

    def place(step: float, value: float) -> str:
        x = 60 + 620 * step / last
        y = 250 - 230 * (min(value, high) - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="{wide}" points="{" ".join(place(*p) for p in points)}">'
        f"<title>{html.escape(title)}</title></polyline>"
        for points, colour, wide, title in lines
    ]
    marks = [
        f'<text x="54" y="{254 - 230 * share:.0f}" text-anchor="end">{low + share * (high - low):.3g}</text>'
        f'<line x1="60" x2="680" y1="{250 - 230 * share:.0f}" y2="{250 - 230 * share:.0f}" class="grid"/>'
        for share in (0, 0.5, 1)
    ]
    marks.append(f'<text x="680" y="268" text-anchor="end">{last} steps</text>')
    return re.sub(r"\s+", " ", f'<svg viewBox="0 0 700 275" role="img">{"".join(marks + drawn)}</svg>')
