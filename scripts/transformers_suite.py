"""Fetch transformers' own model tests: the pinned source distribution, checked by hash, unpacked into a cache.

The files are transformers' (Apache-2.0) and are never part of this repository; `tests/test_transformers_suite.py` runs
them over every installed plugin. Prints the folder to put on the path:
    python scripts/transformers_suite.py
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "5.23.0"
SHA256 = "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71"
WANTED = ("test_modeling_common.py", "test_configuration_common.py", "test_processing_common.py")
WANTED += ("test_image_processing_common.py", "test_feature_extraction_common.py", "test_memory_cleanup_mixin.py")
# modules that the tests import and that hold nothing for encoders; each is replaced by the least that imports
STUBS = {
    "transformers_tests/__init__.py": "",
    "transformers_tests/exporters/__init__.py": "",
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_tests/generation/__init__.py": "",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "transformers_tests/utils/__init__.py": "",
    "transformers_tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url, return_url_if_not_found=True):\n    return url\n",
}


def cache() -> Path:
    """Return the folder of the unpacked tests, which may not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hub_mim" / f"transformers-{VERSION}-tests"


def download(folder: Path) -> Path:
    """Fetch the source distribution and return its file.

    Raises:
        SystemExit: the index does not have it, or the file is not the pinned one.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", "transformers", "-d", str(folder), f"transformers=={VERSION}"]
    if subprocess.run(command).returncode:
        raise SystemExit(
            f"the source distribution of transformers {VERSION} could not be fetched from the package index"
        )
    file = folder / f"transformers-{VERSION}.tar.gz"
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{file.name} has the SHA-256 {found}, not {SHA256}; nothing was unpacked")
    return file


def prepare() -> Path:
    """Unpack the tests unless that was done before; returns the folder for `sys.path`."""
    target = cache()
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / "suite"
        for name, text in STUBS.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        with tarfile.open(download(Path(folder))) as archive:
            for name in WANTED:
                member = archive.extractfile(f"transformers-{VERSION}/tests/{name}")
                assert member is not None, name
                (partial / "transformers_tests" / name).write_bytes(member.read())
        partial.rename(target)
    return target


if __name__ == "__main__":
    print(prepare())
