"""The tutorial of CONTRIBUTING.md, block by block, as a reader would type it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from terminals import Terminal

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
HEADING = "### From an empty folder to a model on a Hub"


def blocks():
    """Yield (language, text) of the section's blocks."""
    section = TEXT.split(HEADING)[1].split("\n### ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.S)


@pytest.fixture
def terminal(tmp_path):
    pytest.importorskip("hub_mim_localhub", reason="hub-mim-localhub is not installed")
    other = Terminal(tmp_path)
    yield other
    other.end()


@pytest.mark.slow
def test_the_tutorial(tmp_path, terminal):
    site = tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hub-mim-waves'}:{site}", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def run(*command, **options):
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, **options)
        assert told.returncode == 0, f"{command}: {told.stdout[-1500:]}{told.stderr[-1500:]}"
        return told.stdout

    found = blocks()
    assert [language for language, _ in found].count("sh") == 4
    for language, text in found:
        if language == "python":
            last = run(sys.executable, "-c", text)
        elif language == "console":
            environment |= terminal.start(text.split())
        elif language == "diff":
            run("git", "apply", "--unidiff-zero", "-", input=text)
        else:
            for line in text.strip().splitlines():
                words = line.split()
                if words[:3] == ["pip", "install", "-e"]:  # beside the environment, not into it
                    quiet = ["--no-deps", "--no-build-isolation", "-q", "--target", str(site)]
                    run(sys.executable, "-m", "pip", "install", *quiet, f"./{words[3]}")
                else:
                    assert words[0] == "hub-mim", line
                    run(sys.executable, "-m", "hub_mim", *words[1:])
    assert last.strip() == "(1, 4, 64)"
