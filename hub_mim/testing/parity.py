"""Compare a plugin's numbers with a fixture's: the authors' on a tiny random model, or an independent reference."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hub_mim import plugins
from hub_mim.method import resolve, split

REFERENCE = ("outputs/", "grads")
TOLERANCES = {"grads": 1e-4, "loss": 1e-5, "train": 1e-4, "outputs": 2e-5}  # fixtures/README.md


@dataclass(frozen=True)
class Line:
    """One tensor: its error (relative as fixtures/README.md says), what is allowed, and what is wrong if anything."""

    name: str
    error: float
    tolerance: float
    wrong: str = ""

    @property
    def passed(self) -> bool:
        """Whether the tensor is there, has the shape, and is near enough."""
        return not self.wrong and self.error <= self.tolerance


@dataclass
class Report:
    """Every reference tensor of a fixture beside ours."""

    fixture: str
    lines: list[Line] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every line passed; no line at all is no pass."""
        return bool(self.lines) and all(line.passed for line in self.lines)

    @property
    def worst(self) -> float:
        """The largest error."""
        return max((line.error for line in self.lines), default=float("nan"))

    def __str__(self) -> str:
        width = max((len(line.name) for line in self.lines), default=0)
        rows = [
            f"{'ok ' if line.passed else 'BAD'} {line.name:<{width}}  {line.error:.2e} "
            f"(at most {line.tolerance:.0e})  {line.wrong}"
            for line in self.lines
        ]
        rows += [f"--- {name:<{width}}  not compared: {reason}" for name, reason in self.left_out.items()]
        return "\n".join([self.fixture, *(row.rstrip() for row in rows)])


def read_fixture(path: str | Path) -> tuple[list[str], dict[str, Tensor], dict[str, Any]]:
    """Return the names of a fixture's reference tensors, what it gives to compute them from, and the facts of its JSON.

    For a plugin's `predict`: the reference itself is not read.
    """
    path = Path(path)
    with safe_open(path, "pt") as stored:
        every = list(stored.keys())
        names = [name for name in every if name.startswith(REFERENCE)]
        given = {name: stored.get_tensor(name) for name in every if name not in names}
    return names, given, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def changed(path: str | Path, weight: str, folder: Path, by: float = 0.1) -> Path:
    """Write a copy of a fixture with one number of one weight changed, which a comparison must notice.

    Returns:
        The copy, in `folder`, its JSON beside it.
    """
    tensors = load_file(path)
    tensors[weight].view(-1)[0] += by
    copy = folder / "changed.safetensors"
    save_file(tensors, copy)
    copy.with_suffix(".json").write_text(Path(path).with_suffix(".json").read_text(encoding="utf-8"), encoding="utf-8")
    return copy


def under(prefix: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def compare(stem: str, path: str | Path) -> Report:
    """Compute every reference tensor of a fixture with the plugin and compare.

    Args:
        stem: name of the method.
        path: of the fixture's safetensors file, the JSON beside it.
    Returns:
        One line per tensor under `outputs/` and `grads*/`, save those that the plugin's `NOT_COMPARED` lists; its `TOLERANCES`,
        by the beginning of a name, take the place of the usual ones.
    Raises:
        ValueError: the method declares no parity, or the fixture holds no reference.
    """
    method = plugins.get_method(stem)
    if method.parity is None:
        raise ValueError(f"{stem} declares no parity")
    predict = resolve(method.parity)
    module = sys.modules[split(method.parity)[0]]
    listed: Mapping[str, str] = getattr(module, "NOT_COMPARED", {})
    allowed: Mapping[str, float] = getattr(module, "TOLERANCES", {})
    path = Path(path)
    given = load_file(path)
    reference = {name: value for name, value in given.items() if name.startswith(REFERENCE)}
    if not reference:
        raise ValueError(f"{path.name} holds no tensor under outputs/ or grads*/")
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    ours = predict(path)
    report = Report(path.stem, left_out={name: reason for name, reason in listed.items() if name in reference})
    for name, value in sorted(reference.items()):
        if name not in report.left_out:
            own = next((value for start, value in allowed.items() if name.startswith(start)), None)
            report.lines.append(_line(name, ours.get(name), value, _tolerance(name, facts) if own is None else own))
    return report


def _line(name: str, ours: Tensor | None, theirs: Tensor, tolerance: float) -> Line:
    if ours is None:
        return Line(name, float("inf"), tolerance, "the plugin gives no such tensor")
    if ours.shape != theirs.shape:
        return Line(name, float("inf"), tolerance, f"shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if not theirs.is_floating_point():
        return Line(name, float((ours != theirs).sum()), 0.0)
    error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    largest = theirs.double().abs().max().item() if theirs.numel() else 0.0
    scale = (largest or 1.0) if name.startswith("grads") else max(1.0, largest)
    return Line(name, error / scale if torch.isfinite(torch.tensor(error)) else float("inf"), tolerance)


def _tolerance(name: str, facts: Mapping[str, object]) -> float:
    stated = facts.get("tolerances")
    if isinstance(stated, Mapping) and name in stated:
        return float(stated[name])
    if name.startswith("grads"):
        return TOLERANCES["grads"]
    if name.startswith("outputs/train_"):
        return TOLERANCES["train"]
    return TOLERANCES["loss"] if "loss" in name else TOLERANCES["outputs"]
