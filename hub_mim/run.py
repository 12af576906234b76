"""The record of one training: everything needed to repeat it, kept as `run.json` beside the weights."""

import dataclasses
import json
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hub_mim.files import read_json, write_json
from hub_mim.secrets import hide
from hub_mim.typed import check_fields

FILE = "run.json"
LIBRARIES = ("hub-mim", "torch", "transformers", "accelerate", "datasets", "numpy", "peft")
# what decides a run's numbers: an interrupted run is continued only if these are what they were
SETTINGS: tuple[str, ...] = (
    "method",
    "preset",
    "config",
    "processor",
    "data",
    "fingerprint",
    "columns",
    "split",
    "validation",
)
SETTINGS += (
    "seed",
    "arguments",
    "init_from",
    "task",
    "lora",
    "early_stopping",
    "rows per step",
    "processes",
    "tokens_per_batch",
    "skip_bad_steps",
    "plain_steps",
    "half_weights",
    "augment",
    "draft_side",
)
# how the rows of a step are shared out; only their number counts
SHARED_OUT = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")


@dataclass(kw_only=True)
class Run:
    """Tell what was trained, on what, how, with what result.

    Attributes:
        method: name. distribution, version: of the plugin.
        preset: size. overrides: fields of the configuration that were asked for. config: the whole configuration.
        processor: arguments of the processor that were asked for.
        data: source as the user named it. fingerprint: hash of the rows. data_licence: as its own card says, None where
            nobody says. columns, split, validation: see `pretrain`.
        rows, validation_rows: numbers of rows.
        seed: of weights, split, order and masks.
        arguments: of transformers' TrainingArguments, as the recipe and the caller gave them. recipe: the method's own.
        training_arguments: all of them that differ from transformers' defaults, `arguments` included.
        task: of a fine-tuning, see `finetune`; empty for pre-training.
        init_from, lora, early_stopping, tokens_per_batch, skip_bad_steps, plain_steps, half_weights, cache_side, draft_side:
            see `pretrain`.
        augment: arguments of `augmenting.Augmentation`; empty where pictures are trained on as they are.
        processes: how many trained together.
        steps: optimiser steps taken. best_step: the one whose weights were kept. epochs: passes over the rows.
        losses: final figures by name. history: what was logged, by step.
        speed: see `speed.utilisation`; empty where it was not asked for.
        status: "running" or "finished". started, ended: UTC.
        versions: of libraries. commit: of the working tree that hub-mim was imported from. hardware: in words.
    """

    method: str
    distribution: str = ""
    version: str = ""
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    fingerprint: str | None = None
    data_licence: str | None = None
    columns: dict[str, str] | None = None
    split: str | None = None
    validation: float = 0.0
    rows: int | None = None
    validation_rows: int = 0
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    training_arguments: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    task: dict[str, Any] = field(default_factory=dict)
    lora: bool = False
    early_stopping: int | None = None
    tokens_per_batch: int | None = None
    skip_bad_steps: bool = False
    plain_steps: bool = False
    half_weights: bool = False
    cache_side: int | None = None
    draft_side: int | None = None
    augment: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    steps: int = 0
    best_step: int | None = None
    epochs: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)
    status: str = "running"
    started: str = ""
    ended: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    hardware: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: lists for tuples, text for keys and for what JSON does not know; tokens are hidden."""
        return json.loads(hide(json.dumps(dataclasses.asdict(self), default=str)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Run":
        """Make a run of plain values; fields of a newer version are left out.

        Raises:
            ValueError: no mapping, no method, or a field of another type.
        """
        return cls(**check_fields(cls, values, "a run.json", needed=("method",)))

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read `run.json` from a folder."""
        return cls.from_dict(read_json(Path(folder) / FILE))

    def save(self, folder: str | Path) -> None:
        """Write `run.json` into a folder, atomically."""
        write_json(Path(folder) / FILE, self.to_dict(), overwrite=True)

    def difference(self, other: "Run") -> str | None:
        """Return the first setting in which two runs differ, in words; None where they would give the same numbers.

        Of other versions (libraries, plugin) the fields that both configurations have are compared: the rest had no other value.
        """
        first, second = self._settings(), other._settings()
        if (self.version, self.versions) != (other.version, other.versions):
            shared = (first["config"].keys() & second["config"].keys()) - {"transformers_version"}
            for each in (first, second):
                each["config"] = {name: value for name, value in each["config"].items() if name in shared}
        for name in SETTINGS:
            mine, theirs = first[name], second[name]
            if mine != theirs:
                if isinstance(mine, dict) and isinstance(theirs, dict):
                    key = next(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
                    return f"{name}.{key} was {mine.get(key)!r} and is now {theirs.get(key)!r}"
                return f"{name} was {mine!r} and is now {theirs!r}"
        return None

    def _settings(self) -> dict[str, Any]:
        values = self.to_dict()
        used, processes = values["training_arguments"], self.processes
        rows = 1 if self.tokens_per_batch else used.get("per_device_train_batch_size", 8)
        values["rows per step"] = rows * used.get("gradient_accumulation_steps", 1) * processes
        values["processes"] = processes if self.rows is None else None  # each reads a part of a stream
        values["arguments"] = {name: value for name, value in values["arguments"].items() if name not in SHARED_OUT}
        return values

    def other_versions(self, other: "Run") -> str:
        """Return which libraries differ between two runs, in words; empty where none does."""
        names = {**self.versions, **other.versions}
        pairs = [(name, self.versions.get(name), other.versions.get(name)) for name in names]
        return ", ".join(f"{name} {mine} -> {theirs}" for name, mine, theirs in pairs if mine != theirs)

    def stamp(self) -> "Run":
        """Note when, with what and on what this runs; returns itself."""
        self.started = now()
        self.versions = {"python": platform.python_version()} | library_versions()
        self.commit = commit()
        self.hardware = hardware()
        return self


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide numbers, where installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the checkout that hub-mim was imported from, None where it is an installed wheel."""
    home = Path(__file__).resolve().parent
    if not (home.parent / ".git").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(home), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def hardware() -> str:
    """Return what the run computes on, in words."""
    import os

    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
