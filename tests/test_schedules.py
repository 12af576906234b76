"""Schedules: end points, slopes and frozen values."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_mim import schedules

GOLDEN = Path(__file__).parent / "golden" / "schedules.json"
MADE = "python tests/test_schedules.py; float64 rounded, arguments in the test"


def golden_values():
    rates = [schedules.warmup_cosine(step, peak=1e-3, total=10, warmup=2.5, floor=1e-5) for step in range(12)]
    decays = [schedules.ema_decay(step, start=0.99, end=1.0, total=5) for step in range(7)]
    return {"warmup_cosine": [round(rate, 15) for rate in rates], "ema_decay": [round(decay, 12) for decay in decays]}


def test_the_values_are_the_frozen_ones():
    frozen = json.loads(GOLDEN.read_text())
    assert golden_values().keys() == frozen.keys() - {"made"}
    for name, value in golden_values().items():
        np.testing.assert_allclose(value, frozen[name], rtol=1e-9)


def test_warmup_cosine():
    values = [schedules.warmup_cosine(step, peak=1.0, total=10, warmup=2, floor=0.1) for step in range(12)]
    assert values[:3] == [0.0, 0.5, 1.0]
    assert values[6] == pytest.approx(0.55)
    assert values[10] == pytest.approx(0.1)
    assert values[11] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="longer than the whole"):
        schedules.warmup_cosine(0, peak=1, total=1, warmup=2)


def test_ema_decay_ends_where_it_should():
    assert schedules.ema_decay(0, start=0.9, end=1.0, total=10) == pytest.approx(0.9)
    assert schedules.ema_decay(10, start=0.9, end=1.0, total=10) == 1.0


@settings(deadline=None)
@given(total=st.integers(1, 50), warmup=st.floats(0, 1), floor=st.floats(0, 1))
def test_it_rises_then_falls_between_its_bounds(total, warmup, floor):
    rates = [
        schedules.warmup_cosine(s, peak=1.0, total=total, warmup=warmup * total, floor=floor) for s in range(total)
    ]
    top = int(np.argmax(rates))
    assert all(a <= b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert min(rates) >= 0
    assert max(rates) <= 1


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"made": MADE, **golden_values()}, indent=1) + "\n")
