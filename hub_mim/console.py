"""Print results to stdout as aligned columns or JSON, and progress to stderr.

Plain text on purpose: importing a table library would double the start-up time of `hub-mim ls`.
"""

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headers in aligned columns; the last column is cut to the terminal's width.

    Args:
        headers: one name per column.
        rows: cells, printed with `str`.
    """
    cells = [list(headers), *[[_text(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    room = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if len(line) <= room else line[: room - 1] + "…")


def print_json(value: object) -> None:
    """Print one JSON document to stdout, the only thing a `--json` command writes there."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


class CountLine:
    """One line of progress on stderr: how many of how many, and how long it takes.

    Rewritten in place on a terminal; elsewhere a line now and then.

    Args:
        what: is counted. start: where it begins. total: where it ends, None where nobody knows.
    """

    def __init__(self, what: str, start: int = 0, total: int | None = None):
        self.what, self.start, self.total = what, start, total
        self.began = self.told = time.monotonic()
        self.pause = 0.2 if sys.stderr.isatty() else 5.0

    def show(self, done: int) -> None:
        """Tell how far it is, unless that was told just now."""
        now = time.monotonic()
        if now - self.told < self.pause and done != self.total:
            return
        self.told = now
        speed = (done - self.start) / max(now - self.began, 1e-9)
        text = f"{done} {self.what}, {speed:.0f} a second"
        if self.total:
            text = f"{done} of {self.total} {self.what}, about {(self.total - done) / max(speed, 1e-9):.0f} s left"
        print(text.ljust(70), end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values one pair a line, names padded to one width, long values wrapped under themselves."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        lines = textwrap.wrap(_text(value), 100) or ["-"]
        print(f"{name.ljust(width)}  {lines[0]}")
        for line in lines[1:]:
            print(" " * (width + 2) + line)


def next_steps(*lines: str) -> None:
    """Print what a user is likely to type next, on stderr, so that stdout stays for results."""
    say("\nNext:")
    for line in lines:
        say(f"  {line}")


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


class Stopped(Exception):
    """A training was asked to stop, and did so after writing a checkpoint.

    Attributes:
        step: of the checkpoint.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}, as asked by SIGTERM; the same call goes on from there")
        self.step = step
