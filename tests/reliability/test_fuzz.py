"""Spoiled and random bytes for every reader: it reads them or raises what it promises, soon and in little memory.

`HUB_MIM_FUZZ` says how many cases each reader gets: 25, 1,000 in `make test-all`, 20,000 in `make test-nightly`. An input
that breaks a reader is left in `build/fuzz/`; once mended, it belongs in `corpus/READER/`, which is read at every test.
"""

import io
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as numpy_arrays

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
for plugin in ("regions", "bandana", "remasker", "localhub"):
    pytest.importorskip(f"hub_mim_{plugin}", reason=f"the plugin {plugin} is not installed")

from readers import MAKERS, npz  # noqa: E402
from record import counted  # noqa: E402

CASES = int(os.environ.get("HUB_MIM_FUZZ", "25"))
CORPUS = Path(__file__).parent / "corpus"
FAILED = Path("build/fuzz")
MEMORY = 2 * 2**30  # bytes that one case may add to the process
SECONDS = 120  # nothing here takes one; a hang takes all

WORDS = ["../../x", "/etc/passwd", "", "x" * 3000, "\0", "ü\ud800", "NaN", "__reduce__", "model.safetensors", "[]"]
NUMBERS = [0, -1, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
LEAVES = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(max_size=8)
ANY = st.recursive(
    LEAVES,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Yield the path of every value in a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def replaced(value, path, new, gone):
    """Return a document with the value at a path replaced, or taken away."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if gone and len(path) == 1:
        copy.pop(path[0])
    else:
        copy[path[0]] = replaced(value[path[0]], path[1:], new, gone)
    return copy


def spoiled_json(valid):
    document = json.loads(valid)
    spots = st.sampled_from(list(places(document)))
    made = st.builds(lambda path, new, gone: replaced(document, path, new, gone), spots, ANY, st.booleans())
    deep = st.sampled_from([1_000, 100_000]).map(lambda depth: b"[" * depth + b"]" * depth)
    many = st.sampled_from(
        [b'{"a": ' + b"9" * 5_000 + b"}", b'{"a": 1, "a": 2}', b"\xff\xfe{}", b"null", b"[]", b"{}", b""]
    )
    return made.map(lambda value: json.dumps(value).encode("utf-8", "replace")) | deep | many


def spoiled_bytes(valid):
    """Return a strategy of bytes that differ from valid ones in a few places."""
    position = st.integers(0, len(valid))
    byte = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 9, 10, 34, 44]) | st.integers(0, 255)

    def flipped(changes):
        data = bytearray(valid)
        for place, value in changes:
            data[min(place, len(data) - 1)] = value
        return bytes(data)

    return st.one_of(
        st.lists(st.tuples(position, byte), min_size=1, max_size=6).map(flipped),
        position.map(lambda end: valid[:end]),
        st.tuples(position, position).map(lambda cut: valid[: min(cut)] + valid[max(cut) :]),
        st.tuples(position, st.binary(min_size=1, max_size=12)).map(
            lambda new: valid[: new[0]] + new[1] + valid[new[0] :]
        ),
        st.tuples(position, position).map(lambda cut: valid + valid[min(cut) : max(cut)]),
        st.binary(max_size=120),
    )


ARRAYS = st.sampled_from(["i8", "i4", "u1", "f4", "f8", "f2", "?", "U3", "c8", "M8[s]"]).flatmap(
    lambda kind: numpy_arrays(np.dtype(kind), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def spoiled_npz(valid):
    """Return a strategy of npz files that are whole, with one array that is gone or another one."""
    with np.load(io.BytesIO(valid)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    huge = st.sampled_from([np.array([3, 2**40]), np.array([-1]), np.array([2**62, 1]), np.array([np.nan, np.inf])])
    made = st.tuples(st.sampled_from(sorted(arrays)), st.none() | ARRAYS | huge)
    kept = made.map(lambda new: {name: array for name, array in (arrays | dict([new])).items() if array is not None})
    return kept.map(lambda arrays: npz(**arrays))


def spoiled(reader):
    ways = [spoiled_bytes(reader.valid)]
    ways += [spoiled_json(reader.valid)] if reader.plain else []
    ways += [spoiled_npz(reader.valid)] if reader.target.endswith(".npz") else []
    return st.one_of(ways)


@contextmanager
def bounded():
    """Turn a hang and unbounded memory into exceptions that no reader promises."""

    def late(number, frame):
        raise RuntimeError(f"a reader takes more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    before = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def attempt(reader, folder, content):
    """Give a reader a folder with this target; what it must not raise is kept and raised."""
    (folder / reader.target).write_bytes(content)
    try:
        with bounded():
            reader.read(folder)
        told = "nothing"
    except reader.errors as error:
        told = str(error).strip()
    except BaseException:
        FAILED.mkdir(parents=True, exist_ok=True)
        (FAILED / f"{reader.name}.bin").write_bytes(content)
        raise
    assert told, "an error without a word"
    assert "MemoryError" not in told  # what was asked for is seen before it is tried


@pytest.fixture
def prepared(tmp_path):
    """Return a function that makes a reader with its folder."""

    def prepare(name):
        reader = MAKERS[name]()
        for path, content in reader.files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
        return reader

    return prepare


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_valid_file_is_read(name, prepared, tmp_path):
    reader = prepared(name)
    found = reader.read(tmp_path)
    assert found is not None or name == "marker"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_spoiled_files(name, prepared, tmp_path):
    reader = prepared(name)
    tried = [0]

    @settings(
        max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(content=spoiled(reader))
    def read(content):
        attempt(reader, tmp_path, content)
        tried[0] += 1

    with counted("inputs", f"spoiled files, {name}") as count:
        read()
        count(tried[0])


KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed(path, prepared, tmp_path):
    attempt(prepared(path.parent.name), tmp_path, path.read_bytes())


ASSIGNMENTS = st.lists(
    st.text(max_size=12) | st.sampled_from(["a=b", "a=", "=b", "a=b=c", "a=[1", "a=NaN", "b=a"]), max_size=4
)


@settings(max_examples=4 * CASES, deadline=None, database=None, derandomize=True)
@given(items=ASSIGNMENTS)
def test_assignments_and_column_mappings(items):
    import typer
    from datasets import Dataset

    from hub_mim.commands import options
    from hub_mim.data import rename_columns

    with suppress(typer.BadParameter):
        options.assignments(items, "--config")
    with suppress(typer.BadParameter, ValueError):
        columns = options.columns_of(items)
        if columns:
            rename_columns(Dataset.from_dict({"a": [1], "b": [2]}), columns)


NAMES = st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "a", "", "C:", "\\", "\0", "~"]), max_size=5).map(
    "/".join
)


@settings(max_examples=4 * CASES, deadline=None, database=None, derandomize=True)
@given(name=NAMES)
def test_names_that_a_hub_answers_stay_in_the_folder(name):
    from pathlib import PurePosixPath, PureWindowsPath

    from hub_mim.transfer import check_names

    try:
        check_names([name])
    except ValueError:
        return
    for kind, root in ((PurePosixPath, "/root"), (PureWindowsPath, "C:\\root")):
        assert (kind(root) / name).is_relative_to(root)
        assert ".." not in (kind(root) / name).parts


GUIDED = ("regions_tsv", "regions_npz", "graph_csv", "graph_json", "msgpack_weights", "run", "marker", "front_matter")


@pytest.mark.nightly
@pytest.mark.parametrize("name", GUIDED)
def test_guided_by_coverage(name, tmp_path):
    """atheris looks for bytes that reach new lines of the parsers that are ours."""
    pytest.importorskip("atheris", reason="atheris is not installed")
    script = Path(__file__).with_name("fuzz_guided.py")
    with counted("inputs", f"guided by coverage, {name}") as count:
        command = [sys.executable, str(script), name, f"-runs={CASES}", "-seed=1"]
        told = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert told.returncode == 0, told.stderr[-3000:]
        count(CASES)
