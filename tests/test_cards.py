"""A card tells what happened and nothing else, and a Hub can read it."""

import shlex
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

from hub_mim import plugins
from hub_mim.cards import USER_TEXT, keep_user_text, render_card, repeat_command
from hub_mim.results import Result
from hub_mim.run import Run

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

CONFIG = SimpleNamespace(model_type="toy_mim")
RUN = Run(
    method="toy",
    preset="wide",
    overrides={"mask_ratio": 0.25, "loss_weights": {"hidden": 1.0}},
    data="my rows.csv",
    fingerprint="0123456789abcdef",
    columns={"points": "values"},
    validation=0.2,
    rows=41,
    validation_rows=10,
    seed=7,
    arguments={"learning_rate": 3e-3, "max_steps": 12},
    early_stopping=4,
    steps=12,
    epochs=2.0,
    losses={"loss": 0.125, "eval_loss": 0.375},
    versions={"torch": "2.13.0"},
    commit="c0ffee",
)
RESULTS = [
    Result(metric_type="mae", metric_value=0.5, dataset_name="a|b", split="test", protocol="mean-error", seeds=(0, 1),
           interval=(0.25, 0.75), command="hub-mim evaluate x", commit="c0ffee"),
    Result(metric_type="loss", metric_value=0.2, dataset_name="rows", command="hub-mim evaluate y", commit="c0ffee"),
]  # fmt: skip


def test_front_matter_and_model_index_round_trip():
    card = ModelCard(render_card("mine", CONFIG, run=RUN, results=RESULTS))
    assert card.data.library_name == "hub_mim"
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["hub-mim", "toy", "vector"]
    assert card.data.model_name == "mine"
    found = {
        (each.metric_type, each.metric_value, each.dataset_name, each.dataset_split) for each in card.data.eval_results
    }
    assert found == {("mae", 0.5, "a|b", "test"), ("loss", 0.2, "rows", "not given")}


def test_snippet_begins_with_hub_mim_and_runs(tmp_path):
    card = render_card("mine", CONFIG, place="somewhere/mine")
    snippet = card.partition("```python\n")[2].partition("```")[0]
    assert snippet.startswith("import hub_mim\n")
    assert 'AutoModel.from_pretrained("somewhere/mine")' in snippet
    compile(snippet, "snippet", "exec")
    assert "pip install hub-mim-toy" in card


def test_no_number_from_nowhere():
    card = render_card("mine", CONFIG)
    assert "How it was trained" not in card
    assert "| masked-loss | not run |" in card
    assert "| mean-error | not run |" in card
    assert "model-index" not in card


def test_results_name_data_split_seeds_command_and_commit():
    card = render_card("mine", CONFIG, run=RUN, results=RESULTS)
    assert "| mae | 0.5 (0.25 to 0.75) | a\\|b | test | mean-error | 0, 1 | 1 |" in card
    assert "| loss | 0.2 | rows | not given | masked-loss | 0 | 2 |" in card
    assert "1. `hub-mim evaluate x`, commit `c0ffee`" in card
    assert "not run" not in card


def test_tables_have_no_gap_and_even_columns():
    lines = render_card("mine", CONFIG, run=RUN, results=RESULTS).replace("\\|", "").splitlines()
    tables = [index for index, line in enumerate(lines) if line.startswith("|---")]
    assert len(tables) == 3
    for index in tables:
        end = next(number for number in range(index, len(lines)) if not lines[number].startswith("|"))
        assert {line.count("|") for line in lines[index - 1 : end]} == {lines[index].count("|")}
        assert end > index + 1


def test_training_is_told_from_the_run():
    card = render_card("mine", CONFIG, run=RUN)
    for told in ("`my rows.csv`, fingerprint `0123456789abcdef`", "41 for training, 10 held out", "| seed | 7 |",
                 "| eval_loss | 0.375 |", "| mask_ratio | 0.25 |", "c0ffee", "torch 2.13.0"):  # fmt: skip
        assert told in card


def test_command_repeats_the_run():
    """The command line's own parser must give back what the run records."""
    words = shlex.split(repeat_command(RUN, plugins.get_method("toy")))
    assert words[:3] == ["hub-mim", "pretrain", "toy"]
    given = list(zip(words[3::2], words[4::2], strict=True))
    assert ("--data", "my rows.csv") in given
    assert ("--config", "mask_ratio=0.25") in given
    assert ("--config", 'loss_weights={"hidden": 1.0}') in given
    assert ("--map", "points=values") in given
    assert ("--set", "max_steps=12") in given
    assert ("--early-stopping", "4") in given
    assert not any(value.startswith("learning_rate") for _, value in given)  # it is the recipe's


def test_rows_from_memory_promise_no_command():
    assert repeat_command(Run(method="toy", data="in memory: list"), plugins.get_method("toy")) == ""
    assert "no command can repeat it" in render_card("mine", CONFIG, run=Run(method="toy", data="in memory"))


def test_user_text_is_kept_once():
    card = render_card("mine", CONFIG)
    edited = card + "\nMy words.\n"
    again = keep_user_text(render_card("mine", CONFIG, run=RUN), edited)
    assert again.count("My words.") == again.count(USER_TEXT) == 1
    assert keep_user_text(card, edited) == edited
    assert keep_user_text(card, "") == card


def test_names_with_braces_or_quotes_do_no_harm():
    card = render_card("a {{ 1 + 1 }} 'b'", CONFIG, run=Run(method="toy", data="{% raw %}"))
    assert "# a {{ 1 + 1 }} 'b'" in card
    yaml.safe_load(card.split("---\n")[1])
