"""Kills at random moments: every resumed run equals the unbroken one, bit for bit.

ESEG_JAX_KILLS says how many kills (40), half of them with one process and half with
two; ESEG_JAX_KILL_SEED (0) chooses the moments.
"""

import collections
import json
import os
import random
import time

import jax
import jobs
import numpy as np
import pytest

_KILLS = int(os.environ.get("ESEG_JAX_KILLS", "40"))
_SEED = os.environ.get("ESEG_JAX_KILL_SEED", "0")
_KILLS_A_RUN = 10
_STEPS, _EVAL_EVERY = 36, 6
_FLAGS = (
    f"--config.total_steps={_STEPS}",
    f"--config.eval_every={_EVAL_EVERY}",
    "--config.checkpoint_every=4",
    "--config.dataset.eval_images=60",
    "--config.optimizer.schedule=constant",  # the program of test_faults.py
)
_POLL = 0.01  # seconds


def _start(folder, processes, cache):
    port = jobs.free_port() if processes > 1 else None
    return [
        jobs.start(
            folder,
            *_FLAGS,
            cache=cache,
            fork=True,
            process=(i, processes),
            port=port,
        )
        for i in range(processes)
    ]


class _Moments:
    """Whether a run that has just been started again has come to a moment."""

    def __init__(self, folder, draw, seconds):
        """`seconds` is how long an unbroken run takes."""
        self.folder, self._since = folder, time.time()
        self._steps, self._delay = draw.randint(1, 9), draw.uniform(0, seconds)
        self._lines, self._size, self._resumed = [], -1, None

    def _last(self):
        """The last record that this start has written, None for none."""
        path = self.folder / "metrics.jsonl"
        if not path.exists() or path.stat().st_mtime < self._since:
            return None
        if path.stat().st_size != self._size:
            self._size = path.stat().st_size
            self._lines = jobs.records(self.folder)
        last = self._lines[-1] if self._lines else {"step": 0, "split": "train"}
        if self._resumed is None:
            self._resumed = last["step"]
        return last if last["step"] > self._resumed else None

    def anywhere(self):
        return time.time() - self._since > self._delay

    def train(self):
        last = self._last()
        return last and last["step"] >= self._resumed + self._steps

    def evaluate(self):
        last = self._last()
        return last and last["split"] == "train" and last["step"] % _EVAL_EVERY == 0

    def save(self):
        for path in (self.folder / "checkpoints").glob("*tmp*"):
            try:
                if path.stat().st_mtime > self._since:
                    return True
            except FileNotFoundError:
                pass  # it has just been finished
        return False


def _kill(job, moments, moment, draw):
    """Kills one or all processes of a job at a moment; None if it ended before that.

    Returns the seconds that the others took to stop.
    """
    deadline = time.monotonic() + 900
    while not getattr(moments, moment)():
        assert time.monotonic() < deadline, f"never reached: {moment}"
        if any(process.poll() is not None for process in job):
            break
        time.sleep(_POLL)
    time.sleep(draw.uniform(0, 5 * _POLL))
    victims = job if draw.random() < 0.5 else [draw.choice(job)]
    if any(process.poll() is not None for process in job):
        codes, logs = jobs.finish(*job, seconds=900)
        assert not any(codes), logs
        return None
    for process in victims:
        process.kill()
    start = time.monotonic()
    # Of one killed before it joined, the other waits for five minutes to come.
    codes, logs = jobs.finish(*job, seconds=400)
    over = jobs.last_step(moments.folder) == _STEPS
    assert all(codes) or over, f"nobody noticed: {codes}\n" + "\n----\n".join(logs)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_runs_equal_an_unbroken_one(
    tiny_config, tmp_path, mesh, cache, processes
):
    draw = random.Random(f"{_SEED} {processes}")
    whole = tmp_path / "whole"
    start = time.monotonic()
    codes, logs = jobs.finish(*_start(whole, processes, cache), seconds=900)
    assert not any(codes), logs
    seconds = 0.5 * (time.monotonic() - start)  # the others find all compiled
    tiny_config.total_steps = _STEPS
    tiny_config.optimizer.schedule = "constant"
    wanted, _ = jobs.restore(whole, tiny_config, mesh)

    def assert_whole(folder):
        found, _ = jobs.restore(folder, tiny_config, mesh)
        for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(x, y)
        metrics = [(run / "metrics.jsonl").read_bytes() for run in (folder, whole)]
        assert metrics[0] == metrics[1]

    left = (_KILLS + (processes == 1)) // 2
    counts, slowest, runs = collections.Counter(), 0.0, 0
    while left:
        folder = tmp_path / f"killed{runs}"
        for _ in range(min(left, _KILLS_A_RUN)):
            moment = draw.choice(["anywhere", "train", "save", "evaluate"])
            job = _start(folder, processes, cache)
            took = _kill(job, _Moments(folder, draw, seconds), moment, draw)
            if took is None:
                break  # the run is over
            left, counts[moment] = left - 1, counts[moment] + 1
            slowest = max(slowest, took)
            step = jobs.last_step(folder)
            print(f"{folder.name}: {moment} at step {step}, {left} left", flush=True)
        codes, logs = jobs.finish(*_start(folder, processes, cache), seconds=900)
        assert not any(codes), logs
        assert_whole(folder)
        print(f"{folder.name} equals the unbroken run", flush=True)
        runs += 1
    print(
        json.dumps(
            {
                "processes": processes,
                "kills": counts,
                "runs": runs,
                "slowest_to_stop": round(slowest, 1),
            }
        )
    )
