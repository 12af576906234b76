"""What is installed: every string names something, transformers knows the classes, the files are there."""

import copy
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hub_mim.method import resolve
from hub_mim.testing.subject import SkipCheck, Subject, package_folder, source_folder


def check_every_string_resolves(subject: Subject) -> None:
    """Every `"module:Name"` of the Method names something."""
    for place, string in subject.method.strings():
        try:
            resolve(string)
        except ValueError as error:
            raise AssertionError(f"{place}: {error}") from error


def check_auto_classes(subject: Subject) -> None:
    """transformers' auto classes, and ours for what it has none for, give the declared classes."""
    from hub_mim.auto import auto_class

    config = subject.example.config
    for auto in subject.method.auto:
        if not auto.startswith("AutoModel"):
            continue
        model = auto_class(auto).from_config(copy.deepcopy(config))
        declared = subject.model_class(auto)
        assert type(model) is declared, (
            f"{auto}.from_config gives {type(model).__name__} instead of {declared.__name__}"
        )


def check_tags(subject: Subject) -> None:
    """A model that is pushed by `push_to_hub` is found by the tags `hub-mim` and the method's name."""
    for auto in ("AutoModel", "AutoModelForPreTraining"):
        if auto in subject.method.auto:
            tags = subject.model_class(auto).model_tags or []
            wanted = ["hub-mim", subject.name]
            assert set(wanted) <= set(tags), f"write model_tags = {wanted} into {subject.model_class(auto).__name__}"


