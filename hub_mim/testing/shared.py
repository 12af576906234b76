"""Find the datasets and fixtures that lie beside a checkout, or skip with the reason."""

import os
from pathlib import Path


def find_shared(relative: str) -> Path | None:
    """Return the path of a shared file, None where it is not there.

    Looked for at `$HUB_MIM_SHARED`, else at `../shared` beside the checkout that tests run in.
    """
    place = os.environ.get("HUB_MIM_SHARED")
    roots = [Path(place)] if place else [folder.parent / "shared" for folder in (Path.cwd(), *Path.cwd().parents)]
    return next((root / relative for root in roots if (root / relative).exists()), None)


def shared_path(relative: str) -> Path:
    """Return the path of a shared file, or skip the running test with the reason."""
    found = find_shared(relative)
    if found is None:
        import pytest

        pytest.skip(f"the shared data has no {relative} here; set HUB_MIM_SHARED to its folder")
    return found
