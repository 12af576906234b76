"""A running Hub for every test that asks for one, with this process's client connected to it."""

import pytest

from hub_mim_localhub.testing import connected, running_hub


@pytest.fixture
def hub(tmp_path):
    with running_hub(tmp_path / "hub") as running, connected(running, tmp_path / "cache"):
        yield running


@pytest.fixture
def api(hub):
    return hub.api()


@pytest.fixture
def other(hub):
    """The client of a second user."""
    file = hub.hub.root / "token-you"
    hub.hub.accounts.add("you", file)
    return hub.api(file.read_text().strip())
