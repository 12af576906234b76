"""Judge a checkpoint: the masked loss on rows it has not seen, beside a model of the same shape that learned nothing.

A method adds its own measures as evaluators: `Method.evaluators[name] = "module:function"`, called
`function(model, processor, rows, *, seed, **options) -> list[Result]`.
"""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_mim.method import resolve, suggest

LOSS = "masked-loss"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured figure and all that is needed to believe it.

    Attributes:
        metric_type: short name, such as "rmse". metric_name: for people. metric_value: the figure.
        dataset_name, dataset_type: for people, and its id or fingerprint. split: of the data.
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
        """Make a result of plain values."""
        fields = dict(values) | {"seeds": tuple(values.get("seeds", (0,)))}
        if fields.get("interval") is not None:
            fields["interval"] = tuple(fields["interval"])
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


def evaluate(
    source: str | Path,
    data: Any,
    *,
    protocol: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    limit: int | None = None,
    save: bool = False,
) -> list[Result]:
    """Measure a checkpoint on rows.

    Args:
        source: folder or Hub id.
        data: see `data.load_rows`; rows that the model was not trained on.
        protocol: one of the method's evaluators, or "masked-loss"; default the loss alone.
        columns: column -> argument of the processor.
        split: of a source that has several.
        seed: decides each row's mask and whatever else is drawn.
        batch_size: rows at a time.
        limit: at most so many rows.
        save: write the results into the folder and its card.
    Returns:
        Every named loss of the checkpoint and of a random model of the same shape, then the protocol's figures.
    Raises:
        ValueError: unknown protocol, unreadable data or checkpoint.
    """
    from hub_mim import plugins, sharing
    from hub_mim.data import as_records, load_rows
    from hub_mim.run import commit

    method = plugins.method_for_model_type(sharing.read_config(source)["model_type"])
    known = [LOSS, *method.evaluators]
    if protocol is not None and protocol not in known:
        raise ValueError(
            f"{method.name} has no protocol {protocol!r}{suggest(protocol, known)}; it has {', '.join(known)}"
        )
    model = sharing.load(source, auto="AutoModelForPreTraining")
    processor = sharing.load_processor(source)
    rows = load_rows(data, split=split, columns=columns)
    records = as_records(rows.select(range(min(limit or len(rows), len(rows)))))
    facts: dict[str, Any] = {"dataset_name": Path(data).name if isinstance(data, str | Path) else "in memory"}
    facts |= {
        "split": split or "all",
        "seeds": (seed,),
        "command": shlex.join(["hub-mim", *sys.argv[1:]]),
        "commit": commit(),
    }
    results = [
        Result(metric_type=name, metric_value=value, **facts)
        for name, value in _losses_beside_random(model, processor, records, seed, batch_size).items()
    ]
    if protocol not in (None, LOSS):
        found = resolve(method.evaluators[protocol])(model, processor, records, seed=seed)
        results += [dataclasses.replace(result, **facts, protocol=protocol) for result in found]
    if save:
        _keep(Path(source), model, processor, results)
    return results


def _losses_beside_random(model: Any, processor: Any, rows: list[Any], seed: int, batch_size: int) -> dict[str, float]:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = type(model)(model.config)
    ours = masked_losses(model, processor, rows, seed=seed, batch_size=batch_size)
    random = masked_losses(untrained, processor, rows, seed=seed, batch_size=batch_size)
    return ours | {f"{name} (untrained)": value for name, value in random.items()}


def masked_losses(
    model: Any, processor: Any, rows: list[Any], *, seed: int = 0, batch_size: int = 64
) -> dict[str, float]:
    """Return the masked loss and every named loss, each row with its one mask, mean over rows.

    Args:
        model: a pre-training model.
        processor: see `data.encode`.
        rows: list of dicts.
        seed: with the row's number decides its mask.
        batch_size: rows at a time; where a loss is a mean over cells or tokens, ragged rows weigh alike only in one batch.
    """
    import inspect

    import torch

    from hub_mim.data import encode
    from hub_mim.masking import row_seeds
    from hub_mim.trainer import EVALUATION

    model.eval()
    seeded = "row_seed" in inspect.signature(model.forward).parameters
    sums: dict[str, float] = {}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = {name: value.to(model.device) for name, value in encode(processor, part).items()}
        if seeded:
            batch["row_seed"] = row_seeds(seed, EVALUATION, torch.arange(start, start + len(part), device=model.device))
        with torch.no_grad():
            output = model(**batch)
        for name, value in {"loss": output.loss, **(output.losses or {})}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(part)
    return {name: value / len(rows) for name, value in sums.items()}


def _keep(folder: Path, model: Any, processor: Any, results: list[Result]) -> None:
    from hub_mim import sharing
    from hub_mim.files import read_json
    from hub_mim.run import FILE, Run

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder here; pull the checkpoint first, then save results into it")
    earlier = [Result.from_dict(read_json(path)) for path in sorted((folder / sharing.RESULTS).glob("*.json"))]
    kept = {result.name: result for result in [*earlier, *results]}
    run = Run.load(folder) if (folder / FILE).is_file() else None
    sharing.save(folder, model, processor, run=run, results=list(kept.values()), overwrite=True)
