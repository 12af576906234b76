"""Serve a Hub that kills itself at the Nth write: `python dying.py ROOT N`. What counts as a write is listed below.

Every flush, rename, change of the database and start or end of a transaction is a point at which a machine can fail.
"""

import os
import signal
import sqlite3
import sys
from pathlib import Path

from hub_mim_localhub.hub import Hub, lock
from hub_mim_localhub.server import make_app

WORDS = ("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "COMMIT")


class Countdown:
    """Kill this process when it reaches its end; a negative one never does."""

    def __init__(self, left):
        self.left = left

    def step(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function):
        def counted(*arguments, **options):
            self.step()
            result = function(*arguments, **options)
            self.step()
            return result

        return counted


def arm(count):
    """Count from now on."""
    countdown = Countdown(count)

    class Connection(sqlite3.Connection):
        def execute(self, statement, *values):
            if not statement.lstrip().startswith(WORDS):
                return super().execute(statement, *values)
            return countdown.around(super().execute)(statement, *values)

        def executemany(self, *values):
            return countdown.around(super().executemany)(*values)

    connect = sqlite3.connect
    sqlite3.connect = lambda *values, **options: connect(*values, factory=Connection, **options)
    os.fsync, os.replace = countdown.around(os.fsync), countdown.around(os.replace)


def main():
    """Serve; the port is printed when all is ready."""
    import uvicorn

    root, count = Path(sys.argv[1]), int(sys.argv[2])
    with lock(root, seconds=10):
        hub = Hub(root)
        hub.first_user("me")
        hub.tidy()
        arm(count)
        server = uvicorn.Server(uvicorn.Config(make_app(hub), port=0, log_level="critical", http="h11"))
        start = server.startup

        async def startup(sockets=None):
            await start(sockets)
            print(server.servers[0].sockets[0].getsockname()[1], flush=True)

        server.startup = startup
        server.run()


if __name__ == "__main__":
    main()
