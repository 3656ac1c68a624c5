"""Wall time is counted once, whatever happens in a block."""

import time

import pytest

from eseg_jax.report.stopwatch import Lap, Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until told: `clock.now += seconds`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def test_section_ends_when_its_block_raises(clock):
    stopwatch = Stopwatch()
    with pytest.raises(KeyError), stopwatch.section("step"):
        clock.now += 1
        raise KeyError
    clock.now += 2
    spent = stopwatch.read()
    assert (spent["step"], spent["other"]) == (1.0, 2.0)


def test_a_lap_counts_the_images_since_the_last_one(clock):
    stopwatch = Stopwatch()
    lap = Lap(stopwatch, step=10, batch_size=4)
    with stopwatch.section("checkpoint"):
        clock.now += 8
    with stopwatch.section("step"):
        clock.now += 2
    split, images, rate = lap(12)
    assert (split["checkpoint"], split["step"]) == (8.0, 2.0)
    assert (images, rate) == (8, 4.0)
    assert lap(12) == (dict.fromkeys(split, 0.0), 0, None)
