"""`hub-mim serve` as a user starts it."""

import os
import signal
import subprocess
import sys

import pytest
from huggingface_hub import HfApi, constants

SERVE = [sys.executable, "-m", "hub_mim", "serve"]


def start(*arguments):
    process = subprocess.Popen(
        [*SERVE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, [process.stdout.readline() for _ in range(3)]


def end(process):
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=20)
    return process.returncode, *told


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT")
def test_the_printed_lines_connect_a_client(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    root = tmp_path / "a hub"
    process, lines = start(root, "--port", 0, "--user", "ada")
    script = "".join(lines) + 'echo "$HF_ENDPOINT|$HF_HUB_DISABLE_XET|$HF_TOKEN"'
    endpoint, xet, token = (
        subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip().split("|")
    )
    assert xet == "1"
    assert HfApi(endpoint=endpoint, token=token).whoami()["name"] == "ada"
    again = subprocess.run([*SERVE, str(root)], capture_output=True, text=True)
    assert again.returncode == 1
    assert "is being served by another process" in again.stderr
    code, _, told = end(process)
    assert (code, "Traceback" in told) == (0, False)
    assert token not in told + "".join(lines)  # it is named by its file only
    assert "the user is ada" in told


def test_more_users(tmp_path):
    made = subprocess.run([*SERVE, str(tmp_path), "--add-user", "grace"], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == str(tmp_path / "token-grace")
    assert (tmp_path / "token-grace").read_text().startswith("hf_")
    wrong = subprocess.run([*SERVE, str(tmp_path), "--add-user", "a/b"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "'a/b' is no name" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_taken_port_is_one_sentence(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = subprocess.run(
            [*SERVE, str(tmp_path), "--port", str(taken.getsockname()[1])], capture_output=True, text=True
        )
    assert told.returncode == 1
    assert "in use" in told.stderr
    assert "Traceback" not in told.stderr
