"""What a document tells to start in another terminal, and the lines that it prints there to paste."""

import subprocess
import sys


class Terminal:
    """The other terminal: what the tutorial starts there, and the lines that it prints to paste."""

    def __init__(self, place):
        self.place, self.process = place, None

    def start(self, words):
        assert words[:2] == ["hub-mim", "serve"]
        command = [sys.executable, "-m", "hub_mim", *words[1:], "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=self.place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        lines = "".join(self.process.stdout.readline() for _ in range(3))
        told = subprocess.run(["sh", "-c", lines + "env"], capture_output=True, text=True, check=True).stdout
        names = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_TOKEN")
        return {line.partition("=")[0]: line.partition("=")[2] for line in told.splitlines() if line.startswith(names)}

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
