"""Publishing checks everything first, names the repository in the card, and pushes nothing half."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "publish.py"


@pytest.fixture
def publish():
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path):
    for name in ("a-tiny", "b-tiny"):
        (tmp_path / name / ".cache").mkdir(parents=True)
        (tmp_path / name / ".cache" / "secret").write_text("x")
        (tmp_path / name / "README.md").write_text(f'model = AutoModel.from_pretrained("{name}")\n')
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 10)
        (tmp_path / name / "run.json").write_text(json.dumps({"status": "finished"}))
    return tmp_path


class Hub:
    """Stands for the client; keeps what it was given."""

    def __init__(self):
        self.pushed = {}

    def create_repo(self, name, private, exist_ok):
        assert exist_ok

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.pushed[repo_id] = {
            path.relative_to(folder_path).as_posix(): path.read_text()
            for path in folder_path.rglob("*")
            if path.is_file()
        }
        return f"http://hub/{repo_id}"


@pytest.fixture
def hub(publish, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "t")
    client = Hub()
    monkeypatch.setattr(publish, "connect", lambda endpoint, token: client)
    return client


def test_every_folder_is_pushed_and_its_card_names_the_repository(publish, folders, hub, capsys):
    assert publish.main(["me", "--folders", str(folders)]) == 0
    assert sorted(hub.pushed) == ["me/a-tiny", "me/b-tiny"]
    assert sorted(hub.pushed["me/a-tiny"]) == ["README.md", "config.json", "model.safetensors", "run.json"]
    assert hub.pushed["me/a-tiny"]["README.md"] == 'model = AutoModel.from_pretrained("me/a-tiny")\n'
    assert 'from_pretrained("a-tiny")' in (folders / "a-tiny" / "README.md").read_text()
    assert capsys.readouterr().out.split() == ["http://hub/me/a-tiny", "http://hub/me/b-tiny"]


def test_dry_run_pushes_nothing_and_needs_no_token(publish, folders, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish.main(["me", "b-tiny", "--folders", str(folders), "--dry-run"]) == 0
    assert not hub.pushed
    assert capsys.readouterr().out.startswith("would push b-tiny to me/b-tiny: 4 files,")


def test_no_token(publish, folders, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish.main(["me", "--folders", str(folders)]) == 1
    assert "no token; log in" in capsys.readouterr().err
    assert not hub.pushed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "has no run.json"),
        (lambda folder: (folder / "run.json").write_text('{"status": "running"}'), "not of a finished run"),
        (lambda folder: (folder / "x.bin").write_text("x"), "could execute code"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * (5 << 20)), "more than"),
    ],
)
def test_one_bad_folder_stops_all(publish, folders, hub, capsys, spoil, message):
    spoil(folders / "b-tiny")
    assert publish.main(["me", "--folders", str(folders)]) == 1
    assert message in capsys.readouterr().err
    assert not hub.pushed


def test_unknown_name(publish, folders, hub, capsys):
    assert publish.main(["me", "c-tiny", "--folders", str(folders)]) == 2
    assert "has no c-tiny; it has a-tiny, b-tiny" in capsys.readouterr().err
