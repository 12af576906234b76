"""Try the project with the lowest, or with the newest, versions that its `pyproject.toml` files allow.

    python scripts/dependency_ranges.py lowest
    python scripts/dependency_ranges.py newest

Builds the wheels of the core and of every plugin, installs them into an environment of their own (build/lowest, build/newest),
runs the tests below, prints the versions and what came out, and removes the environment. Lowest: each dependency that a
pyproject names, at its lower bound; what those need in turn is pip's choice. torch is the version of constraints.txt both times,
for its builds differ between machines. docs/reference/dependencies.md tells what came out last.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PLACES = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml")), ROOT / "tests" / "toy"]
EXTRAS = ("test", "convert", "evaluate", "tracking")
FIXED = "torch"
TESTS = [
    f"tests/test_{name}.py" for name in ("cards", "cli", "compatibility", "conversion", "data", "doctor", "sharing")
]
TESTS += [
    "plugins/bandana/tests/test_graphs.py",
    "plugins/bandana/tests/test_parity.py",
    "plugins/localhub/tests/test_client.py",
    "plugins/mwmae/tests/test_features.py",
    "plugins/mwmae/tests/test_parity.py",
    "plugins/regions/tests",
    "plugins/remasker/tests/test_imputation.py",
    "plugins/remasker/tests/test_parity.py",
]


def project_of(place: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return what a pyproject says of its distribution, and the extras of it that are tried."""
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    return project, {extra: extras[extra] for extra in EXTRAS if extra in extras}


def requirements(place: Path) -> list[Requirement]:
    """Return what a distribution names: its dependencies, and those of the extras that are tried."""
    project, extras = project_of(place)
    texts = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    named = [Requirement(text) for text in texts]
    return [each for each in named if not each.name.startswith("hub-mim")]


def lower_bounds(places: list[Path]) -> dict[str, Version]:
    """Return the lowest version of each dependency that all distributions allow.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    found: dict[str, Version] = {}
    for place in places:
        for each in requirements(place):
            if each.marker is not None and not each.marker.evaluate():
                continue
            bounds = [Version(part.version) for part in each.specifier if part.operator in (">=", "==", "~=")]
            name = canonicalize_name(each.name)
            if not bounds and name not in found:
                raise ValueError(
                    f"{place / 'pyproject.toml'} names no lowest version of {each.name}; write {each.name}>=x"
                )
            found[name] = max([*bounds, *([found[name]] if name in found else [])])
    return found


def pins(which: str) -> list[str]:
    """Return the constraints for pip."""
    pinned = re.search(rf"^{FIXED}==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    lowest = lower_bounds(PLACES) if which == "lowest" else {}
    return [pinned.group(), *(f"{name}=={version}" for name, version in sorted(lowest.items()) if name != FIXED)]


def installed(which: str, folder: Path) -> Path:
    """Make an environment with everything in it and return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python, constraints = folder / "bin" / "python", folder / "constraints.txt"
    constraints.write_text("\n".join(pins(which)) + "\n", encoding="utf-8")
    dist = folder / "dist"
    make = [sys.executable, ROOT / "scripts" / "make_dist.py", *PLACES, "--out", dist]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    wheels = []
    for project, extras in map(project_of, PLACES):
        (wheel,) = dist.glob(f"{project['name'].replace('-', '_')}-{project['version']}-*.whl")
        wheels.append(f"{wheel}[{','.join(extras)}]" if extras else str(wheel))
    for arguments in (["-U", "pip"], ["-c", constraints, *wheels]):
        subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what the project itself names, as they are installed."""
    told = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True)
    all_of_them = {canonicalize_name(each["name"]): each["version"] for each in json.loads(told.stdout)}
    return {name: all_of_them[name] for name in sorted(lower_bounds(PLACES))}


def main() -> int:
    """Run from the command line; ends as the tests end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--keep", action="store_true", help="leave the environment in build/")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what pytest runs")
    given = parser.parse_args()
    folder, began = ROOT / "build" / given.which, time.monotonic()
    try:
        python = installed(given.which, folder)
        print(", ".join(f"{name} {version}" for name, version in versions(python).items()), flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [folder / "bin" / "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *given.tests]
        told = subprocess.run(command, cwd=ROOT, env=environment)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{given.which}: {'passed' if told.returncode == 0 else 'FAILED'} in {(time.monotonic() - began) / 60:.0f} minutes"
    )
    return told.returncode


if __name__ == "__main__":
    sys.exit(main())
