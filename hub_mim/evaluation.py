"""Judge a checkpoint: the masked loss on rows it has not seen, beside a model of the same shape that learned nothing.

A method adds its own measures as evaluators: `Method.evaluators[name] = "module:function"`, called
`function(model, processor, rows, *, seed, **options) -> list[Result]`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_mim.checking import takes
from hub_mim.method import resolve, suggest
from hub_mim.results import LOSS, Result, called, facts_of


@takes(seed=">=0", repeats=">=1", batch_size=">=1", limit=">=1")
def evaluate(
    source: str | Path,
    data: Any,
    *,
    protocol: str | None = None,
    columns: Mapping[str, str] | None = None,
    features: Any = None,
    split: str | None = None,
    train: Any = None,
    train_split: str | None = None,
    label: str | None = None,
    seed: int = 0,
    repeats: int = 3,
    batch_size: int = 64,
    limit: int | None = None,
    pooling: str = "auto",
    options: Mapping[str, Any] | None = None,
    save: bool = False,
) -> list[Result]:
    """Measure a checkpoint on rows.

    Args:
        source: folder or Hub id, of a plugin's method or of a model of transformers' own.
        data: see `data.load_rows`. Of the very rows that the checkpoint's run began with, the part that the run held out
            is taken, and the results say so; had it held out none, they say "training".
        protocol: "masked-loss", a named protocol for frozen features (`protocols.PROTOCOLS`), or one of the method's
            evaluators; default the loss alone.
        columns: column -> argument of the processor; default those of the run, where the data has them.
        features: a second table, for methods that take one; see `data.load_for`.
        split: of a source that has several.
        train: rows that a probe learns from, all of them, also where the checkpoint's run began with them; default a part
            of `data`, another one for each seed. train_split: of them; alone, it is that of `data`.
        label: column of the labels.
        seed: decides each row's mask and whatever else is drawn; the first of `repeats` seeds.
        repeats: seeds of a probe's split and of the random model; the interval is over these.
        batch_size: rows at a time.
        limit: at most so many rows, the first ones.
        pooling: see `features.iterate_features`.
        options: passed to the protocol.
        save: keep the results in the folder and show them in its card.
    Returns:
        For masked losses and the method's own protocols every named loss of the checkpoint and of a random model of the
        same shape, then the protocol's figures; for features those of the checkpoint, of a random model and of the input.
    Raises:
        ValueError: unknown protocol, unreadable data or checkpoint; labels that are missing or all the same.
    """
    from hub_mim import loading, sharing
    from hub_mim.protocols import PROTOCOLS, judge

    method = method_of(source)
    _check_protocol(method, protocol)
    rows, facts = _rows(source, data, columns, split, limit, method=method, features=features)
    if protocol in PROTOCOLS and not (method is not None and protocol in method.evaluators):
        train = data if train is None and train_split is not None else train
        learnt = (
            None
            if train is None
            else _rows(source, train, columns, train_split, None, method=method, features=features, whole=True)[0]
        )
        model, processor = loading.load(source), loading.load_processor(source)
        if PROTOCOLS[protocol].learns:
            share = f"{PROTOCOLS[protocol].test_share:.0%} of them, others for each seed"
            facts["split"] += (
                f", {share}"
                if learnt is None
                else f", learnt from {called(train)}{f', split {train_split}' if train_split else ''}"
            )
        figures = judge(
            protocol,
            model,
            processor,
            rows,
            source=source,
            train=learnt,
            label=label,
            seeds=range(seed, seed + repeats),
            options=options,
            batch_size=batch_size,
            pooling=pooling,
        )
        results = [Result(**facts | figure) for figure in figures]
    else:
        results = _losses_and_own(source, method, protocol, rows, facts, seed, batch_size, options)
    if save:
        sharing.add_results(source, results)
    return results


def _losses_and_own(
    source: str | Path,
    method: Any,
    protocol: str | None,
    rows: Any,
    facts: dict[str, Any],
    seed: int,
    batch_size: int,
    options: Mapping[str, Any] | None,
) -> list[Result]:
    """Return the masked losses, and the figures of a method's own protocol."""
    from hub_mim import loading
    from hub_mim.data import as_records

    model = loading.load(source, auto="AutoModelForPreTraining")
    processor = loading.load_processor(source)
    facts = facts | {"seeds": (seed,)}
    results = [
        Result(metric_type=name, metric_value=value, **facts)
        for name, value in _losses_beside_random(model, processor, rows, seed, batch_size, _drawer(method)).items()
    ]
    if method is not None and protocol in method.evaluators:
        evaluator = resolve(method.evaluators[protocol])
        for result in evaluator(model, processor, as_records(rows), seed=seed, **(options or {})):
            seeds = facts["seeds"] if result.seeds == (0,) else result.seeds
            results.append(dataclasses.replace(result, **facts | {"seeds": seeds}, protocol=protocol))
    return results


