"""Checkpoints, files and folders that a stranger made to do harm: refused in a sentence, nothing run, nothing outside touched."""

import ast
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from record import counted

from hub_mim import loading, sharing, staging, transfer
from hub_mim.weights import read_weights

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

ROOT = Path(__file__).resolve().parents[2]
LARGE = 200 * 2**20  # bytes a bomb unpacks to


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.fixture
def marker(tmp_path):
    """A file that is there once something of a stranger has run, or has written outside of its folder."""
    place = tmp_path / "outside" / "executed"
    place.parent.mkdir()
    yield place
    assert not place.exists()


@pytest.fixture
def folder(tmp_path):
    import torch

    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(0)
    model = ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1))
    return sharing.save(tmp_path / "model", model, ToyMimProcessor(factor=0.5))


def pickled(marker):
    return pickle.dumps({"weight": Evil(marker)})


def torch_pickled(marker):
    import torch

    stored = io.BytesIO()
    torch.save({"weight": Evil(marker)}, stored)
    return stored.getvalue()


def objects(marker):
    stored = io.BytesIO()
    np.savez(stored, weight=np.array([Evil(marker)], dtype=object))
    return stored.getvalue()


def zip_bomb(marker, name="weight.npy"):
    stored = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (LARGE,), "fortran_order": False, "descr": "|u1"})
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as made, made.open(name, "w", force_zip64=True) as member:
        member.write(header.getvalue())
        for _ in range(LARGE // 2**20):
            member.write(bytes(2**20))
    return stored.getvalue()


def header_bomb(marker):
    stored = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (2**40, 2**10), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(stored, "w") as made:
        made.writestr("weight.npy", header.getvalue() + bytes(64))
    return stored.getvalue()


def torch_bomb(marker):
    """A file of torch's own format whose first record unpacks to 200 times its size."""
    import torch

    plain, stored = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(LARGE, dtype=torch.uint8)}, plain)
    with zipfile.ZipFile(plain) as given, zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            made.writestr(name, given.read(name))
    return stored.getvalue()


def safetensors_of(length, header):
    return lambda marker: struct.pack("<Q", length) + header


def claims(**facts):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | facts}).encode()
    return lambda marker: struct.pack("<Q", len(header)) + header + bytes(16)


def msgpack_deep(marker):
    return b"\x81\xa1a" * 3_000 + b"\x01"


def msgpack_bomb(marker):
    return b"\xdd\xff\xff\xff\xff"  # an array of four thousand million members that are not there


FILES = {
    "a pickle called safetensors": ("x.safetensors", pickled),
    "a torch pickle called safetensors": ("x.safetensors", torch_pickled),
    "a pickle called pt": ("x.pt", pickled),
    "a torch pickle with code": ("x.pt", torch_pickled),
    "a torch pickle with code called bin": ("x.bin", torch_pickled),
    "a pickle called npz": ("x.npz", pickled),
    "a pickle called msgpack": ("x.msgpack", pickled),
    "an npz of Python objects": ("x.npz", objects),
    "a zip bomb called npz": ("x.npz", zip_bomb),
    "a header bomb in an npz": ("x.npz", header_bomb),
    "a zip bomb in torch's format": ("x.pt", torch_bomb),
    "a safetensors header of 2 ** 63 bytes": ("x.safetensors", safetensors_of(2**63, b"{}")),
    "a safetensors header of 90 MB that is not there": ("x.safetensors", safetensors_of(90_000_000, b"{}")),
    "a safetensors header nested deeply": ("x.safetensors", safetensors_of(60_000, b"[" * 60_000)),
    "a tensor beyond the file": ("x.safetensors", claims(data_offsets=[0, 10**12])),
    "a tensor of 2 ** 62 numbers": ("x.safetensors", claims(shape=[2**31, 2**31])),
    "a tensor of negative size": ("x.safetensors", claims(shape=[-4])),
    "a tensor of an unknown kind": ("x.safetensors", claims(dtype="OBJECT")),
    "msgpack nested deeply": ("x.msgpack", msgpack_deep),
    "msgpack that claims a huge array": ("x.msgpack", msgpack_bomb),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", FILES)
def test_weights_of_strangers(what, tmp_path, marker):
    import resource

    from hub_mim.conversion import convert

    name, make = FILES[what]
    path = tmp_path / name
    path.write_bytes(make(marker))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with counted("malicious", what) as count:
        with pytest.raises(ValueError, match=f"cannot read weights from {name}"):
            read_weights(path)
        with pytest.raises(ValueError, match="cannot read"):
            convert("toy", path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        count(2)
    if "bomb" in what:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024
        assert grown < LARGE // 2


def rewrite(name, **values):
    def spoil(folder, marker):
        path = folder / name
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | values))

    return spoil


def code(folder, marker):
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass X: pass\n")


def remote(name, **auto_map):
    def spoil(folder, marker):
        code(folder, marker)
        rewrite(name, auto_map=auto_map, model_type="evil", processor_class="X")(folder, marker)

    return spoil


