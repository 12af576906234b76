"""`hub-mim new`: what it writes passes the checks before a line is changed, and goes all the way to AutoModel."""

import os
import subprocess
import sys
import time

import pytest

from hub_mim.newplugin import MODALITIES, new_plugin

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def install(folder, site):
    """Put a plugin into a folder of its own, so that the environment stays as it is."""
    told = subprocess.run(
        [*PIP, "install", "--no-deps", "--no-build-isolation", "--target", str(site), str(folder)],
        capture_output=True,
        text=True,
    )
    if "setuptools" in told.stderr and "No module named" in told.stderr:
        pytest.skip("building needs setuptools in this environment")
    assert told.returncode == 0, told.stderr[-2000:]


def run(*arguments, site, cwd):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    return told.stdout


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_template_is_written_whole(tmp_path, modality):
    folder = new_plugin("my-thing", tmp_path / "plugin", modality=modality)
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert len(texts) == 13
    assert not any(word in text for text in texts for word in ("mymethod", "MyMethod", "CHANNELS", "MODALITY"))
    assert (folder / "hub_mim_my_thing" / "py.typed").is_file()
    for path in folder.rglob("*.py"):
        compile(path.read_text(), path.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_new_plugin_passes_the_fast_checks(tmp_path, modality):
    install(new_plugin("my-thing", tmp_path / "plugin", modality=modality), tmp_path / "site")
    told = run("-m", "hub_mim", "check", "my-thing", "--fast", site=tmp_path / "site", cwd=tmp_path)
    assert "\nfailed" not in told
    assert "\npassed   check_no_leakage" in told


@pytest.mark.slow
def test_from_nothing_to_a_loaded_model_in_five_minutes(tmp_path):
    started = time.monotonic()
    site = tmp_path / "site"
    run("-m", "hub_mim", "new", "from-nothing", "--modality", "text", site=site, cwd=tmp_path)
    wheels = tmp_path / "wheels"
    told = subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(tmp_path / "hub-mim-from-nothing")],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    (wheel,) = wheels.glob("*.whl")
    install(wheel, site)
    assert "\nfailed" not in run("-m", "hub_mim", "check", "from-nothing", site=site, cwd=tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "row number {number}"}}\n' for number in range(40)))
    train = ("-m", "hub_mim", "pretrain", "from-nothing", "--data", rows, "--out", "run", "--steps", "20")
    run(*train, site=site, cwd=tmp_path)
    code = "import hub_mim; from transformers import AutoModel; print(type(AutoModel.from_pretrained('run')).__name__)"
    assert "FromNothingModel" in run("-c", code, site=site, cwd=tmp_path)
    assert time.monotonic() - started < 300


@pytest.mark.parametrize("name", ["My", "1st", "a b", "class", "-x"])
def test_a_bad_name_is_told(tmp_path, name):
    with pytest.raises(ValueError, match="it must be lower-case letters"):
        new_plugin(name, tmp_path / "p")


def test_a_taken_name_and_an_unknown_modality_are_told(tmp_path):
    with pytest.raises(ValueError, match="installed already, by hub-mim-toy"):
        new_plugin("toy", tmp_path / "p")
    with pytest.raises(ValueError, match="modality is 'smell'"):
        new_plugin("nose", tmp_path / "p", modality="smell")


def test_nothing_is_overwritten(tmp_path):
    new_plugin("my-thing", tmp_path / "p")
    with pytest.raises(FileExistsError):
        new_plugin("my-thing", tmp_path / "p")