def method_of(source: str | Path) -> Any:
    """Return the method of a checkpoint, None where it is a model of transformers' own.

    Raises:
        ValueError: neither has its model type.
    """
    from transformers import CONFIG_MAPPING

    import hub_mim
    from hub_mim import loading, plugins

    hub_mim.register()
    values = loading.read_config(source)
    model_type = values.get("model_type")
    try:
        method = plugins.method_for_model_type(str(model_type))
    except ValueError:
        if model_type in CONFIG_MAPPING:
            return None
        raise
    return method if plugins.made(method, values.get("architectures")) else None


def _check_protocol(method: Any, protocol: str | None) -> None:
    from hub_mim.protocols import PROTOCOLS

    known = [LOSS, *PROTOCOLS, *(method.evaluators if method is not None else ())]
    if protocol is not None and protocol not in known:
        name = method.name if method is not None else "this model"
        raise ValueError(f"{name} has no protocol {protocol!r}{suggest(protocol, known)}; it has {', '.join(known)}")


def _rows(
    source: str | Path,
    data: Any,
    columns: Mapping[str, str] | None,
    split: str | None,
    limit: int | None,
    *,
    method: Any = None,
    features: Any = None,
    whole: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Return the rows to judge on (with `whole`, all of them), and the fields of a Result that tell where they are from."""
    from hub_mim.data import column_names, fingerprint, hold_out, load_for, rename_columns
    from hub_mim.run import FILE, Run

    run = Run.load(source) if (Path(source) / FILE).is_file() else None
    rows = load_for(method, data, features=features, split=split, columns=columns)
    if columns is None and run is not None and run.columns:
        present = column_names(rows)
        rows = rename_columns(rows, {name: to for name, to in run.columns.items() if name in present})
    mark, told = fingerprint(rows), split or "all rows"
    if run is not None and mark is not None and mark == run.fingerprint and not whole:
        held_out = hold_out(method, rows, run.validation, run.seed)[1]
        rows, told = (rows, "training") if held_out is None else (held_out, "held out by the run")
    if limit is not None:
        rows, told = rows.take(limit), f"first {limit} of {told}"
    return rows, facts_of(data, mark) | {"split": told}


def _drawer(method: Any) -> Any:
    return resolve(method.draws) if method is not None and method.draws else None


def _losses_beside_random(
    model: Any, processor: Any, rows: Any, seed: int, batch_size: int, draws: Any = None
) -> dict[str, float]:
    import torch

    from hub_mim.starting import fresh_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = fresh_model(model)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "draws": draws}
    ours = masked_losses(model, processor, rows, **options)
    random = masked_losses(untrained, processor, rows, **options)
    return ours | {f"{name} (untrained)": value for name, value in random.items()}


@takes(batch_size=">=1")
def masked_losses(
    model: Any, processor: Any, rows: Any, *, seed: int = 0, batch_size: int = 64, draws: Any = None
) -> dict[str, float]:
    """Return the masked loss and every named loss, each row with its one mask, mean over rows.

    Args:
        model: a pre-training model.
        processor: see `data.encode`.
        rows: a Dataset or a list of dicts.
        seed: with the row's number decides its mask; where the model takes no `row_seed`, of the generator it draws from.
        draws: see `Method.draws`.
        batch_size: rows at a time; where a loss is a mean over cells or tokens, ragged rows weigh alike only in one batch.
    Raises:
        ValueError: there are no rows.
    """
    import torch

    from hub_mim.data import batches, encode

    model.eval()
    sums: dict[str, float] = {}
    start = 0
    for part in batches(rows, batch_size):
        batch = {name: value.to(model.device) for name, value in encode(processor, part).items()}
        with torch.no_grad():
            output = model(**batch, **_draws(model, seed, start, len(part), batch, draws))
        for name, value in {"loss": output.loss, **(output.get("losses") or {})}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(part)
        start += len(part)
    if not start:
        raise ValueError("there are no rows to judge on")
    return {name: value / start for name, value in sums.items()}


def _draws(
    model: Any, seed: int, start: int, count: int, batch: Mapping[str, Any] | None = None, draws: Any = None
) -> dict[str, Any]:
    """Return what fixes the masks of rows `start` to `start + count`."""
    import inspect

    import torch

    from hub_mim.masking import EVALUATION, row_seeds

    accepted = inspect.signature(model.forward).parameters
    seeds = row_seeds(seed, EVALUATION, torch.arange(start, start + count, device=model.device))
    if "row_seed" in accepted:
        return {"row_seed": seeds}
    if draws is not None:
        return dict(draws(model, batch, seeds))
    if "generator" in accepted:
        return {"generator": torch.Generator(device=model.device).manual_seed(seed + start)}
    return {}