def check_import_order(subject: Subject) -> None:
    """Whichever of the plugin, the hub and transformers is imported first, AutoConfig knows the model type."""
    for first in (subject.package, "hub_mim", "transformers"):
        code = (
            f"import {first}, hub_mim; from transformers import AutoConfig; "
            f"AutoConfig.for_model({subject.method.model_type!r})"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0, f"with {first} imported first: {told.stderr.strip().splitlines()[-1:]}"


def check_package_files(subject: Subject) -> None:
    """The package brings a typing marker and its own text for the card."""
    package = files(subject.package)
    for name in ("py.typed", "card.md"):
        assert (package / name).is_file(), f"the package has no {name}"
    assert (package / "card.md").read_text(encoding="utf-8").strip(), "card.md is empty"


def check_metadata(subject: Subject) -> None:
    """The distribution tells its licence and brings its text, needs hub-mim, and its entry point names a module."""
    found = distribution(subject.distribution)
    facts = found.metadata
    licensed = facts.get_all("License-Expression") or facts.get_all("License")
    assert licensed, 'the distribution tells no licence; write license = "Apache-2.0" in pyproject.toml'
    assert facts.get_all("License-File"), "the distribution brings no licence text; add a LICENSE and license-files"
    needed = {each.name for each in _requirements(subject.distribution)}
    assert "hub-mim" in needed, "the distribution does not require hub-mim"
    for entry in found.entry_points.select(group="hub_mim"):
        assert find_spec(entry.value.partition(":")[0]), (
            f"the entry point {entry.name} names {entry.value}: no such module"
        )


def check_wheel(subject: Subject) -> None:
    """A wheel built from the sources holds the modules, the licence, card.md and py.typed."""
    source = source_folder(subject)
    if source is None:
        names = [str(path) for path in distribution(subject.distribution).files or []]
    else:
        with tempfile.TemporaryDirectory() as folder:
            names = build_wheel(source, Path(folder))
    package = subject.package
    modules = [path.name for path in package_folder(subject).glob("*.py")]
    for name in ("py.typed", "card.md", *modules):
        assert f"{package}/{name}" in names, f"the wheel lacks {package}/{name}; see tool.setuptools.package-data"
    assert any("LICENSE" in name.upper() for name in names), "the wheel lacks the text of its licence"


def build_wheel(source: Path, folder: Path) -> list[str]:
    """Build a wheel from a copy of the sources and return the names of the files in it."""
    copied = shutil.copytree(
        source, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(copied)]
    told = subprocess.run(command, capture_output=True, text=True)
    if "No module named" in told.stderr and "setuptools" in told.stderr:
        raise SkipCheck("building a wheel needs setuptools in this environment")
    assert told.returncode == 0, f"the wheel cannot be built: {told.stderr.strip().splitlines()[-1:]}"
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


IMPORTS = """
import importlib, os, sys
package, model_type, ours, optional, *modules = sys.argv[1:]
optional = set(filter(None, optional.split(",")))
import torch, transformers
bad = {"open": "writes to a file", "socket.connect": "uses the network", "socket.getaddrinfo": "uses the network",
       "os.mkdir": "makes a folder", "os.remove": "removes a file", "subprocess.Popen": "starts a process"}
sys.dont_write_bytecode = True

def watch(event, arguments):
    if event not in bad or (event == "open" and not writes(arguments)):
        return
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((standard, "<frozen")):
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename.startswith(home):
        print(f"importing {module} {bad[event]}: {arguments[0]}")
        os._exit(3)

def writes(arguments):
    mode = arguments[1]
    return isinstance(mode, str) and set(mode) & set("wax+") and "__pycache__" not in str(arguments[0])

def foreign():
    # what the modules import from elsewhere, found in a child and imported here once: the children below start from it
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for module in modules:
            importlib.import_module(module)
        kept = ("hub_mim", "transformers.models", package, *ours.split(","), *optional)
        names = [name for name in sys.modules if not any(name == each or name.startswith(each + ".") for each in kept)]
        os.write(writing, ",".join(names).encode())
        os._exit(0)
    os.close(writing)
    names = os.fdopen(reading).read().split(",")
    os.waitpid(child, 0)
    return names

standard = os.path.dirname(os.__file__) + os.sep
home = os.path.dirname(importlib.util.find_spec(package).origin)
before = set(sys.modules)
for name in foreign():
    try:
        importlib.import_module(name)
    except Exception:  # what only a guarded or optional import asked for; the children below tell what matters
        continue
for module in modules:
    child = os.fork()
    if child == 0:
        sys.addaudithook(watch)
        importlib.import_module(module)
        heavy = sorted(optional & (set(sys.modules) - before))
        if heavy:
            print(f"importing {module} imports {heavy}, which only an extra brings; import it in the function that needs it")
            os._exit(3)
        import hub_mim
        if module != "hub_mim":
            hub_mim.register()
        transformers.AutoConfig.for_model(model_type)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        print(f"with {module} imported first, AutoConfig does not know {model_type!r}" if status != 3 else "")
        sys.exit(1)
"""


def check_every_module_first(subject: Subject) -> None:
    """Whichever module is imported first, the method is registered; no import writes, connects or needs an extra."""
    if not hasattr(os, "fork"):
        raise SkipCheck("this system cannot fork")
    modules = [f"{subject.package}.{each.name}" for each in pkgutil.iter_modules([str(package_folder(subject))])]
    ours = {entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="hub_mim")}
    lists = (",".join(sorted(ours)), ",".join(_optional(subject)))
    arguments = [subject.package, subject.method.model_type, *lists, subject.package, *modules]
    told = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True)
    assert told.returncode == 0, " ".join(told.stdout.split()) or told.stderr.strip().splitlines()[-1:]


def _optional(subject: Subject) -> list[str]:
    """Return the modules that only an extra of the plugin's distribution brings."""
    home = subject.distribution
    extra = {each.name for each in _requirements(home) if each.marker is not None and "extra" in str(each.marker)}
    always: set[str] = set()
    waiting = [home]
    while waiting:
        for each in _requirements(waiting.pop()):
            if each.name not in always and (each.marker is None or each.marker.evaluate({"extra": ""})):
                always.add(each.name)
                waiting.append(each.name)
    brought = packages_distributions().items()
    return sorted(module for module, names in brought if (extra - always) & set(names) and "pytest" not in module)


def _requirements(name: str) -> list[Any]:
    from packaging.requirements import Requirement

    try:
        return [Requirement(text) for text in distribution(name).requires or []]
    except PackageNotFoundError:
        return []
