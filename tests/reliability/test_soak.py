"""Nothing piles up in a process that works for long: see `soak.py`, which can be run by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from record import counted

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


@pytest.mark.nightly
def test_ten_minutes_leave_nothing_behind():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(soak.__file__)), "--minutes", "10"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    for name, facts in json.loads(told.stdout[told.stdout.index("{\n") :]).items():
        with counted("soak", f"rounds of {name}") as count:
            first, last = facts["at first"], facts["at last"]
            memory = f"{first['MiB']} MiB after round {soak.WARM}, {last['MiB']} after the last"
            count(facts["rounds"], note=f"{memory}; {last['files']} open files, {last['threads']} threads")
            assert facts["rounds"] > soak.WARM
            flat = ("files", "threads", "temporary")
            assert [last[key] for key in flat] == [first[key] for key in flat]
            assert last["connections"] <= first["connections"] + 4
            assert last["MiB"] < first["MiB"] + 1.5 * facts["rounds"]  # a round is one of each method
