"""A Hub for tests: `with running_hub(folder) as hub`, then the real client against `hub.endpoint`."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hub_mim_localhub.hub import Hub, lock
from hub_mim_localhub.server import make_app


@dataclass(frozen=True)
class RunningHub:
    """A Hub that is being served by a thread of this process.

    Attributes:
        endpoint: its address. user, token: of the first user. hub: what is served.
    """

    endpoint: str
    user: str
    token: str
    hub: Hub

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which a new process finds this Hub."""
        offline = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token} | offline

    def api(self, token: str | bool | None = None) -> Any:
        """Return a client of the first user, or of whom the token says (False: nobody)."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token if token is None else token)


@contextmanager
def running_hub(root: str | Path, *, user: str = "me", read_only: bool = False) -> Iterator[RunningHub]:
    """Serve a folder while the block runs, on a free port of this machine."""
    import uvicorn

    with lock(root):
        hub = Hub(root, read_only=read_only)
        name = hub.first_user(user)
        server = uvicorn.Server(uvicorn.Config(make_app(hub), port=0, log_level="error", http="h11"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield RunningHub(f"http://127.0.0.1:{port}", name, hub.token_file.read_text().strip(), hub)
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def connected(hub: RunningHub, cache: str | Path, *, token: str | None = None) -> Iterator[RunningHub]:
    """Make this process's own client talk to a running Hub: what `HF_ENDPOINT` and its like do before Python starts.

    Args:
        hub: to talk to.
        cache: folder for what is downloaded.
        token: default the first user's; empty for none.
    """
    from huggingface_hub import constants, hf_api

    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    variables = {"HF_TOKEN": hub.token if token is None else token}
    with ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(patch.object(constants, name, value))
        stack.enter_context(patch.object(hf_api.api, "endpoint", hub.endpoint))
        if "transformers.utils.hub" in sys.modules:
            stack.enter_context(patch("transformers.utils.hub._hf_api", None))
        if "datasets" in sys.modules:
            stack.enter_context(patch("datasets.config.HF_ENDPOINT", hub.endpoint))
            stack.enter_context(patch("datasets.config.HF_HUB_OFFLINE", False))
            stack.enter_context(patch("datasets.config.HF_DATASETS_OFFLINE", False))
        stack.enter_context(patch.dict(os.environ, variables))
        yield hub
