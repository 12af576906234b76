"""Nothing piles up in a process that works for long: see `soak.py`, which can be run by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


@pytest.mark.nightly
def test_ten_minutes_leave_nothing_behind():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(soak.__file__)), "--minutes", "10"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    for name, facts in json.loads(told.stdout[told.stdout.index("{\n") :]).items():
        first, last = facts["at first"], facts["at last"]
        assert facts["rounds"] > soak.WARM, name
        assert {key: last[key] for key in first if key != "MiB"} == {
            key: first[key] for key in first if key != "MiB"
        }, name
        assert last["MiB"] < first["MiB"] + 5 * facts["rounds"], name  # caches of compiled kernels grow a little
