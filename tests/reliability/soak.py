"""Pre-train, evaluate, push and pull in a loop, one method of each modality, and see that nothing piles up.

Each round is done by this process and a Hub beside it. Printed as JSON, by method: memory (MiB), open files, connections, threads
and temporary files after its second round, when everything is loaded and compiled, and after the last one.

    python tests/reliability/soak.py --minutes 10
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

METHODS = {
    "mae": ("image", "sample:mae"),
    "uniter": ("image and text", "sample:uniter"),
    "mwmae": ("audio", "sample:mwmae"),
    "bandana": ("graph", "sample:bandana"),
    "remasker": ("table", "sample:iris-gaps"),
}
WARM = 2  # rounds that are not counted


def held(temporary: Path) -> dict[str, float]:
    """Return what the process holds now, without memory that is free and that its allocator keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    open_files = [_target(each) for each in Path("/proc/self/fd").iterdir()]
    connections = sum(each.startswith("socket:") for each in open_files)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "MiB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "files": len(open_files) - connections,
        "connections": connections,  # those to a Hub are kept open for a while
        "threads": threading.active_count(),
        "temporary": len(list(temporary.iterdir())),
    }


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed by now
        return ""


def once(name: str, data: str, place: Path, hub: bool) -> None:
    """Go around once."""
    import hub_mim
    from hub_mim.data import load_rows
    from hub_mim.evaluation import evaluate

    out, rows = place / "out", load_rows(data)
    preset = "tiny" if name in ("mae", "remasker") else None
    hub_mim.pretrain(name, rows, out, preset=preset, steps=2, batch_size=4, arguments={"disable_tqdm": True})
    evaluate(out, rows)
    if hub:
        hub_mim.push(out, f"me/{name}")
        hub_mim.pull(f"me/{name}", place / "back")
        shutil.rmtree(place / "back")
    shutil.rmtree(out)


def soak(minutes: float) -> dict[str, dict[str, object]]:
    """Go around for so long, and at least three times; returns what was held, by method."""
    from faults import served

    from hub_mim import plugins

    known = plugins.methods()
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as root, served(Path(root)) as hub:
        temporary = Path(root) / "tmp"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        ends, turn = time.monotonic() + 60 * minutes, 0
        while turn <= WARM or time.monotonic() < ends:
            turn += 1
            for name, (modality, data) in METHODS.items():
                if name not in known:
                    continue
                once(name, data, Path(root), hub)
                if turn == WARM:
                    found[name] = {"modality": modality, "at first": held(temporary)}
                elif turn > WARM:
                    found[name] |= {"rounds": turn, "at last": held(temporary)}
        tempfile.tempdir = None
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    print(json.dumps(soak(parser.parse_args().minutes), indent=1))


if __name__ == "__main__":
    main()
