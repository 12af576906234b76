"""The documentation: generated pages are fresh, the site builds without a warning, every block runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent.name not in ("reference", "methods"))
NEEDED = ("hub_mim_native", "hub_mim_remasker", "hub_mim_localhub", "hub_mim_toy")
everything = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs every plugin installed"
)


def blocks(path):
    """Return (language, text) of a page's blocks that are meant to be run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)
    return [(language, text) for language, text in found if language in ("python", "sh")]


@everything
def test_generated_pages_are_fresh():
    told = subprocess.run([sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, f"{told.stdout}run `make docs`"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed; it is in the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    told = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert told.returncode == 0, told.stderr
    assert "WARNING" not in told.stderr, told.stderr
    page = (tmp_path / "site" / "tutorial" / "first-plugin" / "index.html").read_text(encoding="utf-8")
    assert "hub-mim new waves" in re.sub(r"<[^>]+>", "", page)  # the section of CONTRIBUTING is in it


def test_every_page_is_in_the_navigation():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        assert path.relative_to(DOCS).as_posix() in menu, path


@everything
@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path)], ids=lambda path: path.stem)
def test_blocks_run(path, tmp_path):
    """In their order, in one folder; each Python block in a process of its own, as a reader would paste it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for language, text in blocks(path):
        if language == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            lines = [line.split() for line in text.strip().splitlines()]
            assert all(words[0] == "hub-mim" for words in lines), text
            commands = [[sys.executable, "-m", "hub_mim", *words[1:]] for words in lines]
        for command in commands:
            told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert told.returncode == 0, f"{text}\n{told.stdout[-500:]}\n{told.stderr[-1500:]}"
