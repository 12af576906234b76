"""The held-out loss is the trainer's, on rows that were held out, whatever the batch size."""

import dataclasses
import json

import pytest
import torch
from datasets import Dataset

from hub_mim import loading, sharing
from hub_mim.data import fingerprint, load_rows, split_rows
from hub_mim.evaluation import Result, evaluate, masked_losses
from hub_mim.run import Run

toy = pytest.importorskip("hub_mim_toy.modeling_toy", reason="the toy plugin (tests/toy) is not installed")


@pytest.fixture(scope="module")
def rows():
    from hub_mim_toy.example import sample

    return load_rows(sample(30, seed=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(11)
    model = toy.ToyMimForPreTraining(toy.ToyMimConfig())
    run = Run(method="toy", data="in memory", fingerprint=fingerprint(rows), validation=0.2, seed=5)
    return sharing.save(tmp_path_factory.mktemp("toy") / "out", model, ToyMimProcessor(), run=run)


def _figures(results):
    return {result.metric_type: result.metric_value for result in results}


def test_result_round_trip():
    result = Result(
        metric_type="auroc", metric_value=0.9, dataset_name="d", interval=(0.8, 1.0), seeds=(0, 1), commit="c"
    )
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.to_eval_result().metric_args == {"protocol": "masked-loss", "seeds": [0, 1]}
    other = dataclasses.replace(result, split="test")
    assert other.name != result.name
    assert "/" not in dataclasses.replace(result, dataset_name="a/../b").name


def test_losses_stand_beside_an_untrained_model(folder, rows):
    figures = _figures(evaluate(folder, rows))
    assert set(figures) == {f"{name}{kind}" for name in ("loss", "hidden", "absolute") for kind in ("", " (untrained)")}
    weights = toy.ToyMimConfig().loss_weights
    assert figures["loss"] == pytest.approx(sum(weights[name] * figures[name] for name in weights), rel=1e-6)
    assert figures["loss"] != figures["loss (untrained)"]


def test_only_rows_that_the_run_held_out_are_judged(folder, rows):
    """Judging on training rows and calling it held out would make this equal to the loss on all rows."""
    results = evaluate(folder, rows)
    assert {result.split for result in results} == {"held out by the run"}
    held_out = split_rows(rows, 0.2, 5)[1]
    alone = evaluate(folder, held_out)
    assert {result.split for result in alone} == {"all rows"}
    assert _figures(results) == _figures(alone)


def test_a_run_without_held_out_rows_is_told(tmp_path, folder, rows):
    run = dataclasses.replace(Run.load(folder), validation=0.0)
    model = loading.load(folder, auto="AutoModelForPreTraining")
    out = sharing.save(tmp_path / "out", model, loading.load_processor(folder), run=run)
    assert {result.split for result in evaluate(out, rows, limit=4)} == {"first 4 of training"}


def test_masks_are_fixed_by_seed_and_row_not_by_batches(folder, rows):
    model, processor = loading.load(folder, auto="AutoModelForPreTraining"), loading.load_processor(folder)
    whole = masked_losses(model, processor, rows, seed=1, batch_size=30)
    torch.manual_seed(99)
    parts = masked_losses(model, processor, rows, seed=1, batch_size=7)
    for name in whole:  # the order of float32 sums differs
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)
    assert masked_losses(model, processor, rows, seed=2)["loss"] != whole["loss"]


def test_a_model_without_row_seed_draws_from_a_seeded_generator(folder, rows):
    class Old(toy.ToyMimForPreTraining):
        def forward(self, values, mask=None, generator=None):
            return super().forward(values, mask=mask, generator=generator)

    torch.manual_seed(11)
    model = Old(toy.ToyMimConfig())
    first = masked_losses(model, loading.load_processor(folder), rows, seed=3)
    torch.manual_seed(1)
    assert masked_losses(model, loading.load_processor(folder), rows, seed=3) == first


def test_the_methods_own_protocol(folder, rows):
    results = evaluate(folder, rows, protocol="mean-error", seed=4)
    assert results[-1].metric_type == "mae"
    assert results[-1].protocol == "mean-error"
    assert results[-1].seeds == (4,)
    assert results[-1].split == "held out by the run"


def test_unknown_protocol_lists_those_known(folder, rows):
    message = (
        "toy has no protocol 'mean-errors'; did you mean 'mean-error'\\?; it has masked-loss, linear, .*, mean-error"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(folder, rows, protocol="mean-errors")


def test_no_rows(folder):
    model, processor = loading.load(folder, auto="AutoModelForPreTraining"), loading.load_processor(folder)
    with pytest.raises(ValueError, match="no rows"):
        masked_losses(model, processor, [])


def test_columns_of_the_run_are_reused(tmp_path, folder, rows):
    run = dataclasses.replace(Run.load(folder), columns={"points": "values"})
    model = loading.load(folder, auto="AutoModelForPreTraining")
    out = sharing.save(tmp_path / "out", model, loading.load_processor(folder), run=run)
    renamed = Dataset.from_list(rows.to_list()).rename_column("values", "points")
    assert _figures(evaluate(out, renamed)) == _figures(evaluate(folder, rows))
    assert _figures(evaluate(out, renamed, columns={"points": "values"})) == _figures(evaluate(folder, rows))


def test_nothing_is_written_unless_asked(tmp_path, folder, rows):
    model = loading.load(folder, auto="AutoModelForPreTraining")
    out = sharing.save(tmp_path / "out", model, loading.load_processor(folder))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    evaluate(out, rows, limit=5)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    results = evaluate(out, rows, limit=5, save=True)
    assert sorted(result.name for result in sharing.read_results(out)) == sorted(result.name for result in results)
    assert f"{results[0].metric_value:.4g}" in (out / "README.md").read_text()
