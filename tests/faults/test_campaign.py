"""Kills at random moments: every resumed run equals the unbroken one, bit for bit.

ESEG_JAX_KILLS says how many kills (40), half of them with one process and half with
two; ESEG_JAX_KILL_SEED (0) chooses the moments.
"""

import collections
import os
import random
import time

import jax
import jobs
import numpy as np
import pytest

_KILLS = int(os.environ.get("ESEG_JAX_KILLS", "40"))
_SEED = os.environ.get("ESEG_JAX_KILL_SEED", "0")
_KILLS_A_RUN = 5
_STEPS, _EVAL_EVERY = 24, 6
_FLAGS = (
    f"--config.total_steps={_STEPS}",
    f"--config.eval_every={_EVAL_EVERY}",
    "--config.checkpoint_every=4",
    "--config.dataset.eval_images=60",
)
_LOST_SECONDS = 60.0  # within which the others notice that a process is gone


def _start(folder, processes, cache):
    port = jobs.free_port()
    return [
        jobs.start(
            folder,
            *_FLAGS,
            cache=cache,
            **({"process": (i, processes), "port": port} if processes > 1 else {}),
        )
        for i in range(processes)
    ]


class _Moments:
    """What a folder looks like at a moment after `since`, of a run that resumed."""

    def __init__(self, folder, draw):
        self.folder, self._since, self._draw = folder, time.time(), draw
        self._steps, self._delay = draw.randint(1, 9), draw.uniform(0, 12)
        self._resumed = None

    def _moved(self):
        """Whether this start has truncated or written metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        moved = path.exists() and path.stat().st_mtime > self._since
        if moved and self._resumed is None:
            self._resumed = jobs.last_step(self.folder)
        return moved

    def anywhere(self):
        return time.time() - self._since > self._delay

    def train(self):
        step = jobs.last_step(self.folder) if self._moved() else 0
        return step > 0 and step >= self._resumed + self._steps

    def save(self):
        for path in (self.folder / "checkpoints").glob("*tmp*"):
            try:
                if path.stat().st_mtime > self._since:
                    return True
            except FileNotFoundError:
                pass  # it has just been finished
        return False

    def evaluate(self):
        if not self._moved():
            return False
        lines = jobs.records(self.folder)
        return (
            bool(lines)
            and lines[-1]["split"] == "train"
            and lines[-1]["step"] % _EVAL_EVERY == 0
            and lines[-1]["step"] > self._resumed
        )


def _kill(job, moments, moment, draw):
    """Kills one or all processes of a job at a moment; None if it ended before that.

    Returns the seconds that the others took to stop.
    """
    deadline = time.monotonic() + 600
    while not getattr(moments, moment)():
        assert time.monotonic() < deadline, f"never reached: {moment}"
        if any(process.poll() is not None for process in job):
            break
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.05))
    victims = job if draw.random() < 0.5 else [draw.choice(job)]
    if any(process.poll() is not None for process in job):
        codes, logs = jobs.finish(*job, seconds=600)
        assert not any(codes), logs
        return None
    for process in victims:
        process.kill()
    start = time.monotonic()
    codes, logs = jobs.finish(*job, seconds=_LOST_SECONDS)
    over = jobs.last_step(moments.folder) == _STEPS
    assert all(codes) or over, f"nobody noticed: {codes}\n" + "\n----\n".join(logs)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_runs_equal_an_unbroken_one(tiny_config, tmp_path, mesh, processes):
    draw = random.Random(f"{_SEED} {processes}")
    cache, whole = tmp_path / "cache", tmp_path / "whole"
    codes, logs = jobs.finish(*_start(whole, processes, cache), seconds=900)
    assert not any(codes), logs
    tiny_config.total_steps = _STEPS
    wanted, _ = jobs.restore(whole, tiny_config, mesh)

    left = (_KILLS + (processes == 1)) // 2
    counts, slowest, runs = collections.Counter(), 0.0, 0
    while left:
        folder = tmp_path / f"killed{runs}"
        for _ in range(min(left, _KILLS_A_RUN)):
            moment = draw.choice(["anywhere", "train", "save", "evaluate"])
            job = _start(folder, processes, cache)
            seconds = _kill(job, _Moments(folder, draw), moment, draw)
            if seconds is None:
                break  # the run is over
            left, counts[moment] = left - 1, counts[moment] + 1
            slowest = max(slowest, seconds)
            print(f"{folder.name}: killed at {moment}, {left} left", flush=True)
        codes, logs = jobs.finish(*_start(folder, processes, cache), seconds=900)
        assert not any(codes), logs
        found, _ = jobs.restore(folder, tiny_config, mesh)
        for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(x, y)
        assert (folder / "metrics.jsonl").read_bytes() == (
            whole / "metrics.jsonl"
        ).read_bytes()
        runs += 1
    print(
        f"{processes} process(es): {sum(counts.values())} kills {dict(counts)} over "
        f"{runs} runs, each equal to the unbroken one; others stopped after at most "
        f"{slowest:.0f} s"
    )
