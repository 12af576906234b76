"""Count what the reliability tests try: with `HUB_MIM_RECORD=FILE` every count is added to it as a line of JSON.

`scripts/reliability_table.py` makes the table of `docs/reliability.md` of such a file.
"""

import json
import os
from contextlib import contextmanager


@contextmanager
def counted(kind, what):
    """Give a function that says how many were tried; lost is 0 unless the block ends with an error."""
    tried = [0]

    def count(number, **facts):
        tried[0] = number
        tried[1:] = [facts]

    lost = 1
    try:
        yield count
        lost = 0
    finally:
        if file := os.environ.get("HUB_MIM_RECORD"):
            facts = tried[1] if len(tried) > 1 else {}
            line = {"kind": kind, "what": what, "tried": tried[0], "lost": lost, **facts}
            with open(file, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