def disguised(name):
    def spoil(folder, marker):
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(torch_pickled(marker))

    return spoil


def decoy(folder, marker):
    """A harmless safetensors file beside the pickle that transformers would look for."""
    disguised("pytorch_model.bin")(folder, marker)
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, folder / "decoy.safetensors")


def adapters(folder, marker):
    """Adapters whose weights are a pickle beside a harmless safetensors file, over this same base."""
    base = folder.with_name("base")
    folder.rename(base)
    folder.mkdir()
    decoy_of(folder, marker, base)


def decoy_of(folder, marker, base):
    from safetensors.numpy import save_file

    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base), "target_modules": ["q_proj"]})
    )
    (folder / "adapter_model.bin").write_bytes(torch_pickled(marker))
    save_file({"x": np.zeros(1)}, folder / "decoy.safetensors")


FOLDERS = {
    "pickled weights called safetensors": (disguised("model.safetensors"), "is damaged"),
    "pickled weights": (disguised("pytorch_model.bin"), "a pickle, which could execute code"),
    "pickled weights beside a decoy": (decoy, "cannot be loaded|lacks"),
    "pickled adapters beside a decoy": (adapters, "cannot be loaded|pickle|lacks"),
    "code for the configuration": (remote("config.json", AutoConfig="evil.X", AutoModel="evil.X"), "is not run"),
    "a file above in the index": (
        rewrite("model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        "not in it",
    ),
    "an absolute file in the index": (
        rewrite("model.safetensors.index.json", weight_map={"a": "/etc/passwd"}),
        "not in it",
    ),
    "an index of something else": (rewrite("model.safetensors.index.json", weight_map=[1]), "must name a file"),
    "a kernel from a Hub": (rewrite("config.json", _attn_implementation="evil/kernel"), "is code from a Hub"),
    "another kernel from a Hub": (rewrite("config.json", attn_implementation="evil/kernel"), "is code from a Hub"),
    "a layer of a thousand million": (rewrite("config.json", hidden_size=10**9), "."),
    "a million layers": (rewrite("config.json", num_hidden_layers=10**6), "asks for num_hidden_layers"),
    "JSON of 70 MB": (
        lambda folder, marker: (folder / "config.json").write_bytes(b" " * 70_000_000 + b"{}"),
        "is not read",
    ),
    "JSON nested deeply": (
        lambda folder, marker: (folder / "config.json").write_bytes(b"[" * 10**6),
        "nested too deeply",
    ),
    "a number of 5,000 digits": (
        lambda folder, marker: (folder / "config.json").write_bytes(b"9" * 5_000),
        "is not JSON",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", FOLDERS)
def test_checkpoints_of_strangers(what, folder, marker):
    spoil, message = FOLDERS[what]
    spoil(folder, marker)
    with counted("malicious", what) as count:
        with pytest.raises(ValueError, match=message):
            loading.load(folder)
        count(1)


def test_code_beside_a_processor_is_not_run(folder, marker):
    code(folder, marker)
    for name in ("processor_config.json", "tokenizer_config.json", "config.json"):
        rewrite(name, auto_map={"AutoProcessor": "evil.X", "AutoConfig": "evil.X", "AutoModel": "evil.X"})(
            folder, marker
        )
    assert type(loading.load_processor(folder)).__module__ == "hub_mim_toy.processing_toy"
    assert type(loading.load(folder)).__module__ == "hub_mim_toy.modeling_toy"


def test_what_strangers_wrote_is_text_in_a_card_and_on_a_page(folder, tmp_path):
    """Neither a template of the card's engine nor markup of the page."""
    from hub_mim.reporting import report
    from hub_mim.run import Run

    nasty = "{{ 7 * 191 }}{% include '/etc/passwd' %}<script>alert(1)</script>"
    run = Run(method="toy", data=nasty, history=[{"loss": 1.0, "step": 1.0}])
    run.save(folder)
    card = sharing.card_of(folder, "x", sharing.config_of(folder))
    assert "1337" not in card
    page = report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1337" not in page
    assert "<script" not in page


# --- links ---------------------------------------------------------------------------------------------------------


def test_links_out_of_a_folder_are_not_pushed(folder, tmp_path):
    """A folder from a stranger's archive may link to a file of the user's."""
    secret = tmp_path / "outside.txt"
    secret.write_text("mine")
    for link, target in (("notes.txt", secret), ("deep.txt", Path("..") / "outside.txt")):
        (folder / link).symlink_to(target)
        with pytest.raises(ValueError, match=rf"{link} in .* is a link to .*outside\.txt, outside of the folder"):
            staging.check_pushable(folder)
        (folder / link).unlink()
    (folder / "inside.txt").symlink_to("config.json")
    staging.check_pushable(folder)


def test_writing_over_a_folder_follows_no_link_in_it(folder, tmp_path):
    """What is removed with the old weights is the link, not what it points to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.json").write_text("mine")
    (folder / "results").symlink_to(outside)
    model = loading.load(folder, auto="AutoModelForPreTraining")
    sharing.save(folder, model, overwrite=True)
    assert (outside / "mine.json").read_text() == "mine"
    assert not (folder / "results").exists()


def test_a_hub_cannot_name_a_file_outside(tmp_path):
    for name in ("../x", "a/../../x", "/etc/x", "a\\..\\x", "C:/x", "a//x", "./x", ""):
        with pytest.raises(ValueError, match="would leave the folder"):
            transfer.check_names([name])


# --- our own code --------------------------------------------------------------------------------------------------

FORBIDDEN = {
    ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("joblib", "load"), ("marshal", "loads"), ("dill", "load"),
    ("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"), ("tempfile", "mktemp"), ("shelve", "open"),
}  # fmt: skip
ALLOWED = {
    ("modeling.py", "pickle.loads"): "a copy of a model that the check has just pickled itself",
    ("evidence.py", ".exec"): "the snippet of a card that the check has just written itself",
    ("evidence.py", ".compile"): "the same",
    ("metadata.py", "yaml.load"): "with a SafeLoader that refuses aliases",
}  # fmt: skip
OPTIONS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}


def sources():
    for top in ("hub_mim", "plugins", "scripts"):
        yield from (
            path
            for path in sorted((ROOT / top).rglob("*.py"))
            if "/tests/" not in path.as_posix() and "build" not in path.parts
        )


def faults(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        owner = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        given = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
        if (owner, name) in FORBIDDEN or (
            not owner and name in ("eval", "exec", "compile") and isinstance(called, ast.Name)
        ):
            yield f"{owner}.{name}", node.lineno
        if (owner, name) == ("torch", "load") and given.get("weights_only") is not True:
            yield "torch.load without weights_only", node.lineno
        yield from (
            (f"{key}={value}", node.lineno)
            for key, value in OPTIONS.items()
            if given.get(key) == value and key in given
        )


def test_nothing_of_ours_unpickles_or_starts_a_shell():
    files = list(sources())
    assert len(files) > 100
    found = [
        (path.relative_to(ROOT).as_posix(), what, line)
        for path in files
        for what, line in faults(path)
        if (path.name, what) not in ALLOWED
    ]
    assert found == []


def test_the_search_finds_what_it_looks_for(tmp_path):
    bad = "import torch, subprocess, pickle\ntorch.load('x')\nsubprocess.run('x', shell=True)\npickle.load(f)\neval('1')\n"
    (tmp_path / "bad.py").write_text(bad)
    assert [line for _, line in faults(tmp_path / "bad.py")] == [2, 3, 4, 5]
    good = "torch.load('x', weights_only=True)\nmodel.eval()\nre.compile('x')\n"
    (tmp_path / "good.py").write_text(good)
    assert list(faults(tmp_path / "good.py")) == []


# --- tokens --------------------------------------------------------------------------------------------------------

TOKEN = "hf_" + "PlantedTokenForTests" * 2


def run_quietly(capsys, *words):
    from hub_mim import cli

    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    told = capsys.readouterr()
    return ended.value.code, told.out + told.err


@pytest.mark.parametrize("where", ["environment", "argument"])
def test_a_token_is_told_nowhere(where, folder, tmp_path, monkeypatch, capsys):
    """In logs, cards, records, reports, tracebacks: planted in the environment, and in what is given by hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN if where == "environment" else "hf_another")
    place = f"http://me:{TOKEN}@127.0.0.1:9"
    rows = tmp_path / "rows.jsonl"
    values = [[0.1, 0.2, 0.3]] * 6
    rows.write_text("".join(json.dumps({"values": values}) + "\n" for _ in range(8)))
    run = tmp_path / "run"
    calls = [
        ("pretrain", "toy", "--data", rows, "--out", run, "--steps", 2, "--set", f"run_name={place}"),
        ("evaluate", run, "--data", "sample:toy", "--protocol", "mean-error", "--save"),
        ("info", run),
        ("report", run, "--out", tmp_path / "page.html"),
        ("push", run, "me/x", "--endpoint", place),
        ("push", run, "me/x", "--endpoint", place, "--debug"),
        ("pull", "me/x", tmp_path / "copy", "--endpoint", place),
        ("ls", "--hub", "--endpoint", place),
        ("pretrain", "toy", "--data", rows, "--out", tmp_path / "b", "--set", f"hub_token={TOKEN}"),
        ("pretrain", "toy", "--data", f"{place}/rows.csv", "--out", tmp_path / "c", "--debug"),
        ("embed", run, "--data", "sample:toy", "--out", tmp_path / "v.npy"),
    ]
    for words in calls:
        _, told = run_quietly(capsys, *words)
        assert TOKEN not in told, words
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "README.md", "page.html", "v.npy"} <= {path.name for path in files}
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX's")
def test_temporary_files_are_private(monkeypatch, tmp_path):
    """A staged push lies in a folder that only its owner can open."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with tempfile.TemporaryDirectory() as place:
        assert Path(place).stat().st_mode & 0o077 == 0
