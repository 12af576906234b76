"""CPU seconds to start: `hub-mim --help`, `hub-mim ls`, also with 200 more plugins; `import hub_mim` after AutoModel.

Interleaved, the minimum of several runs, user and system time of the finished process; prints one JSON document.
    python scripts/bench_startup.py --runs 9
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = """
from hub_mim import Method, hookimpl

@hookimpl
def hub_mim_methods():
    return [Method(name="dummy{i}", title="a dummy", paper="none", licence="mit", modalities=("none",),
                   config="dummy{i}_plugin:Config", example="dummy{i}_plugin:example",
                   auto={{"AutoModel": "dummy{i}_plugin:Model"}})]
"""


def make_plugins(folder: Path, number: int) -> None:
    """Write distributions with one plugin each."""
    for i in range(number):
        (folder / f"dummy{i}_plugin.py").write_text(PLUGIN.format(i=i))
        facts = folder / f"dummy{i}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dummy{i}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[hub_mim]\ndummy{i} = dummy{i}_plugin\n")


def cpu_seconds(command: list[str], path: str = "") -> float:
    """Run a command and return its user and system time."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def import_milliseconds() -> float:
    """Return the CPU time that `import hub_mim` takes in a process that has imported AutoModel."""
    code = (
        "import time; from transformers import AutoModel; AutoModel; started = time.process_time(); import hub_mim; "
        "print(1000 * (time.process_time() - started))"
    )
    return round(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout), 1)


def imports_torch(arguments: list[str]) -> bool:
    """Tell whether a command of hub-mim imports torch."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hub_mim", *arguments], capture_output=True, text=True
    )
    return any(line.endswith(" torch") for line in told.stderr.splitlines())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: compiled once
    hub = str(Path(sys.executable).with_name("hub-mim"))
    with tempfile.TemporaryDirectory() as folder:
        make_plugins(Path(folder), 200)
        commands = {
            "python": ([sys.executable, "-c", "pass"], ""),
            "help": ([hub, "--help"], ""),
            "ls": ([hub, "ls"], ""),
            "help, 200 plugins": ([hub, "--help"], folder),
            "ls, 200 plugins": ([hub, "ls"], folder),
        }
        runs: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs + 1):  # the first run warms the file cache
            for name, (command, path) in commands.items():
                runs[name].append(cpu_seconds(command, path))
    best = {name: round(min(values[1:]), 3) for name, values in runs.items()}
    added = min(import_milliseconds() for _ in range(options.runs))
    torch = {name: imports_torch([name]) for name in ("--help", "ls")}
    print(
        json.dumps(
            {"cpu_seconds": best, "hub_mim_adds_ms": added, "imports_torch": torch, "runs": options.runs}, indent=2
        )
    )


if __name__ == "__main__":
    main()
