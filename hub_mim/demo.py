"""`hub-mim demo`: each installed method shows itself on real data, with nothing to download.

A method takes part by `Method.demo = "module:function"`, called `function(out, seed) -> Demo`; a method without one
is shown by its small checkpoint where a folder `model_cards/` holds one.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_mim.console import next_steps, print_table, say


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What a method's demo shows: a headline, a table, the files made, and what to type next."""

    headline: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    next: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        table = [dict(zip(self.headers, row, strict=True)) for row in self.rows]
        files = {name: str(path) for name, path in self.files.items()}
        return {"headline": self.headline, "table": table, "notes": list(self.notes), "files": files}


def run_demo(out: Path, *, seed: int = 0, overwrite: bool = False, cards: Path = Path("model_cards")) -> dict[str, Any]:
    """Run the demo of every method that declares one, and list the small checkpoints of the others.

    Args:
        out: folder for what the demos make, one folder per method.
        seed: seed of everything random.
        overwrite: replace what an earlier demo left there.
        cards: folder that may hold small checkpoints, one folder each.
    Returns:
        The same facts as plain values, by method.
    Raises:
        FileExistsError: `out` holds something and `overwrite` is false.
        ValueError: no installed method declares a demo.
    """
    from hub_mim import plugins
    from hub_mim.method import resolve

    methods = plugins.methods()
    shows = {name: method.demo for name, method in methods.items() if method.demo}
    if not shows:
        raise ValueError("no installed method has a demo; pip install hub-mim-remasker brings one")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} is not empty; pass --overwrite to replace it, or another --out")
    demos = {}
    for name, function in shows.items():
        demos[name] = resolve(function)(out / name, seed)
        _print(demos[name])
    rows = list(_checkpoints(cards, [name for name in methods if name not in shows]))
    if rows:
        print_table(("METHOD", "CHECKPOINT", "PARAMETERS", "HELD-OUT LOSS"), rows)
    next_steps(*_activation(), *[line for demo in demos.values() for line in demo.next])
    return {name: demo.to_dict() for name, demo in demos.items()}


def _print(demo: Demo) -> None:
    print(demo.headline + "\n")
    print_table(demo.headers, demo.rows)
    for note in demo.notes:
        print(note)
    for name, path in demo.files.items():
        say(f"{name}: {path}")


def _checkpoints(cards: Path, names: Sequence[str]) -> Any:
    """Yield one row per small checkpoint of these methods, counted and loaded from its folder."""
    from hub_mim.loading import load

    for run_file in sorted(cards.glob("*/run.json")):
        run = json.loads(run_file.read_text(encoding="utf-8"))
        if run.get("method") in names:
            model = load(run_file.parent)
            yield run["method"], run_file.parent, model.num_parameters(), run.get("losses", {}).get("eval_loss")


def _activation() -> list[str]:
    """Return the line that activates this environment, none where one is active or needed."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV"):
        return []
    prefix = Path(sys.prefix)
    shown = prefix.relative_to(Path.cwd()) if prefix.is_relative_to(Path.cwd()) else prefix
    return [f". {shown}/bin/activate"]
