"""The README's lines on sharing, as a reader would type them in two terminals."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from terminals import Terminal

ROOT = Path(__file__).parent.parent


@pytest.fixture
def terminal(tmp_path):
    pytest.importorskip("hub_mim_localhub", reason="hub-mim-localhub is not installed")
    other = Terminal(tmp_path)
    yield other
    other.end()


def test_the_lines_on_sharing(tmp_path, terminal):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Share a model")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)
    first, *lines = block.strip().splitlines()
    shutil.copytree(ROOT / "model_cards" / "remasker-breast-cancer", tmp_path / "wine-model")
    environment = {**os.environ, **terminal.start(first.partition("#")[0].split())}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    told = {}
    for line in lines:
        line = line.replace("hub-mim ", f"{sys.executable} -m hub_mim ", 1).replace(
            "python -c", f"{sys.executable} -c", 1
        )
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
        told[line] = done.stdout
    pushed, listed, loaded, pulled = told.values()
    commit = re.search(r"commit +([0-9a-f]{40})", pushed)[1]
    assert "me/wine" in listed
    assert loaded.strip() == "remasker"
    assert commit in pulled
    assert (tmp_path / "copy" / "model.safetensors").is_file()
