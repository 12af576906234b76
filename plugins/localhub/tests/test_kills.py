"""A commit survives SIGKILL at any point: nothing that was acknowledged is lost, nothing is half-visible.

A real server is killed at a chosen write while the real client pushes; then the Hub is opened again and looked at.
`python -m pytest plugins/localhub/tests/test_kills.py -s` prints the table.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from hub_mim_localhub.history import MAIN
from hub_mim_localhub.hub import Hub, lock

DYING = Path(__file__).parent / "dying.py"


@pytest.fixture(autouse=True)
def plain_client(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # nobody will come back


class Server:
    """A server process that kills itself after so many writes (0: never)."""

    def __init__(self, root, count):
        self.process = subprocess.Popen(
            [sys.executable, DYING, str(root), str(count or -1)], stdout=subprocess.PIPE, text=True
        )
        port = self.process.stdout.readline()
        self.api = HfApi(endpoint=f"http://127.0.0.1:{int(port)}", token=(root / "token").read_text().strip())

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def push(api, number):
    """Push two files that belong together: a small and a large one, of one number."""
    small, large = b"%d" % number, b"%d" % number + random.Random(number).randbytes(1_200_000)
    operations = [CommitOperationAdd("small.txt", small), CommitOperationAdd("large.bin", large)]
    return api.create_commit("me/x", operations, commit_message=str(number)).oid


def look(root):
    """Return (head, number of the last commit, faults) of a Hub that nobody serves."""
    with lock(root, seconds=10):
        hub = Hub(root)
        hub.tidy()
        repository = hub.repositories.find("model", "me/x", "me")
        faults, number = [], 0
        commits, _ = hub.history.commits(repository, hub.history.refs(repository)[MAIN], 0, 10_000)
        for commit in commits:
            files = hub.history.files(repository, commit["oid"])
            contents = {}
            for path, file in files.items():
                contents[path] = hub.objects.path(file.sha256).read_bytes()
                if hashlib.sha256(contents[path]).hexdigest() != file.sha256:
                    faults.append(f"{path} of {commit['title']} is damaged")
            if files and not contents["large.bin"].startswith(contents["small.txt"]):
                faults.append(f"{commit['title']} is a mixture")
            if files and contents["small.txt"].decode() != commit["title"]:
                faults.append(f"{commit['title']} holds another commit's files")
        if commits[0]["title"].isdecimal():
            number = int(commits[0]["title"])
        faults += [f"{path.name} was left behind" for path in hub.objects.incoming.iterdir()]
        return commits[0]["oid"], number, faults


def kill_at_each_write(root, kills, report):
    """Push to servers that die at their 1st, 2nd, ... write, from the 1st again after the last; count what became of it."""
    server = Server(root, 0)
    server.api.create_repo("me/x")
    server.end()
    outcomes = {"before it counted": 0, "after it counted": 0}
    number, point, done, writes = 0, 0, 0, 0
    while done < kills:
        point, number = point + 1, number + 1
        server = Server(root, point)
        try:
            acknowledged = push(server.api, number)
            died = False
        except (httpx2.HTTPError, HfHubHTTPError, RuntimeError):
            server.process.wait(10)
            died = True
        finally:
            server.end()
        head, last, faults = look(root)
        assert faults == [], f"after a kill at write {point}: {faults}"
        assert last in (number, number - 1), f"after a kill at write {point} the last commit is {last}"
        if died:
            outcomes["after it counted" if last == number else "before it counted"] += 1
            done += 1
        else:  # the push ended first: it must be there, and the next server dies early again
            assert head == acknowledged
            writes, point = point - 1, 0
        number = last
    report(f"\n{done} kills at {writes or point} points of a push: {outcomes}, 0 lost, 0 half-visible")
    return outcomes


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_kills_at_each_write_of_a_push(tmp_path):
    outcomes = kill_at_each_write(tmp_path, 28, print)
    assert min(outcomes.values()) > 0


@pytest.mark.nightly
def test_a_hundred_kills(tmp_path):
    kill_at_each_write(tmp_path, 100, print)


def test_the_harness_sees_a_fault(tmp_path):
    """A damaged file turns it red: the check is not blind."""
    server = Server(tmp_path, 0)
    server.api.create_repo("me/x")
    push(server.api, 1)
    server.end()
    victim = max((tmp_path / "objects").glob("*/*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    assert look(tmp_path)[2] == ["large.bin of 1 is damaged"]
