"""The record of a run: nothing is lost in run.json, and two runs can be told apart."""

import json

import pytest

from hub_mim.run import LIBRARIES, Run

FULL = Run(
    method="toy",
    distribution="hub-mim-toy",
    version="1.2",
    preset="tiny",
    processor={"factor": 0.5},
    overrides={"hidden_size": 8},
    config={"hidden_size": 8, "loss_weights": {"a": 1.0}, "sizes": [1, 2]},
    data="table.csv",
    fingerprint="abc",
    data_licence="mit",
    task={"task": "classification"},
    columns={"x": "values"},
    split="train",
    validation=0.2,
    rows=10,
    validation_rows=2,
    seed=3,
    arguments={"learning_rate": 1e-3, "lr_scheduler_kwargs": {"min_lr": 1e-5}},
    recipe={"learning_rate": 2e-3},
    training_arguments={"learning_rate": 1e-3, "report_to": "none"},
    init_from="runs/a",
    lora=True,
    early_stopping=2,
    tokens_per_batch=512,
    skip_bad_steps=True,
    plain_steps=True,
    half_weights=True,
    cache_side=64,
    draft_side=96,
    augment={"crop": [0.2, 1.0], "flip": 0.5},
    processes=2,
    steps=7,
    best_step=6,
    epochs=1.75,
    speed={"mfu": 0.5},
    losses={"loss": 0.1 + 0.2, "eval_loss": 1e-17},
    history=[{"step": 1, "loss": 2 / 3}],
    status="finished",
    started="2026-01-01T00:00:00Z",
    ended="2026-01-01T00:00:01Z",
    versions={"torch": "2"},
    commit="0" * 40,
    hardware="a CPU",
)


def test_every_field_comes_back_from_the_file(tmp_path):
    default = Run(method="")
    same = [name for name, value in vars(FULL).items() if value == vars(default)[name]]
    assert not same, f"this test would not notice the loss of {same}"
    FULL.save(tmp_path)
    assert Run.load(tmp_path) == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_fields_of_a_newer_version_are_left_out(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**FULL.to_dict(), "from_the_future": 1}))
    assert Run.load(tmp_path) == FULL


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        Run.load(tmp_path)


def test_a_setting_that_differs_is_named():
    assert FULL.difference(FULL) is None
    assert FULL.difference(changed(seed=4)) == "seed was 3 and is now 4"
    assert FULL.difference(changed(processes=1)) == "rows per step was 2 and is now 1"
    half = {**FULL.training_arguments, "gradient_accumulation_steps": 2}
    assert FULL.difference(changed(processes=1, training_arguments=half)) is None
    streamed = changed(processes=1, training_arguments=half, rows=None)
    assert changed(rows=None).difference(streamed) == "processes was 2 and is now 1"
    told = FULL.difference(changed(arguments={"learning_rate": 1e-2, "lr_scheduler_kwargs": {"min_lr": 1e-5}}))
    assert told == "arguments.learning_rate was 0.001 and is now 0.01"


def test_what_json_cannot_tell_apart_is_no_difference():
    assert FULL.difference(changed(config={**FULL.config, "sizes": (1, 2)})) is None


def test_results_and_times_are_no_settings():
    assert FULL.difference(changed(steps=1, losses={}, started="", versions={}, hardware="")) is None


def test_other_versions_are_told():
    assert FULL.other_versions(FULL) == ""
    assert FULL.other_versions(changed(versions={"torch": "3"})) == "torch 2 -> 3"


def test_a_stamp_tells_when_and_with_what():
    run = Run(method="toy").stamp()
    assert run.started.endswith("Z")
    assert {"python", *LIBRARIES} <= set(run.versions)
    assert run.hardware


def changed(**fields):
    return Run.from_dict({**FULL.to_dict(), **fields})
