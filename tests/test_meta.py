"""What the documents promise is there: every hook, verb and method."""

import inspect
import re
from pathlib import Path

import pytest

from hub_mim import cli, hookspecs, plugins
from hub_mim.method import Method
from hub_mim.testing import check_plugin
from hub_mim.testing.shared import find_shared

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())
METHODS = [folder for folder in PLUGINS if (folder / f"hub_mim_{folder.name}" / "card.md").is_file()]
HOOKS = [name for name, value in vars(hookspecs).items() if name.startswith("hub_mim_") and inspect.isfunction(value)]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_tested(hook):
    assert hook in CONTRIBUTING
    assert inspect.getdoc(getattr(hookspecs, hook))
    assert any(hook in path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))


def test_every_field_of_a_method_is_documented():
    told = inspect.getdoc(Method)
    assert told is not None
    assert [name for name in Method.__dataclass_fields__ if not re.search(rf"(^\s*|\. ){name}: ", told, re.M)] == []


def test_every_verb_stands_in_the_readme_as_help_prints_it():
    plugins.register_commands(cli.app)
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"`hub-mim {name}" in README
        assert inspect.getdoc(command.callback).splitlines()[0] in README, name


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_every_plugin_has_what_it_needs(folder):
    for name in ("README.md", "LICENSE", f"hub_mim_{folder.name}/py.typed"):
        assert (folder / name).is_file(), name
    assert f"(plugins/{folder.name})" in README


def test_every_method_comes_with_a_card():
    found = {plugins.origin(method.name)[0] for method in plugins.methods().values() if not method.native}
    assert {f"hub-mim-{folder.name.replace('_', '-')}" for folder in METHODS} == found - {"hub-mim-toy"}


@pytest.mark.parametrize("folder", METHODS, ids=lambda folder: folder.name)
def test_every_method_is_checked_against_its_authors(folder):
    assert (folder / "tests" / "test_conformance.py").is_file()
    assert list((folder / "tests" / "golden").glob("*.safetensors")), "no golden numbers of the authors' code"


@pytest.mark.slow
@pytest.mark.parametrize("folder", METHODS, ids=lambda folder: folder.name)
def test_the_counts_of_checks_are_those_of_the_readme(folder):
    if find_shared("fixtures") is None:
        pytest.skip("needs the shared fixtures, without which more checks are skipped")
    results = check_plugin(folder.name, on_fail=None)
    counts = {status: sum(result.status == status for result in results) for status in ("passed", "skipped", "failed")}
    row = next(line for line in README.splitlines() if f"(plugins/{folder.name})" in line)
    assert f"{counts['passed']} passed, {counts['skipped']} skipped" in row
    assert counts["failed"] == 0
