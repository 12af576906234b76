"""Measured figures, with all that is needed to believe them."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.typed import check_fields

if TYPE_CHECKING:
    from hub_mim.run import Run

LOSS = "masked-loss"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured figure and all that is needed to believe it.

    Attributes:
        metric_type: short name, such as "rmse". metric_name: for people. metric_value: the figure.
        dataset_name, dataset_type: for people, and the rows' fingerprint. split: which of the rows, in words.
        task_type: the Hub's name of the task. protocol: how it was measured.
        seeds: of the repetitions. interval: confidence interval or range over seeds, as the protocol says.
        command: what was typed. commit: of the working tree, None for an installed package.
    """

    metric_type: str
    metric_value: float
    dataset_name: str
    metric_name: str = ""
    dataset_type: str = "local"
    split: str = "not given"
    task_type: str = "feature-extraction"
    protocol: str = LOSS
    seeds: tuple[int, ...] = (0,)
    interval: tuple[float, float] | None = None
    command: str = ""
    commit: str | None = None

    def __post_init__(self) -> None:
        if not self.metric_name:
            object.__setattr__(self, "metric_name", self.metric_type)

    @property
    def name(self) -> str:
        """A file name that tells protocol, measure and data apart."""
        parts = (self.protocol, self.metric_type, self.dataset_name, self.split)
        return "-".join("".join(c if c.isalnum() else "_" for c in part).strip("_") for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """Make a result of plain values.

        Raises:
            ValueError: no mapping, a field that is missing, or one of another type.
        """
        fields = check_fields(cls, values, "a result", needed=("metric_type", "metric_value", "dataset_name"))
        for name in ("seeds", "interval"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)

    def to_eval_result(self) -> Any:
        """Return huggingface_hub's EvalResult, for the card's front matter."""
        from huggingface_hub import EvalResult

        return EvalResult(
            task_type=self.task_type,
            dataset_type=self.dataset_type,
            dataset_name=self.dataset_name,
            dataset_split=self.split,
            metric_type=self.metric_type,
            metric_name=self.metric_name,
            metric_value=self.metric_value,
            metric_args={"protocol": self.protocol, "seeds": list(self.seeds)},
        )


def facts_of(data: Any, mark: str | None) -> dict[str, Any]:
    """Return the fields of a Result that tell of which rows and by which command it was measured."""
    from hub_mim.run import commit

    return {
        "dataset_name": called(data),
        "dataset_type": mark or "stream",
        "command": shlex.join(["hub-mim", *sys.argv[1:]]) if Path(sys.argv[0]).stem in _PROGRAMS else "",
        "commit": commit(),
    }


_PROGRAMS = ("hub-mim", "__main__")


def called(data: Any) -> str:
    """Return how a source of rows is called: a file by its name, a Hub's dataset by its whole id."""
    if not isinstance(data, str | Path):
        return "in memory"
    on_hub = str(data).count("/") == 1 and not Path(data).exists()
    return str(data) if on_hub else Path(data).name


def finetuning_facts(run: "Run", count: int) -> dict[str, Any]:
    """Return the fields of a `Result` that tell of a fine-tuning's held-out rows."""
    return facts_of(run.data, run.fingerprint) | {
        "protocol": "finetune" + (" from scratch" if run.task["from_scratch"] else ""),
        "split": f"{count} held-out rows, on which the best step was chosen",
        "seeds": (run.seed,),
    }
