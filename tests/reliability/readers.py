"""Every reader of foreign bytes, with a valid file for it and the exception that it promises.

A reader here is a function of a folder; `target` is the file in it that strangers wrote. What else it raises
than its `errors` is a bug.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Reader:
    """A reader, and what lies in its folder before the target is spoiled; `plain` is a target of JSON."""

    name: str
    target: str
    files: dict[str, bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]

    @property
    def valid(self) -> bytes:
        """The target as it should be."""
        return self.files[self.target]

    @property
    def plain(self) -> bool:
        """Whether the target is JSON, so that its values are spoiled, not its bytes alone."""
        return self.target.endswith(".json")


MAKERS: dict[str, Callable[[], Reader]] = {}


def reader(target):
    """Register the function below, which returns (files, read) or (files, read, errors)."""

    def register(make):
        name = make.__name__

        @cache
        def made():
            files, read, *errors = make()
            whole = files if isinstance(files, dict) else {target: files}
            return Reader(name, target, whole, read, errors[0] if errors else (ValueError,))

        MAKERS[name] = made
        return make

    return register


def npz(**arrays):
    stored = io.BytesIO()
    np.savez_compressed(stored, **arrays)
    return stored.getvalue()


def parquet(columns):
    import pyarrow
    from pyarrow import parquet

    stored = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stored)
    return stored.getvalue()


@cache
def checkpoint():
    """Return the files of a small checkpoint, with processor, run, results and card."""
    import tempfile

    import torch

    from hub_mim import sharing
    from hub_mim.results import Result
    from hub_mim.run import Run
    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(0)
    model = ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1, hidden_size=4, intermediate_size=4))
    run = Run(method="toy", data="rows.csv", columns={"a": "values"}, arguments={"max_steps": 4}, rows=9)
    run.history = [{"loss": 1.0, "step": 1.0}, {"eval_loss": 0.5, "step": 2.0}]
    result = Result(metric_type="mae", metric_value=0.25, dataset_name="rows", interval=(0.2, 0.3))
    with tempfile.TemporaryDirectory() as place:
        folder = sharing.save(Path(place) / "x", model, ToyMimProcessor(factor=0.5), run=run, results=[result])
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result_name = next(name for name in found if name.startswith("results/"))
    return {name: found[name] for name in ("config.json", "model.safetensors", "processor_config.json", "run.json")} | {
        "README.md": found["README.md"],
        "results/mae.json": found[result_name],
    }


# --- weights -------------------------------------------------------------------------------------------------------


def weights_of(name):
    from hub_mim.weights import read_weights

    return lambda folder: read_weights(folder / name)


@reader("weights.safetensors")
def safetensors_weights():
    from safetensors.numpy import save

    return save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int64)}), weights_of("weights.safetensors")


@reader("weights.npz")
def npz_weights():
    return npz(a=np.ones((2, 3), np.float32), b=np.zeros(4)), weights_of("weights.npz")


@reader("weights.pt")
def torch_weights():
    import torch

    stored = io.BytesIO()
    torch.save({"model": {"a": torch.ones(2, 3), "b": torch.zeros(4)}, "step": 3}, stored)
    return stored.getvalue(), weights_of("weights.pt")


@reader("weights.msgpack")
def msgpack_weights():
    import msgpack

    def array(values):
        values = np.asarray(values, np.float32)
        return msgpack.ExtType(1, msgpack.packb((values.shape, values.dtype.name, values.tobytes())))

    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 2}}
    chunked["chunks"] = {"0": array([1.0, 2.0]), "1": array([3.0, 4.0])}
    tree = {"params": {"layer": {"kernel": array([[1.0, 2.0]]), "bias": array([0.5])}, "large": chunked}}
    return msgpack.packb(tree, use_bin_type=True), weights_of("weights.msgpack")


# --- a checkpoint's folder -----------------------------------------------------------------------------------------


@reader("config.json")
def config():
    from hub_mim.loading import load

    return checkpoint(), load


@reader("model.safetensors")
def safetensors_headers():
    from hub_mim.loading import load

    return checkpoint(), load


@reader("model.safetensors.index.json")
def index():
    from hub_mim.loading import check_loadable

    names = {"weight_map": {"toy.embed.weight": "model.safetensors"}, "metadata": {"total_size": 12}}
    return checkpoint() | {"model.safetensors.index.json": json.dumps(names).encode()}, check_loadable


@reader("processor_config.json")
def processor():
    from hub_mim.loading import load_processor

    return checkpoint(), load_processor


@reader("adapter_config.json")
def adapters():
    from hub_mim.loading import adapter_base

    values = {"base_model_name_or_path": "me/x", "revision": None, "peft_type": "LORA"}
    return json.dumps(values).encode(), adapter_base


@reader("run.json")
def run():
    return checkpoint(), card


@reader("results/mae.json")
def results():
    return checkpoint(), card


@reader("README.md")
def text_of_users():
    from hub_mim.cards import merge_user_text
    from hub_mim.sharing import _read_card

    return checkpoint(), lambda folder: merge_user_text("# fresh\n", _read_card(folder), _read_card(folder))


def card(folder):
    """Write the card of a folder again from its run and results, with its page of a report."""
    from hub_mim.reporting import report
    from hub_mim.sharing import card_of, config_of

    report([folder], folder / "report.html", overwrite=True)
    return card_of(folder, "x", config_of(folder))


@reader("complete.json")
def marker():
    from hub_mim.checkpoints import fault

    facts = {"a": {"size": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}}
    return {"complete.json": json.dumps(facts).encode(), "a": b"a"}, fault, ()


# --- rows ----------------------------------------------------------------------------------------------------------


def rows_of(name):
    from hub_mim.data import fingerprint, load_rows

    return lambda folder: fingerprint(load_rows(folder / name))


@reader("rows.csv")
def rows_csv():
    return b'a,b,c\n1,2.5,"x, y"\n,3,z\n4,,\n', rows_of("rows.csv")


@reader("rows.tsv")
def rows_tsv():
    return b"a\tb\n1\tx\n2\ty\n", rows_of("rows.tsv")


@reader("rows.jsonl")
def rows_jsonl():
    return b'{"a": 1, "b": [1.5, 2]}\n{"a": 2, "b": []}\n', rows_of("rows.jsonl")


@reader("rows.json")
def rows_json():
    return b'[{"a": 1, "b": "x"}, {"a": 2, "b": null}]', rows_of("rows.json")


@reader("rows.parquet")
def rows_parquet():
    return parquet({"a": [1, 2, 3], "b": ["x", None, "z"]}), rows_of("rows.parquet")


# --- of plugins ----------------------------------------------------------------------------------------------------


def regions_of(name):
    from hub_mim_regions.readers import read_regions

    return lambda folder: list(read_regions(folder / name))


@reader("regions.tsv")
def regions_tsv():
    import base64

    def text(values, kind):
        return base64.b64encode(np.asarray(values, kind).tobytes()).decode()

    boxes, features = [[0, 0, 5, 5], [1, 1, 9, 8]], [[0.5, 1.0], [2.0, 0.0]]
    fields = ["pic", "10", "12", text([1, 2], np.int64), text([0.5, 0.9], np.float32), text([3, 4], np.int64)]
    fields += [text([0.1, 0.2], np.float32), "2", text(boxes, np.float32), text(features, np.float32)]
    return ("\t".join(fields) + "\n").encode(), regions_of("regions.tsv")


@reader("regions.npz")
def regions_npz():
    boxes = np.array([[0.1, 0.1, 0.5, 0.5, 0.4, 0.4]], np.float32)
    arrays = {"conf": np.ones(1, np.float32), "soft_labels": np.ones((1, 3), np.float32)}
    return npz(norm_bb=boxes, features=np.ones((1, 2), np.float16), **arrays), regions_of("regions.npz")


@reader("regions.parquet")
def regions_parquet():
    columns = {"id": ["a"], "boxes": [[[0.1, 0.1, 0.5, 0.5]]], "features": [[[1.0, 2.0]]], "confidence": [[0.5]]}
    return parquet(columns), regions_of("regions.parquet")


def graph_of(name):
    from hub_mim_bandana.reading import as_graph, load

    def read(folder):
        rows = load(folder / name)
        return [as_graph(row) for row in rows]

    return read


@reader("graph.npz")
def graph_npz():
    sparse = {"x_indptr": np.array([0, 1, 3, 3]), "x_indices": np.array([0, 1, 2]), "x_shape": np.array([3, 4])}
    return npz(edge_index=np.array([[0, 1], [1, 2]]), y=np.array([0, 1, 0]), **sparse), graph_of("graph.npz")


@reader("edges.csv")
def graph_csv():
    return b"source,target,weight\na,b,1\nb,c,0.5\n", graph_of("edges.csv")


@reader("graph.json")
def graph_json():
    row = {"edge_index": [[0, 1], [1, 2]], "features": [[1.0], [2.0], [3.0]], "num_nodes": 3}
    return json.dumps([row]).encode(), graph_of("graph.json")


@reader("table.csv")
def table_with_gaps():
    from hub_mim_remasker.tables import Table

    return b"a,b,c\n1,2020-01-01,x\n,2020-01-02,y\n3,,\n", lambda folder: Table(folder / "table.csv")


@reader("card.md")
def front_matter():
    from hub_mim_localhub.errors import HubError
    from hub_mim_localhub.metadata import read_metadata

    valid = b"---\nlicense: mit\ntags: [a, b]\nmodel-index:\n- name: x\n  results: []\n---\n# x\n"
    return valid, lambda folder: read_metadata((folder / "card.md").read_text("utf-8")), (HubError, UnicodeDecodeError)
