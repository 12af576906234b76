"""Publishing checks everything first, names the repository in the card, and pushes nothing half."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
testing = pytest.importorskip("hub_mim_localhub.testing", reason="hub-mim-localhub is not installed")
CHECKPOINT = next(iter(sorted((ROOT / "model_cards").glob("*/"))))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def publish():
    return script("publish")


@pytest.fixture
def folders(tmp_path):
    place = tmp_path / "cards"
    for name in ("a-tiny", "b-tiny"):
        shutil.copytree(CHECKPOINT, place / name)
        (place / name / ".cache").mkdir()
        (place / name / ".cache" / "secret").write_text("x")
    return place


@pytest.fixture
def hub(tmp_path):
    with testing.running_hub(tmp_path / "hub") as running, testing.connected(running, tmp_path / "cache"):
        yield running


def test_every_folder_is_pushed_and_its_card_names_the_repository(publish, folders, hub, capsys):
    before = (folders / "a-tiny" / "README.md").read_text()
    assert publish.main(["me", "--folders", str(folders)]) == 0
    assert sorted(each.id for each in hub.api().list_models()) == ["me/a-tiny", "me/b-tiny"]
    files = hub.api().list_repo_files("me/a-tiny")
    assert {"README.md", "config.json", "model.safetensors", "run.json"} <= set(files)
    assert not any(".cache" in name for name in files)
    card = Path(hub.api().hf_hub_download("me/a-tiny", "README.md")).read_text()
    assert 'from_pretrained("me/a-tiny")' in card
    assert (folders / "a-tiny" / "README.md").read_text() == before
    assert capsys.readouterr().out.split() == [f"{hub.endpoint}/me/a-tiny", f"{hub.endpoint}/me/b-tiny"]


def test_dry_run_pushes_nothing_and_needs_no_token(publish, folders, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish.main(["me", "b-tiny", "--folders", str(folders), "--dry-run"]) == 0
    assert list(hub.api().list_models()) == []
    assert capsys.readouterr().out.startswith("would push b-tiny to me/b-tiny: ")


def test_no_token(publish, folders, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish.main(["me", "--folders", str(folders)]) == 1
    assert "no token; log in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "has no run.json"),
        (lambda folder: (folder / "run.json").write_text('{"status": "running"}'), "not of a finished run"),
        (lambda folder: (folder / "x.bin").write_text("x"), "is a pickle"),
        (lambda folder: (folder / "x.py").write_text("x"), "could execute code"),
        (lambda folder: large(folder), "more than"),
    ],
)
def test_one_bad_folder_stops_all(publish, folders, hub, capsys, spoil, message):
    spoil(folders / "b-tiny")
    assert publish.main(["me", "--folders", str(folders)]) == 1
    assert message in capsys.readouterr().err
    assert list(hub.api().list_models()) == []


def large(folder):
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1_100_000)}, folder / "model.safetensors")


def test_unknown_name(publish, folders, capsys):
    assert publish.main(["me", "c-tiny", "--folders", str(folders)]) == 2
    assert "has no c-tiny; it has a-tiny, b-tiny" in capsys.readouterr().err


def test_what_needs_a_network_says_what_was_not_run(hub, monkeypatch, capsys):
    """Against the Hub on this machine the round trip passes; released weights cannot be reached and say so."""
    verify = script("verify_online")
    monkeypatch.setattr(verify.urllib.request, "urlretrieve", lambda *a: (_ for _ in ()).throw(OSError("no network")))
    assert verify.main([]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert "passed" in rows[0]
    assert "bit for bit" in rows[0]
    assert list(hub.api().list_models()) == []
    assert len(rows) == 1 + len(verify.RELEASED) + len(verify.TWINS)
    assert all("not run" in row for row in rows[1:])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert verify.main([]) == 0
    assert "no token" in capsys.readouterr().out.splitlines()[1]


def test_a_released_file_with_another_hash_fails(tmp_path, monkeypatch):
    verify = script("verify_online")
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(AssertionError, match="has SHA-256"):
        verify.fetch(verify.Released("toy", "weights.pth", None, "0000"), tmp_path)
    assert json.dumps(verify.run("x", lambda: 1 / 0)[1]) == '"failed"'
