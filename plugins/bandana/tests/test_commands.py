"""From tables of edges and nodes to vectors, by the command line."""

import json

import pandas as pd
import pytest
from datasets import Dataset

from hub_mim.cli import main
from hub_mim_bandana.example import rows, sample
from hub_mim_bandana.processing_bandana import BandanaProcessor


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    row = sample(60)[0]
    pd.DataFrame([(f"n{a}", f"n{b}") for a, b in row["edges"]], columns=["source", "target"]).to_csv(
        folder / "edges.csv", index=False
    )
    features = pd.DataFrame(row["features"]).add_prefix("f")
    features.insert(0, "id", [f"n{node}" for node in range(60)])
    features.assign(label=row["node_labels"]).to_parquet(folder / "features.parquet")
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as told:
        main(list(map(str, arguments)))
    return told.value.code


@pytest.fixture(scope="module")
def run(tables):
    given = ["--data", tables / "edges.csv", "--features", tables / "features.parquet"]
    out = tables / "run"
    options = ["--preset", "link", "--config", "hidden_size=16", "--steps", 30, "--learning-rate", "0.005"]
    assert call("pretrain", "bandana", *given, "--out", out, *options) == 0
    return out, given


def test_a_run_holds_out_edges(run):
    told = json.loads((run[0] / "run.json").read_text())
    assert (told["rows"], told["validation_rows"]) == (1, 1)
    assert told["losses"]["eval_loss"] > 0


def test_every_node_gets_a_vector_by_its_name(run, tmp_path):
    assert call("embed", run[0], *run[1], "--out", tmp_path / "v.parquet") == 0
    table = Dataset.from_parquet(str(tmp_path / "v.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["id", "node", "embedding"]
    assert table["node"][:2] == ["n0", "n1"]
    assert (len(table), len(table[0]["embedding"])) == (60, 32)
    assert call("embed", run[0], *run[1], "--out", tmp_path / "g.npy", "--per", "row") == 0


@pytest.mark.parametrize("protocol", ["links", "nodes"])
def test_links_and_nodes_are_judged(run, protocol, capsys):
    capsys.readouterr()
    assert call("evaluate", run[0], *run[1], "--protocol", protocol, "--json") == 0
    results = {each["metric_type"]: each for each in json.loads(capsys.readouterr().out)}
    wanted = {"links": {"auc", "ap", "auc (untrained)"}, "nodes": {"accuracy", "accuracy (raw input)"}}[protocol]
    assert wanted <= set(results)
    assert all(0 <= results[name]["metric_value"] <= 1 for name in wanted)


def test_pictures_of_large_and_small_graphs(run, tmp_path):
    assert call("show", run[0], *run[1], "--out", tmp_path / "small.png") == 0
    assert (tmp_path / "small.png").stat().st_size > 5000


def test_sampled_training(tmp_path):
    options = ["--preset", "sampled", "--config", "hidden_size=8", "--steps", 4, "--validation", 0]
    chosen = ["--processor", "sampling=clusters", "--processor", "parts=3"]
    assert call("pretrain", "bandana", "--data", "sample:bandana", "--out", tmp_path / "run", *options, *chosen) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["rows"] == 3


def test_graphs_are_classified(tmp_path):
    given = rows(40)
    Dataset.from_list(given).to_parquet(tmp_path / "graphs.parquet")
    data = ["--data", tmp_path / "graphs.parquet"]
    options = ["--preset", "sampled", "--config", "hidden_size=8", "--steps", 5]
    assert call("pretrain", "bandana", *data, "--out", tmp_path / "run", *options) == 0
    assert call("finetune", tmp_path / "run", *data, "--out", tmp_path / "tuned", "--steps", 5) == 0
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["architectures"] == [
        "BandanaForGraphClassification"
    ]


def test_other_methods_take_no_second_table(tables, tmp_path, capsys):
    given = ["--data", tables / "edges.csv", "--features", tables / "features.parquet"]
    assert call("pretrain", "remasker", *given, "--out", tmp_path / "run") == 1
    assert "remasker takes no table of features" in capsys.readouterr().err


def test_a_processor_keeps_what_it_learnt(tmp_path):
    processor = BandanaProcessor(sampling="neighbours", fanout=[5]).fit(rows())
    processor.save_pretrained(tmp_path)
    again = BandanaProcessor.from_pretrained(tmp_path)
    assert (again.num_features, again.fanout, again.sampling) == (4, [5], "neighbours")
